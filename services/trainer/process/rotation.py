"""Turning an encoder's space so that the first numbers of a vector carry the most.

The axes become the principal components of the collection's vectors. A rotation changes no scalar product
and no length, so at full size every score stays what it was; a head of the vector is the best one of its size in
the sense of least squares (Eckart and Young, 1936).
"""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from diapason.vectors import Matrix


def rotate(model: SentenceTransformer, documents: Matrix) -> Matrix:
    """Fold the rotation into the model, as an orthogonal layer; returns the documents' vectors (rows), rotated."""
    size = documents.shape[1]
    # Not centred: what is compared are the vectors themselves, not their distances from a mean.
    second_moment = documents.astype(np.float64).T @ documents
    _, axes = np.linalg.eigh(second_moment)
    turn = np.ascontiguousarray(axes[:, ::-1].T)  # rows: axes, the strongest first
    layer = Dense(
        size, size, bias=False, activation_function=torch.nn.Identity(), init_weight=torch.tensor(turn).float()
    )
    modules = list(model)
    place = len(modules) - isinstance(modules[-1], Normalize)
    model.insert(place, layer)
    rotated: Matrix = (documents @ turn.T).astype(np.float32)
    return rotated

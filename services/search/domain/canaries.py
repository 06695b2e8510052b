"""Trying an index before it serves: whether its vectors are its version's, and it finds what is nearest."""

from collections.abc import Sequence

import numpy as np

from diapason.vectors import Matrix
from services.kit.errors import FailedPrecondition
from services.search.domain.model import Hit

# Documents that are sampled, each embedded again and used as a query.
DOCUMENTS = 16
DEPTH = 10
# Compression of stored vectors and other batches change a vector by less, another version by far more.
MIN_SIMILARITY = 0.98
# Of what comparing every vector finds, on average.
MIN_RECALL = 0.9
_SAME_SCORE = 1e-4


def check_vectors(index_id: str, stored: Matrix, fresh: Matrix) -> None:
    """Raise ``FailedPrecondition`` unless each stored vector (rows) is its text's, embedded just now."""
    norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(fresh, axis=1)
    similarities = (stored * fresh).sum(axis=1) / np.maximum(norms, 1e-12)
    worst = float(similarities.min())
    if not worst >= MIN_SIMILARITY:  # also where it is not a number
        raise FailedPrecondition(
            "CANARY_FAILED",
            index_id,
            f"a stored vector has a similarity of {worst:.3f} to its text embedded again, {MIN_SIMILARITY} is needed: "
            "the index holds vectors of another version; cancel the reindex and start a new one",
        )


def recall(found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """The mean part of the exact answers that was found; of equal scores any will do. 0 to 1."""
    parts = []
    for given, wanted in zip(found, exact, strict=True):
        if wanted:
            bound = wanted[-1].score - _SAME_SCORE
            parts.append(min(1.0, sum(hit.score >= bound for hit in given) / len(wanted)))
    return float(np.mean(parts)) if parts else 1.0


def check_recall(index_id: str, found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> None:
    """Raise ``FailedPrecondition`` unless the index finds nearly what comparing every vector finds."""
    reached = recall(found, exact)
    if reached < MIN_RECALL:
        raise FailedPrecondition(
            "CANARY_FAILED",
            index_id,
            f"canary queries find {reached:.2f} of what comparing every vector finds, {MIN_RECALL} is needed; "
            "cancel the reindex and start a new one, with another quantization if there is one",
        )

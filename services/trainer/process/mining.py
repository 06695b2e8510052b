"""Hard negatives: documents that look relevant to the model but were not judged so.

Those that look about as relevant as a document known to be are left out, since many of them are: nobody has
looked at them. The bound relative to the relevant document's score is that of Moreira et al., NV-Retriever, 2024
(arXiv:2407.15831), who found 95 % best.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from diapason.vectors import Matrix
from services.trainer.domain.data import Judged

MARGIN = 0.95
_DEPTH, _FEWEST = 100, 16


def mine(
    judged: Sequence[Judged], queries: Matrix, ids: Sequence[str], documents: Matrix, margin: float = MARGIN
) -> Mapping[str, list[str]]:
    """For each query 16 to 100 documents, if there are so many, hardest first; never one that was judged for it.

    ``queries`` (judged × dimension) and ``documents`` (ids × dimension) are of unit length.
    """
    place = {name: i for i, name in enumerate(ids)}
    found = {}
    for one, vector in zip(judged, queries, strict=True):
        scores = documents @ vector
        relevant = [scores[place[name]] for name in one.relevant if name in place]
        bound = margin * min(relevant) if relevant and min(relevant) > 0 else np.inf
        said = {place[name] for name in one.targets if name in place}
        order = np.argsort(-scores, kind="stable")
        others = [i for i in order if i not in said]
        near = [i for i in others if scores[i] < bound][:_DEPTH]
        # Where all look alike the bound leaves few or none: the farthest are the least likely to be relevant.
        far = [i for i in reversed(others) if scores[i] >= bound][: _FEWEST - len(near)] if len(near) < _FEWEST else []
        found[one.query] = [ids[i] for i in (*near, *far)]
    return found

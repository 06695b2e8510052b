"""Scoring vectors on judged queries, against a whole corpus or a part of it, exactly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diapason import vectors
from services.trainer.domain.metrics import DEPTH, METRICS

# Queries compared with all documents at once, and what they take for each of them: two floats and the order.
_TOGETHER = 64
RANKING_BYTES = _TOGETHER * 16

# {dimensions: {metric: one score per query}}
Scores = dict[int, dict[str, list[float]]]
Queries = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Space:
    """Queries and documents (rows, of unit length) as one model sees them; ``ids`` are the documents'."""

    queries: vectors.Matrix
    documents: vectors.Matrix
    ids: Sequence[str]

    def ranked(self, size: int) -> list[list[str]]:
        """For each query the ids of the nearest documents at a size, best first."""
        queries, documents = vectors.truncated(self.queries, size), vectors.truncated(self.documents, size)
        found = []
        for start in range(0, len(queries), _TOGETHER):
            similarity = queries[start : start + _TOGETHER] @ documents.T
            best = np.argsort(-similarity, axis=1, kind="stable")[:, :DEPTH]
            found += [[self.ids[column] for column in row] for row in best]
        return found


def scores(asked: Queries, ranked: Callable[[int], list[list[str]]], sizes: Sequence[int]) -> Scores:
    """Every metric at every size, for queries with their relevant documents and gains, in order."""
    found: Scores = {}
    for size in sizes:
        lists = ranked(size)
        found[size] = {
            name: [metric(row, relevant) for row, relevant in zip(lists, asked.values(), strict=True)]
            for name, metric in METRICS.items()
        }
    return found

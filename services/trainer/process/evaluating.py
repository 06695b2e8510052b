"""Scoring vectors on judged queries, against a whole corpus or a part of it, exactly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diapason import vectors
from services.trainer.domain.metrics import DEPTH, METRICS

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
        if not len(self.queries):
            return []
        similarity = vectors.truncated(self.queries, size) @ vectors.truncated(self.documents, size).T
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :DEPTH]
        return [[self.ids[column] for column in row] for row in best]


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

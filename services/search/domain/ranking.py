"""From what the engine found to what is shown."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diapason.blending import blended
from diapason.vectors import Matrix
from services.search.domain.model import Hit


@dataclass(frozen=True)
class Parts:
    """How a score came about; None for what played no part. Ranks from 1."""

    dense: float | None = None
    dense_rank: int | None = None
    bm25: float | None = None
    bm25_rank: int | None = None
    fused: float | None = None
    rerank: float | None = None
    first_stage_rank: int | None = None


def by_document(hits: Iterable[Hit], without: Collection[str] = ()) -> list[Hit]:
    """Each document once, by its best passage; best first, equal ones by id. ``hits`` are best first."""
    best: dict[str, Hit] = {}
    for hit in hits:
        if hit.document_id not in without:
            best.setdefault(hit.document_id, hit)
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.document_id))


def tied(hits: Sequence[Hit], place: int) -> bool:
    """Whether the hits on both sides of a place are equally good, so that the engine may have cut between others."""
    return 0 < place < len(hits) and hits[place - 1].score == hits[place].score


def example_vector(query: Matrix | None, like: Sequence[Matrix], unlike: Sequence[Matrix]) -> Matrix:
    """One vector for a query (1 × size, or None) with examples (each size): 1 × size.

    The mean of what is wanted, moved away from the mean of what is not by their difference (as
    Qdrant's recommendation by the average vector does).
    """
    wanted = np.mean([*([] if query is None else [query[0]]), *like], axis=0)
    if unlike:
        wanted = 2 * wanted - np.mean(unlike, axis=0)
    vector: Matrix = wanted.astype(np.float32)[None]
    return vector


def reordered(hits: Sequence[Hit], scores: Sequence[float], share: float) -> list[tuple[Hit, float, float]]:
    """The hits with their final and their reranker's ``scores``, best first; equal ones keep their order.

    ``share`` of the order stays the hits' own.
    """
    final = blended([hit.score for hit in hits], scores, share)
    return sorted(zip(hits, final, scores, strict=True), key=lambda each: -each[1])


def places(hits: Sequence[Hit]) -> Mapping[str, tuple[float, int]]:
    """Score and rank of each document in a list."""
    return {hit.document_id: (hit.score, rank) for rank, hit in enumerate(by_document(hits), 1)}

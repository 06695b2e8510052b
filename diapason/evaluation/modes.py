"""The ways in which a collection can be searched, and the requests that ask for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.duration_pb2 import Duration

from diapason.evaluation.metrics import DEPTH
from diapason.search.v1.search_pb2 import (
    FUSION_DISTRIBUTION_BASED,
    FUSION_RECIPROCAL_RANK,
    FUSION_WORDS_ONLY,
    Fusion,
    Hybrid,
    Rerank,
    SearchRequest,
)

_RERANK_BUDGET = Duration(seconds=60)


class Mode(StrEnum):
    """A way to search."""

    DENSE = "dense"
    EXACT = "exact"
    HYBRID = "hybrid"
    HYBRID_RRF = "hybrid-rrf"
    WORDS = "words"
    RERANKED = "reranked"
    HYBRID_RERANKED = "hybrid-reranked"


MEANING = {
    Mode.DENSE: "by meaning, with the index",
    Mode.EXACT: "by meaning, every vector compared",
    Mode.HYBRID: "by meaning and words, fused by the distribution of scores",
    Mode.HYBRID_RRF: "by meaning and words, fused by reciprocal ranks",
    Mode.WORDS: "by words alone (BM25)",
    Mode.RERANKED: "dense, then the route's reranker",
    Mode.HYBRID_RERANKED: "hybrid, then the route's reranker",
}

_FUSIONS: dict[Mode, Fusion.ValueType] = {
    Mode.HYBRID: FUSION_DISTRIBUTION_BASED,
    Mode.HYBRID_RRF: FUSION_RECIPROCAL_RANK,
    Mode.WORDS: FUSION_WORDS_ONLY,
    Mode.HYBRID_RERANKED: FUSION_DISTRIBUTION_BASED,
}
_RERANKED = (Mode.RERANKED, Mode.HYBRID_RERANKED)


@dataclass(frozen=True)
class Way:
    """A mode at a size. ``dimensions`` is 0 where no vector is compared."""

    mode: Mode
    dimensions: int

    def __str__(self) -> str:
        """For people."""
        return f"{self.mode} at {self.dimensions} dimensions" if self.dimensions else str(self.mode)


def needs_words(mode: Mode) -> bool:
    """Whether the collection must have BM25."""
    return mode in _FUSIONS


def needs_reranker(mode: Mode) -> bool:
    """Whether the collection's route must have a reranker."""
    return mode in _RERANKED


def ways(modes: Sequence[Mode], sizes: Sequence[int]) -> list[Way]:
    """Each mode at each size, the greatest first.

    Words have no size, and reranking is measured at the greatest size only: it costs most, and hides the size.
    """
    ordered = sorted(set(sizes), reverse=True)
    found: list[Way] = []
    for mode in dict.fromkeys(modes):
        if mode is Mode.WORDS:
            found.append(Way(mode, 0))
        else:
            found += [Way(mode, size) for size in (ordered[:1] if needs_reranker(mode) else ordered)]
    return found


def request(way: Way, full: int, collection: str, query: str) -> SearchRequest:
    """A search for the best 100. ``full`` is the encoder's own size."""
    fusion = _FUSIONS.get(way.mode)
    return SearchRequest(
        collection=collection,
        query=query,
        limit=DEPTH,
        dimensions=0 if way.dimensions == full else way.dimensions,
        unrecorded=True,
        exact=way.mode is Mode.EXACT,
        hybrid=None if fusion is None else Hybrid(fusion=fusion),
        rerank=Rerank(candidates=DEPTH, budget=_RERANK_BUDGET) if needs_reranker(way.mode) else None,
    )

"""Where the engine's own fusion of two lists is not enough.

Qdrant takes every score for "higher is nearer" when it fuses lists by their distributions, so that
with the Euclidean distance the farthest come first (qdrant/qdrant issue 10611): then the engine is
asked for the two lists, and they are fused here. Reciprocal ranks are equal often, and the engine
gives equal ones in any order: then it is asked for all of them, so that they have one order.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, stdev

from services.search.adapters import points as layout
from services.search.domain.model import Distance, Hit
from services.search.ports import Fusion, Query


def lists(query: Query, distance: Distance) -> list[Query]:
    """What to ask the engine: the query itself, all that it fuses, or its two parts where it can't fuse them."""
    if query.vector is None or query.words is None:
        return [query]
    if query.fusion is Fusion.RECIPROCAL_RANK:
        return [replace(query, limit=2 * layout.CANDIDATES)]
    if distance is not Distance.EUCLID:
        return [query]
    alone = replace(query, limit=layout.CANDIDATES, threshold=None)
    return [replace(alone, words=None), replace(alone, vector=None)]


def fused(query: Query, asked: Sequence[Query], found: Sequence[Sequence[Hit]]) -> list[Hit]:
    """The answer from the answers to ``lists``."""
    if asked[0] is query:
        return list(found[0])
    if len(found) == 1:
        return _page(query, found[0])
    best: dict[tuple[str, int], Hit] = {}
    for hits in found:
        for hit, share in zip(hits, _shares([hit.score for hit in hits]), strict=True):
            known = best.get((hit.document_id, hit.passage))
            best[hit.document_id, hit.passage] = replace(hit, score=share + (known.score if known else 0.0))
    passed = [hit for hit in best.values() if query.threshold is None or hit.score >= query.threshold]
    return _page(query, passed)


def _page(query: Query, hits: Sequence[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.document_id, hit.passage))[: query.limit]


def _shares(scores: Sequence[float]) -> list[float]:
    """Where each score lies between three standard deviations below the mean (0) and above it (1)."""
    spread = stdev(scores) if len(scores) > 1 else 0.0
    if not spread:
        return [0.5] * len(scores)
    middle = mean(scores)
    return [0.5 + (score - middle) / (6 * spread) for score in scores]

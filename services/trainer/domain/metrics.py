"""Ranking metrics for one query.

``ranked`` is document ids, best first; ``relevant`` maps ids to gains above zero. Definitions as
in trec_eval: linear gains, discount log2(rank + 1), the ideal ranking cut at the same depth.
"""

import math
from collections.abc import Callable, Mapping, Sequence

Relevant = Mapping[str, float]


def ndcg(ranked: Sequence[str], relevant: Relevant, depth: int) -> float:
    """Normalised discounted cumulative gain."""
    gained = sum(relevant.get(d, 0.0) / math.log2(rank + 1) for rank, d in enumerate(ranked[:depth], 1))
    best = sorted(relevant.values(), reverse=True)[:depth]
    ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, 1))
    return gained / ideal if ideal else 0.0


def mrr(ranked: Sequence[str], relevant: Relevant, depth: int) -> float:
    """One over the rank of the first relevant document; zero beyond ``depth``."""
    return next((1 / rank for rank, d in enumerate(ranked[:depth], 1) if d in relevant), 0.0)


def recall(ranked: Sequence[str], relevant: Relevant, depth: int) -> float:
    """Share of the relevant documents within ``depth``."""
    return len(set(ranked[:depth]) & set(relevant)) / len(relevant) if relevant else 0.0


METRICS: dict[str, Callable[[Sequence[str], Relevant], float]] = {
    "ndcg@10": lambda ranked, relevant: ndcg(ranked, relevant, 10),
    "mrr@10": lambda ranked, relevant: mrr(ranked, relevant, 10),
    "recall@5": lambda ranked, relevant: recall(ranked, relevant, 5),
}
DEPTH = 10

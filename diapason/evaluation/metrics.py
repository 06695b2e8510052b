"""Ranking metrics for one query, as BEIR reports them.

``ranked`` is document ids, best first. ``grades`` maps the ids of judged documents to their grades; a document
without a judgment counts as not relevant, and so does one with a grade of zero or less. A query none of whose
judged documents is relevant scores zero.

BEIR: Thakur et al., 2021, https://arxiv.org/abs/2104.08663. It computes nDCG and Recall with trec_eval
(https://github.com/usnistgov/trec_eval, measures ndcg_cut and recall).
"""

import math
from collections.abc import Callable, Mapping, Sequence

Grades = Mapping[str, float]
DEPTH = 100


def by_score(scores: Mapping[str, float]) -> list[str]:
    """Document ids, the highest score first; of equal scores the greater id first.

    trec_eval orders what it is given like that, whatever order it came in, so ranks do not depend on how an engine
    breaks ties.
    """
    # Compared as bytes, as strcmp does.
    return sorted(scores, key=lambda name: (scores[name], name.encode()), reverse=True)


def ndcg(ranked: Sequence[str], grades: Grades, depth: int = 10) -> float:
    """Normalized discounted cumulative gain at ``depth``, from 0 to 1.

    The gain of a document is its grade, divided by log2(rank + 1), summed, and divided by the sum of the best
    possible ranking at the same depth (Järvelin and Kekäläinen, 2002; trec_eval's ndcg_cut: the gain is linear, not
    2^grade - 1).
    """
    gained = _discounted([grades.get(name, 0) for name in ranked[:depth]])
    ideal = _discounted(sorted(grades.values(), reverse=True)[:depth])
    return gained / ideal if ideal else 0.0


def mrr(ranked: Sequence[str], grades: Grades, depth: int = 10) -> float:
    """Reciprocal rank: one over the rank of the first relevant document; zero if that is beyond ``depth``.

    Its mean over queries is MRR (Voorhees, TREC-8, 1999), with the cut of MS MARCO's MRR@10.
    """
    return next((1 / rank for rank, name in enumerate(ranked[:depth], 1) if grades.get(name, 0) > 0), 0.0)


def recall(ranked: Sequence[str], grades: Grades, depth: int = DEPTH) -> float:
    """Share of the relevant documents that are within ``depth`` (trec_eval's recall)."""
    relevant = {name for name, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranked[:depth])) / len(relevant) if relevant else 0.0


def _discounted(grades: Sequence[float]) -> float:
    # fsum: a perfect ranking with ties among its grades is 1, in whatever order they are added.
    return math.fsum(max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


METRICS: dict[str, Callable[[Sequence[str], Grades], float]] = {"ndcg@10": ndcg, "mrr@10": mrr, "recall@100": recall}
DECIDING = "ndcg@10"

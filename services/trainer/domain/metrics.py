"""What the gate measures of one query.

Functions of ``ranked``, document ids with the best first, and ``relevant``, ids with gains above zero.
"""

from collections.abc import Callable, Sequence

from diapason.evaluation.metrics import Grades, mrr, ndcg, recall

DEPTH = 10
_RECALL_DEPTH = 5

METRICS: dict[str, Callable[[Sequence[str], Grades], float]] = {
    "ndcg@10": ndcg,
    "mrr@10": mrr,
    "recall@5": lambda ranked, relevant: recall(ranked, relevant, _RECALL_DEPTH),
}

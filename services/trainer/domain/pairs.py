"""How a reranker's scores of held-out pairs compare, before and after: AUC and F1, with intervals over queries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.trainer.domain.classification import THRESHOLD
from services.trainer.domain.gate import Comparison

_RESAMPLES = 1_000
_SEED = 17

_Array = np.ndarray[Any, np.dtype[Any]]
# From how often each pair counts to the metric; None where it is not defined.
_Metric = Callable[[_Array], float | None]


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query, by its place among them, and a document: 1 or 0, and scores between 0 and 1."""

    queries: Sequence[int]
    labels: Sequence[int]
    before: Sequence[float]
    after: Sequence[float]


def compare(pairs: Pairs) -> tuple[Comparison, ...]:
    """AUC and F1 over all pairs together; none where pairs are of one class.

    The interval is the 95 % percentile one of the difference over resampled queries, with all pairs of each, since
    those of one query are not independent (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8).
    """
    labels = np.asarray(pairs.labels)
    if len(np.unique(labels)) < 2:
        return ()
    _, owner = np.unique(np.asarray(pairs.queries), return_inverse=True)
    queries = int(owner.max()) + 1
    generator = np.random.default_rng(_SEED)
    picks = generator.multinomial(queries, np.full(queries, 1 / queries), size=_RESAMPLES)
    found = []
    for name, metric in (("auc", _auc), ("f1", _f1)):
        before, after = metric(labels, np.asarray(pairs.before)), metric(labels, np.asarray(pairs.after))
        both = [(before(counts[owner]), after(counts[owner])) for counts in picks]
        # A resample may hold pairs of one class only.
        differences = [new - old for old, new in both if old is not None and new is not None]
        once = np.ones(len(labels))
        old, new = before(once), after(once)
        if differences and old is not None and new is not None:
            low, high = np.percentile(differences, [2.5, 97.5])
            found.append(Comparison(name, 0, old, new, float(low), float(high)))
    return tuple(found)


def _auc(labels: _Array, scores: _Array) -> _Metric:
    """The probability that a relevant pair scores above one that is not, ties counted half."""
    order = np.argsort(scores, kind="stable")
    relevant = labels[order] == 1
    # Where each run of equal scores begins.
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)

    def of(counts: _Array) -> float | None:
        weights = counts[order].astype(np.float64)
        hits = np.add.reduceat(np.where(relevant, weights, 0.0), starts)
        misses = np.add.reduceat(np.where(relevant, 0.0, weights), starts)
        if not hits.sum() or not misses.sum():
            return None
        below = np.cumsum(misses) - misses
        return float(np.sum(hits * (below + misses / 2)) / (hits.sum() * misses.sum()))

    return of


def _f1(labels: _Array, scores: _Array) -> _Metric:
    """Of what is called relevant from the threshold on."""
    relevant, called = labels == 1, scores >= THRESHOLD

    def of(counts: _Array) -> float | None:
        right = float(counts[relevant & called].sum())
        wrong = float(counts[relevant != called].sum())
        return 2 * right / (2 * right + wrong) if right + wrong else None

    return of

"""What chance can do to a mean over queries, and to the difference of two."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

SEED = 17
_RESAMPLES = 5_000
_FLIPS = 10_000
# Numbers that one part of the resamples may hold, so that memory does not grow with the number of queries.
_PART = 4_000_000
# Scores that differ by less are the same but for the order in which they were added up.
_SAME = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The second run against the first, over the queries that both have.

    ``interval`` is of the mean of second minus first; ``p`` is how often chance alone gives a mean as far from zero.
    """

    queries: int
    first: float
    second: float
    interval: Interval
    p: float
    better: int
    same: int
    worse: int


def bootstrap(scores: Sequence[float] | Floats) -> Interval:
    """The 95 % percentile interval of a mean over resampled queries; all zero for no queries.

    Of paired differences it is the paired bootstrap. Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 13.
    """
    values = np.asarray(scores, np.float64)
    count = len(values)
    if not count:
        return Interval(0.0, 0.0, 0.0)
    generator = np.random.default_rng(SEED)
    means = _in_parts(
        _RESAMPLES, count, lambda rows: values[generator.integers(count, size=(rows, count))].mean(axis=1)
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def sign_flip(differences: Sequence[float] | Floats) -> float:
    """Two-sided p-value of the paired randomization test for a mean difference of zero.

    If both runs were equally good, each query's difference could as well have had the other sign; p is the share of
    random signs whose mean is at least as far from zero as the one seen. The one seen counts as one of them, so p is
    never zero (Phipson and Smyth, 2010). For retrieval: Smucker, Allan and Carterette, CIKM 2007.
    """
    values = np.asarray(differences, np.float64)
    values = values[np.abs(values) > _SAME]  # the others have no sign to flip
    count = len(values)
    if not count:
        return 1.0
    generator = np.random.default_rng(SEED)
    sums = _in_parts(_FLIPS, count, lambda rows: generator.choice([-1.0, 1.0], size=(rows, count)) @ values)
    as_far = int(np.sum(np.abs(sums) >= abs(values.sum()) - _SAME * count))
    return (as_far + 1) / (_FLIPS + 1)


def compare(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Two runs' scores for the same queries in the same order."""
    before, after = np.asarray(first, np.float64), np.asarray(second, np.float64)
    differences = after - before
    better, worse = int(np.sum(differences > _SAME)), int(np.sum(differences < -_SAME))
    return Difference(
        queries=len(differences),
        first=float(before.mean()) if len(before) else 0.0,
        second=float(after.mean()) if len(after) else 0.0,
        interval=bootstrap(differences),
        p=sign_flip(differences),
        better=better,
        same=len(differences) - better - worse,
        worse=worse,
    )


def _in_parts(rows: int, columns: int, values: Callable[[int], Floats]) -> Floats:
    """One value for each of ``rows``, computed so many rows at a time."""

    def sizes() -> Iterator[int]:
        step = max(1, _PART // columns)
        for start in range(0, rows, step):
            yield min(step, rows - start)

    return np.concatenate([values(size) for size in sizes()])

"""The decision on a candidate (I9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

DECIDING_METRIC = "ndcg@10"
# Below this an interval over queries is not worth the name, whatever a policy says.
FEWEST_QUERIES = 10
_RESAMPLES = 5_000
_SEED = 17


class Verdict(Enum):
    """What the gate says."""

    PROMOTE = "promote"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class GatePolicy:
    """What a candidate must show. ``guard`` names the dataset on which it may lose no more than the margin."""

    min_queries: int = 75
    min_difference: float = 0.0
    guard: str = ""
    guard_margin: float = 0.01


@dataclass(frozen=True)
class Comparison:
    """One metric at one size, before and after, with the paired difference's 95 % interval."""

    metric: str
    dimensions: int
    before: float
    after: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class GateResult:
    """The verdict with its numbers; ``guard`` are those of the guard set, if there was one."""

    verdict: Verdict
    reason: str
    queries: int
    comparisons: tuple[Comparison, ...]
    guard: tuple[Comparison, ...] = ()
    guard_queries: int = 0


# Scores per query, in the same order of queries: {dimensions: {metric: scores}}.
Scores = Mapping[int, Mapping[str, Sequence[float]]]


def paired_bootstrap(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean paired difference, over resampled queries.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    differences = np.asarray(after) - np.asarray(before)
    if not len(differences):
        return 0.0, 0.0
    generator = np.random.default_rng(_SEED)
    picks = generator.integers(len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def compare(before: Scores, after: Scores) -> tuple[Comparison, ...]:
    """All metrics at all sizes, the full size first."""
    return tuple(
        Comparison(
            metric,
            size,
            float(np.mean(before[size][metric])) if len(before[size][metric]) else 0.0,
            float(np.mean(after[size][metric])) if len(after[size][metric]) else 0.0,
            *paired_bootstrap(before[size][metric], after[size][metric]),
        )
        for size in sorted(before, reverse=True)
        for metric in before[size]
    )


def decide(before: Scores, after: Scores, policy: GatePolicy, guard: tuple[Scores, Scores] | None = None) -> GateResult:
    """Promote only what is better beyond chance on held-out queries, worse at no size, and has forgotten little.

    ``guard`` are scores, before and after, on queries that have nothing to do with what was trained on.
    """
    comparisons = compare(before, after)
    deciding = [c for c in comparisons if c.metric == DECIDING_METRIC]
    full = deciding[0]
    queries = len(before[full.dimensions][DECIDING_METRIC])
    interval = f"[{full.low:+.3f}, {full.high:+.3f}]"
    numbers = f"{full.metric} {full.before:.3f} → {full.after:.3f}, difference {full.difference:+.3f} {interval}"

    guarded = compare(*guard) if guard else ()
    guard_queries = len(guard[0][max(guard[0])][DECIDING_METRIC]) if guard else 0

    def result(verdict: Verdict, reason: str) -> GateResult:
        return GateResult(verdict, reason, queries, comparisons, guarded, guard_queries)

    worse = [c for c in deciding if c.high < 0]
    if worse and queries >= FEWEST_QUERIES:
        return result(Verdict.REJECT, f"worse{_where(worse[0])}; {numbers}")
    # The mean itself, not the end of its interval: with few queries that would forgive everything, or nothing.
    if forgotten := [c for c in guarded if c.metric == DECIDING_METRIC and c.difference < -policy.guard_margin]:
        lost = min(forgotten, key=lambda c: c.difference)
        return result(
            Verdict.REJECT,
            f"on the guard set {policy.guard!r} {lost.metric} fell from {lost.before:.3f} to {lost.after:.3f}"
            f"{_where(lost)}, by more than {policy.guard_margin:g}; {numbers}",
        )
    if queries < policy.min_queries:
        return result(Verdict.INCONCLUSIVE, f"{queries} held-out queries, {policy.min_queries} are needed; {numbers}")
    if full.difference <= 0:
        return result(Verdict.REJECT, f"not better; {numbers}")
    if not full.low > policy.min_difference:
        return result(Verdict.INCONCLUSIVE, f"better, but perhaps by chance; {numbers}")
    return result(Verdict.PROMOTE, f"better; {numbers}")


def _where(one: Comparison) -> str:
    """A reranker has no sizes."""
    return f" at {one.dimensions} dimensions" if one.dimensions else ""

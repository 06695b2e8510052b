"""How well scores tell relevant pairs from others: what rerankers are judged by besides rankings.

``labels`` are 1 (relevant) or 0, ``scores`` one number for each. Curves have one point for each distinct score, so that
pairs with equal scores are never told apart by the order in which they came (Fawcett, An introduction to ROC analysis,
Pattern Recognition Letters 27, 2006).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLD = 0.5

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Confusion:
    """Pairs by what they are and what a threshold says of them. A ratio whose divisor is zero is zero."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def accuracy(self) -> float:
        """Share of all pairs that are called what they are."""
        right = self.true_positives + self.true_negatives
        return _ratio(right, right + self.false_positives + self.false_negatives)

    @property
    def precision(self) -> float:
        """Share of the relevant among those called so."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the relevant that are called so."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


@dataclass(frozen=True)
class Curve:
    """Points from the highest threshold to the lowest; x never falls."""

    x: tuple[float, ...]
    y: tuple[float, ...]


def confusion(labels: Sequence[int], scores: Sequence[float], threshold: float = THRESHOLD) -> Confusion:
    """Relevant is called what scores at least ``threshold``."""
    relevant, called = np.asarray(labels) == 1, np.asarray(scores, np.float64) >= threshold
    return Confusion(
        true_positives=int(np.sum(relevant & called)),
        false_positives=int(np.sum(~relevant & called)),
        false_negatives=int(np.sum(relevant & ~called)),
        true_negatives=int(np.sum(~relevant & ~called)),
    )


def auc(labels: Sequence[int], scores: Sequence[float]) -> float | None:
    """The probability that a relevant pair scores above one that is not, ties counted half; None for one class only.

    It is the area under the ROC curve (Hanley and McNeil, Radiology 143, 1982).
    """
    hits, misses = _counted(labels, scores)
    if not hits[-1] or not misses[-1]:
        return None
    # Trapezoids between the points of the ROC curve.
    return float(np.sum(np.diff(misses) * (hits[1:] + hits[:-1]) / 2) / (hits[-1] * misses[-1]))


def roc(labels: Sequence[int], scores: Sequence[float]) -> Curve:
    """False-positive rate (x) and true-positive rate (y), from (0, 0) to (1, 1); empty for one class only."""
    hits, misses = _counted(labels, scores)
    if not hits[-1] or not misses[-1]:
        return Curve((), ())
    return Curve(tuple((misses / misses[-1]).tolist()), tuple((hits / hits[-1]).tolist()))


def precision_recall(labels: Sequence[int], scores: Sequence[float]) -> Curve:
    """Recall (x) and precision (y), beginning at (0, 1); empty if nothing is relevant."""
    hits, misses = _counted(labels, scores)
    if not hits[-1]:
        return Curve((), ())
    precision = hits[1:] / (hits[1:] + misses[1:])
    return Curve((0.0, *(hits[1:] / hits[-1]).tolist()), (1.0, *precision.tolist()))


def average_precision(labels: Sequence[int], scores: Sequence[float]) -> float | None:
    """Precision at each point of the curve, weighted by the recall gained there; None if nothing is relevant.

    No interpolation, which would flatter (Davis and Goadrich, ICML 2006).
    """
    curve = precision_recall(labels, scores)
    return float(np.sum(np.diff(curve.x) * np.asarray(curve.y[1:]))) if curve.x else None


def _counted(labels: Sequence[int], scores: Sequence[float]) -> tuple[_Array, _Array]:
    """How many relevant pairs, and how many others, score at least each distinct score; a zero before the first."""
    _, place = np.unique(-np.asarray(scores, np.float64), return_inverse=True)
    relevant = np.asarray(labels) == 1
    counts = [np.bincount(place[mask], minlength=place.max(initial=-1) + 1) for mask in (relevant, ~relevant)]
    hits, misses = (np.concatenate([[0], np.cumsum(count)]).astype(np.int64) for count in counts)
    return hits, misses


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

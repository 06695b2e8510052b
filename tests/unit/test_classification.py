"""How well scores tell relevant pairs from others: worked examples, definitions by brute force, and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.domain.classification import (
    Confusion,
    auc,
    average_precision,
    confusion,
    precision_recall,
    roc,
)

# Few distinct scores, so that ties are common.
SCORES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
PAIRS = st.lists(st.tuples(st.integers(0, 1), SCORES), min_size=1, max_size=40)
LABELS, WORKED = [1, 1, 0, 1, 0, 0], [0.9, 0.5, 0.5, 0.4, 0.2, 0.7]


def test_a_worked_example() -> None:
    found = confusion(LABELS, WORKED)
    assert found == Confusion(true_positives=2, false_positives=2, false_negatives=1, true_negatives=1)
    assert found.accuracy == pytest.approx(3 / 6)
    assert found.precision == pytest.approx(2 / 4)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(4 / 7)
    # Of nine couples: 0.9 wins three; 0.5 beats 0.2, ties with 0.5, loses to 0.7; 0.4 beats 0.2.
    assert auc(LABELS, WORKED) == pytest.approx((3 + 1.5 + 1) / 9)
    # 0.9, then 0.7, then both of 0.5 at once, then 0.4, then 0.2.
    curve = roc(LABELS, WORKED)
    assert curve.x == pytest.approx((0, 0, 1 / 3, 2 / 3, 2 / 3, 1))
    assert curve.y == pytest.approx((0, 1 / 3, 1 / 3, 2 / 3, 1, 1))
    points = precision_recall(LABELS, WORKED)
    assert points.x == pytest.approx((0, 1 / 3, 1 / 3, 2 / 3, 1, 1))
    assert points.y == pytest.approx((1, 1, 1 / 2, 2 / 4, 3 / 5, 3 / 6))
    assert average_precision(LABELS, WORKED) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 4 + 1 / 3 * 3 / 5)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_has_no_area(label: int) -> None:
    labels, scores = [label] * 3, [0.1, 0.5, 0.9]
    assert auc(labels, scores) is None
    assert roc(labels, scores).x == ()
    assert (average_precision(labels, scores) is None) == (label == 0)


def test_nothing_at_all_has_no_numbers() -> None:
    nothing = confusion([], [])
    assert (nothing.accuracy, nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0, 0)
    assert auc([], []) is None
    assert average_precision([], []) is None


@given(PAIRS)
def test_auc_is_the_probability_that_a_relevant_pair_scores_higher(pairs: list[tuple[int, float]]) -> None:
    labels, scores = [label for label, _ in pairs], [score for _, score in pairs]
    relevant = [score for label, score in pairs if label]
    others = [score for label, score in pairs if not label]
    wins = [(a > b) + (a == b) / 2 for a in relevant for b in others]
    assert auc(labels, scores) == (pytest.approx(sum(wins) / len(wins)) if wins else None)


@given(PAIRS)
def test_curves_run_from_end_to_end_and_never_back(pairs: list[tuple[int, float]]) -> None:
    labels, scores = [label for label, _ in pairs], [score for _, score in pairs]
    for curve in (roc(labels, scores), precision_recall(labels, scores)):
        assert list(curve.x) == sorted(curve.x)
        assert all(0 <= value <= 1 for value in (*curve.x, *curve.y))
    if 0 < sum(labels) < len(labels):
        curve = roc(labels, scores)
        assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
        assert np.trapezoid(curve.y, curve.x) == pytest.approx(auc(labels, scores))


@settings(deadline=None)  # the first import takes a second
@given(PAIRS)
def test_scikit_learn_says_the_same(pairs: list[tuple[int, float]]) -> None:
    from sklearn import metrics

    labels, scores = [label for label, _ in pairs], [score for _, score in pairs]
    found, called = confusion(labels, scores), [int(score >= 0.5) for score in scores]
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, called))
    assert found.precision == pytest.approx(metrics.precision_score(labels, called, zero_division=0))
    assert found.recall == pytest.approx(metrics.recall_score(labels, called, zero_division=0))
    assert found.f1 == pytest.approx(metrics.f1_score(labels, called, zero_division=0))
    if 0 < sum(labels) < len(labels):
        assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
        assert average_precision(labels, scores) == pytest.approx(metrics.average_precision_score(labels, scores))
        x, y, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
        curve = roc(labels, scores)
        assert curve.x == pytest.approx(x)
        assert curve.y == pytest.approx(y)
        precision, recall, _ = metrics.precision_recall_curve(labels, scores)
        points = precision_recall(labels, scores)
        assert points.x == pytest.approx(recall[::-1])
        assert points.y == pytest.approx(precision[::-1])

"""Intervals and p-values against what is known of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diapason.evaluation import comparing
from diapason.evaluation.comparing import Interval, bootstrap, compare, sign_flip

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def exact(differences: list[float]) -> float:
    """The share of all signs whose sum is as far from zero."""
    signs = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(float(np.dot(each, differences))) for each in signs]
    return float(np.mean([total >= abs(sum(differences)) - 1e-12 for total in sums]))


def test_the_interval_of_nothing_and_of_constants() -> None:
    assert bootstrap([]) == Interval(0, 0, 0)
    assert bootstrap([0.25] * 9) == Interval(0.25, 0.25, 0.25)


def test_the_interval_is_that_of_the_normal_distribution_for_many_queries() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 2_000)
    found = bootstrap(values)
    error = float(values.std()) / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.1 * error)


@settings(max_examples=25, deadline=None)
@given(SCORES)
def test_the_interval_lies_within_the_values_and_is_always_the_same(scores: list[float]) -> None:
    found = bootstrap(scores)
    assert min(scores) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(scores) + 1e-9
    assert bootstrap(scores) == found


def test_parts_of_resamples_make_up_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    whole, p = bootstrap(values), sign_flip(values - 0.45)
    monkeypatch.setattr(comparing, "_PART", 777)
    assert bootstrap(values).low == pytest.approx(whole.low, abs=0.005)
    assert sign_flip(values - 0.45) == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize(
    "differences",
    [
        [0.5, 0.2, -0.1, 0.3, 0.4, -0.2, 0.1, 0.6],
        [0.1] * 6 + [-0.1] * 2,
        [0.3, -0.3],
        [1.0] * 9,
        [0.0, 0.0, 0.7],
    ],
)
def test_the_p_value_is_that_of_all_sign_flips(differences: list[float]) -> None:
    assert sign_flip(differences) == pytest.approx(exact(differences), abs=0.015)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=30))
def test_the_p_value_does_not_care_who_is_first_nor_about_ties(differences: list[float]) -> None:
    p = sign_flip(differences)
    assert 0 < p <= 1
    assert sign_flip([-each for each in differences]) == p
    assert sign_flip([*differences, 0.0, 0.0]) == p


def test_no_difference_is_no_evidence() -> None:
    assert sign_flip([]) == sign_flip([0.0] * 20) == 1


def test_the_difference_seen_counts_as_one_of_the_flips() -> None:
    assert sign_flip([1.0] * 60) == 1 / 10_001


def test_a_comparison_of_a_worked_example() -> None:
    found = compare([0.5, 0.5, 0.0, 1.0], [1.0, 0.5, 0.5, 0.75])
    assert (found.first, found.second, found.queries) == (0.5, 0.6875, 4)
    assert (found.better, found.same, found.worse) == (2, 1, 1)
    assert found.interval.mean == pytest.approx(0.1875)
    # Of the eight ways to sign 0.5, 0.5 and -0.25, those with both halves on one side are as far from zero.
    assert found.p == pytest.approx(0.5, abs=0.02)


def test_what_is_surely_better_is_told_from_what_is_not() -> None:
    generator = np.random.default_rng(5)
    before = generator.random(300)
    noise = generator.normal(0, 0.1, 300)
    better = compare(list(before), list(before + noise + 0.05))
    same = compare(list(before), list(before + noise - noise.mean()))
    assert better.p < 0.001
    assert better.interval.low > 0
    assert same.p > 0.9
    assert same.interval.low < 0 < same.interval.high

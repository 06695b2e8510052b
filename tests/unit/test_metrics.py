"""Ranking metrics against values computed by hand, and what must hold of all rankings."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diapason.evaluation.metrics import METRICS, by_score, mrr, ndcg, recall

NAMES = [f"d{i:02}" for i in range(14)]
RANKED = st.permutations(NAMES).flatmap(lambda names: st.integers(0, len(names)).map(lambda n: names[:n]))
GRADES = st.dictionaries(st.sampled_from(NAMES), st.integers(-1, 3), max_size=14)


def test_ndcg_of_a_graded_example() -> None:
    grades = {"x": 3, "y": 2, "z": 1}
    # 2 / log2(2) + 0 + 3 / log2(4) = 3.5 of 3 + 2 / log2(3) + 1 / 2 = 4.76186.
    assert ndcg(["y", "unjudged", "x"], grades) == pytest.approx(0.735007, abs=1e-6)


def test_ndcg_counts_the_first_ten_and_is_ideal_within_them() -> None:
    grades = {f"g{i}": 1 for i in range(20)}
    assert ndcg(["no"] * 10 + list(grades), grades) == 0
    assert ndcg(list(grades)[:10], grades) == 1
    assert ndcg(["no"] * 9 + ["g0"], {"g0": 1}) == pytest.approx(1 / math.log2(11))


def test_mrr_and_recall_of_examples() -> None:
    assert mrr(["a", "b", "c"], {"c": 1, "b": 0}) == pytest.approx(1 / 3)
    assert mrr(["no"] * 10 + ["c"], {"c": 1}) == 0
    grades = {"a": 1, "b": 2, "elsewhere": 1, "refused": 0}
    assert recall(["a", "no", "b", "refused"], grades) == pytest.approx(2 / 3)
    assert recall(["no"] * 100 + ["a", "b"], grades) == 0


def test_a_query_without_relevant_documents_scores_zero() -> None:
    for metric in METRICS.values():
        assert metric(["a", "b"], {"a": 0, "b": -1}) == 0
        assert metric(["a"], {}) == 0
        assert metric([], {"a": 1}) == 0


def test_of_equal_scores_the_greater_id_comes_first() -> None:
    assert by_score({"10": 0.5, "9": 0.5, "best": 0.9, "é": 0.5}) == ["best", "é", "9", "10"]


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3)))
def test_the_order_in_which_results_come_does_not_matter(scores: dict[str, float]) -> None:
    shuffled = dict(sorted(scores.items(), reverse=True))
    assert by_score(shuffled) == by_score(scores)
    ordered = by_score(scores)
    assert [scores[name] for name in ordered] == sorted(scores.values(), reverse=True)


@given(RANKED, GRADES)
def test_metrics_lie_between_zero_and_one(ranked: list[str], grades: dict[str, int]) -> None:
    for metric in METRICS.values():
        assert 0 <= metric(ranked, grades) <= 1


@given(GRADES)
def test_a_perfect_ranking_scores_one(grades: dict[str, int]) -> None:
    best = sorted(grades, key=lambda name: -grades[name])
    for metric in METRICS.values():
        assert metric(best, grades) == (1 if any(grade > 0 for grade in grades.values()) else 0)


@given(RANKED, GRADES, st.data())
def test_moving_a_better_document_up_never_costs(
    ranked: list[str], grades: dict[str, int], data: st.DataObject
) -> None:
    if len(ranked) < 2:
        return
    place = data.draw(st.integers(0, len(ranked) - 2))
    upper, lower = ranked[place], ranked[place + 1]
    swapped = [*ranked[:place], lower, upper, *ranked[place + 2 :]]
    better = grades.get(lower, 0) - grades.get(upper, 0)
    for metric in METRICS.values():
        change = metric(swapped, grades) - metric(ranked, grades)
        assert change * better >= 0 or math.isclose(change, 0, abs_tol=1e-12)


@given(RANKED, GRADES)
def test_deeper_is_never_less(ranked: list[str], grades: dict[str, int]) -> None:
    for measure in (mrr, recall):
        values = [measure(ranked, grades, depth) for depth in range(1, 15)]
        assert values == sorted(values)

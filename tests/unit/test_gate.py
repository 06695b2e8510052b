"""Metrics against worked examples, and the gate's decisions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diapason.evaluation.metrics import mrr, ndcg, recall
from services.trainer.domain.gate import GatePolicy, Scores, Verdict, decide, paired_bootstrap
from services.trainer.domain.metrics import METRICS

UNIT = st.floats(0, 1)


def scores(full: list[float], small: list[float] | None = None) -> Scores:
    both = {384: full, 64: full if small is None else small}
    return {size: {"ndcg@10": values} for size, values in both.items()}


def test_ndcg_of_a_worked_example() -> None:
    found = ndcg(["a", "b", "c", "d"], {"b": 1.0, "d": 0.5}, 10)
    gained = 1 / math.log2(3) + 0.5 / math.log2(5)
    ideal = 1 / math.log2(2) + 0.5 / math.log2(3)
    assert found == pytest.approx(gained / ideal)


def test_mrr_and_recall_of_a_worked_example() -> None:
    ranked, relevant = ["a", "b", "c"], {"b": 1.0, "x": 1.0}
    assert mrr(ranked, relevant, 10) == 0.5
    assert mrr(ranked, relevant, 1) == 0
    assert recall(ranked, relevant, 5) == 0.5


@given(st.permutations(list("abcdefghijkl")), st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 1), min_size=1))
def test_metrics_lie_between_zero_and_one(ranked: list[str], relevant: dict[str, float]) -> None:
    for metric in METRICS.values():
        assert 0 <= metric(ranked, relevant) <= 1 + 1e-9


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=60))
def test_the_interval_lies_around_the_mean_difference(pairs: list[tuple[float, float]]) -> None:
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    low, high = paired_bootstrap(before, after)
    assert low - 1e-9 <= float(np.mean(np.array(after) - np.array(before))) <= high + 1e-9


def test_i9_clearly_better_is_promoted() -> None:
    result = decide(scores([0.4] * 80), scores([0.6] * 80), GatePolicy())
    assert result.verdict is Verdict.PROMOTE
    assert "0.400 → 0.600" in result.reason


def test_i9_too_few_queries_are_inconclusive_however_good() -> None:
    result = decide(scores([0.0] * 74), scores([1.0] * 74), GatePolicy())
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "74 held-out queries, 75 are needed" in result.reason


def test_i9_no_held_out_queries_at_all_are_inconclusive() -> None:
    assert decide(scores([]), scores([]), GatePolicy()).verdict is Verdict.INCONCLUSIVE


def test_i9_worse_or_equal_is_rejected() -> None:
    assert decide(scores([0.6] * 80), scores([0.4] * 80), GatePolicy()).verdict is Verdict.REJECT
    assert decide(scores([0.6] * 80), scores([0.6] * 80), GatePolicy()).verdict is Verdict.REJECT


def test_i9_a_handful_of_queries_says_nothing_either_way() -> None:
    for queries, verdict in ((1, Verdict.INCONCLUSIVE), (9, Verdict.INCONCLUSIVE), (10, Verdict.REJECT)):
        assert decide(scores([0.6] * queries), scores([0.4] * queries), GatePolicy()).verdict is verdict


def test_i9_better_by_chance_is_inconclusive() -> None:
    before = [0.5] * 100
    after = [0.5] * 98 + [0.9, 0.3]
    assert decide(scores(before), scores(after), GatePolicy()).verdict is Verdict.INCONCLUSIVE


def test_i9_worse_at_a_small_size_is_rejected_though_better_at_the_full_one() -> None:
    result = decide(scores([0.4] * 80, [0.4] * 80), scores([0.6] * 80, [0.2] * 80), GatePolicy())
    assert result.verdict is Verdict.REJECT
    assert "64 dimensions" in result.reason


def test_i9_what_has_forgotten_is_rejected_however_much_better() -> None:
    policy = GatePolicy(guard="other", guard_margin=0.01)
    forgotten = scores([0.5] * 40, [0.4] * 40), scores([0.5] * 40, [0.38] * 40)
    result = decide(scores([0.4] * 80), scores([0.6] * 80), policy, forgotten)
    assert result.verdict is Verdict.REJECT
    assert "'other' ndcg@10 fell from 0.400 to 0.380 at 64 dimensions" in result.reason
    assert result.guard_queries == 40
    assert [c.dimensions for c in result.guard] == [384, 64]


def test_i9_a_little_may_be_forgotten() -> None:
    policy = GatePolicy(guard="other", guard_margin=0.01)
    guard = scores([0.5] * 40), scores([0.5] * 39 + [0.15])
    result = decide(scores([0.4] * 80), scores([0.6] * 80), policy, guard)
    assert result.verdict is Verdict.PROMOTE
    assert result.guard[0].difference == pytest.approx(-0.35 / 40)

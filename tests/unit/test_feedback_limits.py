"""How fast one actor may send."""

from hypothesis import given
from hypothesis import strategies as st

from services.feedback.domain.limits import Limits

U1, U2 = ("", "u1"), ("", "u2")


def test_a_bucket_empties_and_fills_evenly() -> None:
    limits = Limits(60)
    assert limits.take({U1: 60}, 0.0) == 0
    assert limits.take({U1: 1}, 0.0) == 1
    assert limits.take({U1: 10}, 5.0) == 5
    assert limits.take({U1: 10}, 10.0) == 0
    assert limits.take({U2: 60}, 10.0) == 0


def test_a_refused_batch_takes_nothing_of_anybody() -> None:
    limits = Limits(60)
    limits.take({U1: 60}, 0.0)
    assert limits.take({U1: 1, U2: 60}, 0.0) > 0
    assert limits.take({U2: 60}, 0.0) == 0


def test_a_batch_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for_later() -> None:
    limits = Limits(60)
    assert limits.take({U1: 180}, 0.0) == 0
    assert limits.take({U1: 1}, 60.0) == 61
    assert limits.take({U1: 1}, 121.0) == 0


def test_what_is_given_back_may_be_taken_again_but_overfills_nothing() -> None:
    limits = Limits(60)
    limits.take({U1: 60}, 0.0)
    limits.give_back({U1: 500, U2: 5})
    assert limits.take({U1: 60}, 0.0) == 0
    assert limits.take({U1: 1}, 0.0) > 0


def test_no_limit_is_none() -> None:
    assert Limits(0).take({U1: 10**9}, 0.0) == 0


def test_i10_so_many_actors_are_remembered_and_no_more() -> None:
    limits = Limits(60, most=2)
    for actor in (U1, U2, ("", "u3")):
        limits.take({actor: 60}, 0.0)
    assert limits.take({("", "u3"): 1}, 0.0) > 0
    # Forgotten, so full again.
    assert limits.take({U1: 60}, 0.0) == 0
    assert len(limits._buckets) == 2


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 100)), max_size=40))
def test_over_any_time_no_more_passes_than_the_rate_and_a_bucket(steps: list[tuple[float, int]]) -> None:
    limits, now, passed = Limits(60), 0.0, 0
    for pause, count in steps:
        now += pause
        wait = limits.take({U1: count}, now)
        if not wait:
            passed += count
        else:
            assert limits.take({U1: count}, now) == wait
        assert passed <= 60 + now + 100

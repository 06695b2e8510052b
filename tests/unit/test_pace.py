"""A bound on documents per second."""

from hypothesis import given
from hypothesis import strategies as st

from services.search.pace import Pace


@given(st.floats(0.5, 1e4), st.lists(st.tuples(st.integers(1, 64), st.floats(0, 3)), min_size=2, max_size=40))
def test_no_span_holds_more_than_its_share_and_one_batch(rate: float, work: list[tuple[int, float]]) -> None:
    pace, now, begun = Pace(rate), 0.0, []
    for documents, takes in work:
        now += pace.delay(documents, now)
        begun.append((now, documents))
        now += takes
    for i, (start, first) in enumerate(begun):
        done = first
        for at, documents in begun[i + 1 :]:
            assert done <= rate * (at - start) * (1 + 1e-9) + 1e-6 * rate + 1e-6
            done += documents


def test_without_a_bound_nothing_waits() -> None:
    pace = Pace(0)
    assert (pace.batch(64), pace.delay(64, 5.0), pace.delay(64, 5.0)) == (64, 0.0, 0.0)


def test_a_small_bound_makes_small_batches() -> None:
    assert [Pace(rate).batch(64) for rate in (0.5, 3, 1000)] == [1, 3, 64]

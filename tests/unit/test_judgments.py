"""From feedback to judgments."""

from hypothesis import given
from hypothesis import strategies as st

from services.feedback.domain.model import Aim, Event, Policy, Signal, judgments, normalized

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["q one", "q  one", "q two"]),
        st.sampled_from("ab"),
        st.sampled_from(["", "x", "y"]),
        st.sampled_from(list(Signal)),
        st.floats(0, 1),
    ),
    max_size=30,
).map(lambda rows: [Event(i, *row) for i, row in enumerate(rows, 1)])


def up(number: int, actor: str = "x") -> Event:
    return Event(number, "q", "d", actor, Signal.THUMBS_UP)


def down(number: int, actor: str = "x") -> Event:
    return Event(number, "q", "d", actor, Signal.THUMBS_DOWN)


def test_one_opinion_per_actor_the_latest() -> None:
    [judgment] = judgments([up(1), down(2)], Policy())
    assert (judgment.target, judgment.weight) == (0.0, 1.0)


def test_the_order_is_that_of_arrival_not_of_the_list() -> None:
    [judgment] = judgments([down(2), up(1)], Policy())
    assert judgment.target == 0.0


def test_opinions_of_several_actors_are_averaged() -> None:
    [judgment] = judgments([up(1, "x"), up(2, "y"), down(3, "z"), down(4, "")], Policy())
    assert (judgment.target, judgment.weight) == (0.5, 4.0)


def test_nameless_events_count_each() -> None:
    [judgment] = judgments([up(1, ""), up(2, ""), down(3, "")], Policy())
    assert judgment.weight == 3.0


def test_a_grade_is_its_own_target() -> None:
    [judgment] = judgments([Event(1, "q", "d", "x", Signal.GRADE, 0.7)], Policy())
    assert judgment.target == 0.7


def test_a_policy_may_aim_otherwise_and_leave_signals_out() -> None:
    cosine = Policy("cosine", {Signal.THUMBS_UP: Aim(0.8), Signal.THUMBS_DOWN: Aim(-0.5, 2.0)})
    found = judgments([up(1, "x"), down(2, "y"), Event(3, "q", "d", "z", Signal.GRADE, 1.0)], cosine)
    assert found[0].target == (0.8 - 1.0) / 3
    assert found[0].weight == 3.0


@given(EVENTS)
def test_judgments_are_sorted_unique_and_within_range(events: list[Event]) -> None:
    found = judgments(events, Policy())
    keys = [(j.query, j.document_id) for j in found]
    assert keys == sorted(set(keys))
    assert all(0 <= j.target <= 1 and j.weight > 0 for j in found)
    assert all(j.query == normalized(j.query) for j in found)

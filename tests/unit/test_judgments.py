"""From feedback to opinions and judgments."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.feedback.domain.crowds import Crowd, CrowdRules, crowd
from services.feedback.domain.judging import judgments, standing
from services.feedback.domain.model import (
    EXPLICIT,
    OPINIONS,
    TAKEN,
    Actor,
    Event,
    Impression,
    Judgment,
    Signal,
    normalized,
)
from services.feedback.domain.policies import KNOWN, Aim, Policy, named

SIGNALS = st.sampled_from(list(Signal))
ROWS = st.tuples(
    st.sampled_from(["q one", "q  one", "q two"]),
    st.sampled_from("abc"),
    st.sampled_from(["", "x", "y"]),
    SIGNALS,
    st.floats(0, 1),
    st.sampled_from(["", "t"]),
    st.sampled_from(["", "s1", "s2"]),
    st.integers(0, 5),
)
EVENTS = st.lists(ROWS, max_size=30).map(lambda rows: [Event(i, *row) for i, row in enumerate(rows, 1)])
POLICIES = st.sampled_from(list(KNOWN.values()))
SHOWN = {"s1": Impression({"a": 1, "b": 2, "c": 9}), "s2": Impression({"c": 1, "a": 30})}
CLICKS = named("clicks")


def event(number: int, signal: Signal, actor: str = "x", document: str = "d", **more: object) -> Event:
    return replace(Event(number, "q", document, actor, signal), **more)  # type: ignore[arg-type]


def up(number: int, actor: str = "x") -> Event:
    return event(number, Signal.THUMBS_UP, actor)


def down(number: int, actor: str = "x") -> Event:
    return event(number, Signal.THUMBS_DOWN, actor)


def test_one_opinion_per_actor_the_latest() -> None:
    [judgment] = judgments([up(1), down(2)], Policy())
    assert (judgment.target, judgment.weight, judgment.actors) == (0.0, 1.0, 1)


def test_the_order_is_that_of_arrival_not_of_the_list() -> None:
    [judgment] = judgments([down(2), up(1)], Policy())
    assert judgment.target == 0.0


def test_what_was_done_later_counts_though_it_arrived_first() -> None:
    [judgment] = judgments([replace(up(1), time=2_000), replace(down(2), time=1_000)], Policy())
    assert judgment.target == 1.0


def test_opinions_of_several_actors_are_averaged() -> None:
    [judgment] = judgments([up(1, "x"), up(2, "y"), down(3, "z"), down(4, "")], Policy())
    assert (judgment.target, judgment.weight, judgment.actors) == (0.5, 4.0, 4)


def test_nameless_events_count_each() -> None:
    [judgment] = judgments([up(1, ""), up(2, ""), down(3, "")], Policy())
    assert judgment.weight == 3.0


def test_one_search_is_one_persons_though_nobody_says_whose() -> None:
    one = [replace(each, search_id="s1") for each in (up(1, ""), up(2, ""), down(3, ""))]
    [judgment] = judgments([*one, replace(up(4, ""), search_id="s2")], Policy())
    assert (judgment.target, judgment.weight) == (0.5, 2.0)


def test_the_same_name_in_two_tenants_is_two_people() -> None:
    [judgment] = judgments([up(1), replace(down(2), tenant="t")], Policy())
    assert judgment.actors == 2


def test_a_grade_is_its_own_target() -> None:
    [judgment] = judgments([event(1, Signal.GRADE, value=0.7)], Policy())
    assert judgment.target == 0.7


def test_a_policy_may_aim_otherwise_and_leave_signals_out() -> None:
    cosine = Policy("cosine", {Signal.THUMBS_UP: Aim(0.8), Signal.THUMBS_DOWN: Aim(-0.5, 2.0)})
    found = judgments([up(1, "x"), down(2, "y"), event(3, Signal.GRADE, "z", value=1.0)], cosine)
    assert found[0].target == (0.8 - 1.0) / 3
    assert found[0].weight == 3.0


def test_what_is_said_outranks_what_is_done_whenever_it_was() -> None:
    for order in ((1, 2), (2, 1)):
        [judgment] = judgments([event(order[0], Signal.THUMBS_DOWN), event(order[1], Signal.CONVERSION)], CLICKS)
        assert (judgment.target, judgment.weight) == (0.0, 1.0)


def test_of_what_is_done_the_weightiest_counts_once() -> None:
    done = [event(1, Signal.CONVERSION), event(2, Signal.CLICK), event(3, Signal.CLICK)]
    [judgment] = judgments(done, CLICKS)
    assert (judgment.target, judgment.weight, judgment.actors) == (1.0, 0.2, 1)


def test_a_short_stay_says_nothing() -> None:
    assert judgments([event(1, Signal.DWELL, value=29.9)], CLICKS) == []
    assert judgments([event(1, Signal.DWELL, value=30.0)], CLICKS) == [Judgment("q", "d", 1.0, 0.15)]


def test_what_was_skipped_above_a_click_is_weakly_bad() -> None:
    taken = [event(1, Signal.CLICK, document="b", search_id="s1"), event(2, Signal.THUMBS_UP, document="a")]
    found = {j.document_id: (j.target, j.weight) for j in judgments(taken, CLICKS, SHOWN)}
    # "a" was shown above, but its actor likes it; "c" was below.
    assert found == {"a": (1.0, 1.0), "b": (1.0, 0.1)}
    found = {j.document_id: (j.target, j.weight) for j in judgments(taken[:1], CLICKS, SHOWN)}
    assert found == {"a": (0.0, 0.02), "b": (1.0, 0.1)}


def test_a_click_taken_back_skips_nothing() -> None:
    taken = [event(1, Signal.CLICK, document="b", search_id="s1"), event(2, Signal.WITHDRAWAL, document="b")]
    assert judgments(taken, CLICKS, SHOWN) == []


@given(EVENTS, POLICIES)
def test_judgments_are_sorted_unique_and_within_range(events: list[Event], policy: Policy) -> None:
    found = judgments(events, policy, SHOWN)
    keys = [(j.query, j.document_id) for j in found]
    assert keys == sorted(set(keys))
    targets = [aim.target for aim in policy.aims.values()] + [policy.grades.worst, policy.grades.best]
    assert all(min(targets) <= j.target <= max(targets) and j.weight > 0 and j.actors > 0 for j in found)
    assert all(j.query == normalized(j.query) and not j.flagged for j in found)


@given(EVENTS, POLICIES, st.randoms(use_true_random=False))
def test_in_which_order_the_list_or_others_come_changes_nothing(events: list[Event], policy: Policy, chance) -> None:  # type: ignore[no-untyped-def]
    """Numbers are handed out anew: each actor's own order stays, whoever comes before whom does not."""
    # Who has no name is known by the number, and who says when by the time.
    events = [replace(e, actor=e.actor or f"nameless {e.number}", time=0) for e in events]
    lines: dict[Actor, list[Event]] = {}
    for each in events:
        lines.setdefault(each.by, []).append(each)
    arrivals = [actor for actor, line in lines.items() for _ in line]
    chance.shuffle(arrivals)
    moved = [replace(lines[actor].pop(0), number=i) for i, actor in enumerate(arrivals, 1)]
    chance.shuffle(moved)
    assert judgments(moved, policy, SHOWN) == judgments(events, policy, SHOWN)


@given(EVENTS, POLICIES, ROWS)
def test_what_is_taken_back_was_never_said(events: list[Event], policy: Policy, row: tuple) -> None:  # type: ignore[type-arg]
    taker = replace(Event(100, *row), signal=Signal.WITHDRAWAL, time=10)
    same = (taker.who, normalized(taker.query), taker.document_id)
    never = [e for e in events if (e.who, normalized(e.query), e.document_id) != same]
    assert judgments([*events, taker], policy, SHOWN) == judgments(never, policy, SHOWN)


@given(EVENTS)
def test_an_opinion_stands_or_what_replaced_it_does(events: list[Event]) -> None:
    stand = standing(events)
    assert standing(stand) == stand
    assert all(e.signal in OPINIONS for e in stand)
    by: dict[object, list[Event]] = {}
    for e in stand:
        by.setdefault((e.who, normalized(e.query), e.document_id), []).append(e)
    for group in by.values():
        assert len(group) == 1 or not any(e.signal in EXPLICIT for e in group)


@given(EVENTS, st.integers(1, 10**9), st.floats(0, 4), st.floats(1, 1000))
def test_weights_for_the_position_are_bounded(events: list[Event], rank: int, bias: float, most: float) -> None:
    implicit = replace(CLICKS.implicit, position_bias=bias, most_inverse=most)
    assert 1 <= implicit.inverse(1) <= implicit.inverse(rank) <= implicit.inverse(rank + 1) <= most
    done = [e for e in events if e.signal not in EXPLICIT]
    heaviest = max(CLICKS.aims[signal].weight for signal in TAKEN) * CLICKS.implicit.most_inverse
    # No implicit opinion weighs more than an explicit one.
    assert heaviest <= 1
    assert all(j.weight <= j.actors * heaviest + 1e-9 for j in judgments(done, CLICKS, SHOWN))


# Floods


def counted(events: list[Event], rules: CrowdRules) -> Crowd:
    """As the database counts."""
    pairs = {(e.by, normalized(e.query), e.document_id) for e in events if e.signal in OPINIONS}
    opinions: dict[Actor, int] = {}
    for by, _, _ in pairs:
        opinions[by] = opinions.get(by, 0) + 1
    minutes: dict[tuple[Actor, int], int] = {}
    for e in events:
        minutes[e.by, e.time // 60_000] = minutes.get((e.by, e.time // 60_000), 0) + 1
    return crowd(opinions, minutes, rules)


@given(honest=st.integers(1, 12), documents=st.integers(1, 60), repeats=st.integers(1, 3))
def test_one_actors_flood_outweighs_no_honest_ones(honest: int, documents: int, repeats: int) -> None:
    rules = CrowdRules(burst_events=10**6, flood_opinions=5)
    flood = [
        event(i, Signal.THUMBS_DOWN, "flooder", f"d{i % documents}", time=i) for i in range(1, documents * repeats + 1)
    ]
    said = [event(10_000 + i, Signal.THUMBS_UP, f"honest {i}", "d0") for i in range(honest)]
    found = judgments([*flood, *said], Policy(), crowd=counted([*flood, *said], rules))
    whole = sum(j.weight for j in found)
    assert whole - honest <= max(rules.flood_opinions, honest) + 1e-9
    [disputed] = [j for j in found if j.document_id == "d0"]
    # On one document a flood is one voice at most, however loud.
    assert disputed.target >= honest / (honest + 1) - 1e-9
    assert disputed.flagged == (documents > max(rules.flood_opinions, honest))


def test_whoever_is_alone_floods_nobody_and_the_nameless_are_nobody() -> None:
    rules = CrowdRules(flood_opinions=5)
    assert crowd({("", "x"): 1_000}, {}, rules).floods == {}
    assert crowd({("", ""): 1_000, ("", "x"): 4}, {(("", ""), 1): 10**6}, rules).actors == frozenset()
    assert crowd({("", "x"): 1_000, ("", ""): 10}, {}, rules).floods == {("", "x"): 0.01}


@pytest.mark.parametrize(("events", "share"), [(60, 1.0), (61, 0.1)])
def test_a_burst_is_more_than_a_person_says_in_a_minute(events: int, share: float) -> None:
    rows = [event(i, Signal.THUMBS_UP, document=f"d{i}", time=60_000 + i) for i in range(events)]
    rows.append(event(999, Signal.THUMBS_UP, document="before", time=59_999))
    found = {j.document_id: j for j in judgments(rows, Policy(), crowd=counted(rows, CrowdRules()))}
    assert (found["d0"].weight, found["d0"].flagged) == (share, share < 1)
    assert (found["before"].weight, found["before"].flagged) == (1.0, False)


def test_a_flood_of_no_weight_is_no_judgment() -> None:
    silenced = Crowd(frozenset({(("", "x"), 0)}), 0.0)
    assert judgments([up(1)], Policy(), crowd=silenced) == []
    [judgment] = judgments([up(1), down(2, "y")], Policy(), crowd=silenced)
    assert (judgment.target, judgment.weight, judgment.actors, judgment.flagged) == (0.0, 1.0, 2, True)

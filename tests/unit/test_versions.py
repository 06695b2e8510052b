"""The life of a version, and the policy over all of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.embedder.domain.versions import (
    IllegalTransition,
    Load,
    Preserving,
    Snapshot,
    State,
    Unload,
    backoff,
    next_actions,
    step,
)

DIGESTS = st.sampled_from("abcdef")
SNAPSHOTS = st.dictionaries(DIGESTS, st.tuples(st.sampled_from(list(State)), st.floats(-5, 5))).map(
    lambda found: [Snapshot(digest, state, retry) for digest, (state, retry) in found.items()]
)


def test_a_life_from_wanted_to_gone() -> None:
    life = [State.FETCHING, State.VERIFYING, State.LOADING, State.WARMING, State.READY, State.QUIESCING, State.GONE]
    state = State.WANTED
    for following in life:
        state = step(state, following)
    assert state is State.GONE


@pytest.mark.parametrize("state", [State.WANTED, State.FETCHING, State.VERIFYING, State.LOADING, State.FAILED])
def test_i4_ready_comes_only_after_warming(state: State) -> None:
    with pytest.raises(IllegalTransition):
        step(state, State.READY)


def test_i4_a_ready_version_quiesces_before_it_is_gone() -> None:
    with pytest.raises(IllegalTransition):
        step(State.READY, State.GONE)


@given(st.lists(DIGESTS), SNAPSHOTS, st.sampled_from(Preserving))
def test_i4_a_desired_version_is_never_let_go(desired: list[str], held: list[Snapshot], preserving: Preserving) -> None:
    assert not {a.digest for a in next_actions(desired, held, preserving) if isinstance(a, Unload)} & set(desired)


@given(st.lists(DIGESTS), SNAPSHOTS)
def test_where_memory_is_to_be_preserved_nothing_is_loaded_before_the_rest_has_left(
    desired: list[str], held: list[Snapshot]
) -> None:
    staying = {s.digest for s in held if s.state is State.READY and s.digest not in desired}
    actions = next_actions(desired, held, Preserving.RESOURCES)
    assert not staying or not any(isinstance(action, Load) for action in actions)


def test_a_ready_version_whose_process_is_lost_loads_again() -> None:
    state = State.READY
    for following in (State.LOADING, State.WARMING, State.READY):
        state = step(state, following)
    assert state is State.READY


@given(st.lists(DIGESTS, min_size=1), SNAPSHOTS)
def test_i4_nothing_is_let_go_while_a_desired_version_is_on_its_way(desired: list[str], held: list[Snapshot]) -> None:
    ready = {s.digest for s in held if s.state is State.READY}
    failed = {s.digest for s in held if s.state is State.FAILED and s.retry_in > 0}
    going = {s.digest for s in held if s.state in (State.QUIESCING, State.GONE)}
    if not set(desired) <= ready | failed | going:
        assert not any(isinstance(action, Unload) for action in next_actions(desired, held))


@given(st.lists(DIGESTS), SNAPSHOTS)
def test_one_load_at_a_time(desired: list[str], held: list[Snapshot]) -> None:
    loads = [action for action in next_actions(desired, held) if isinstance(action, Load)]
    assert len(loads) <= 1
    assert {load.digest for load in loads} <= set(desired)


@given(st.lists(DIGESTS), st.sampled_from(Preserving))
def test_repeating_the_policy_reaches_the_desired_set(desired: list[str], preserving: Preserving) -> None:
    held = {"x": State.READY, "a": State.FAILED}
    for _ in range(20):
        for action in next_actions(desired, [Snapshot(d, s) for d, s in held.items()], preserving):
            if isinstance(action, Load):
                held[action.digest] = State.READY
            else:
                del held[action.digest]
    assert set(held) == set(desired)


@given(st.integers(1, 8))
def test_backoff_grows_to_a_bound(failures: int) -> None:
    assert 0 < backoff(failures) <= backoff(failures + 1) <= 300


@given(st.integers(1, 100), st.integers(1, 100))
def test_i10_tries_to_load_are_bounded(failures: int, attempts: int) -> None:
    assert math.isinf(backoff(failures, attempts=attempts)) == (failures >= attempts)


def test_i10_what_was_given_up_is_not_tried_again() -> None:
    assert next_actions(["a"], [Snapshot("a", State.FAILED, math.inf)]) == []

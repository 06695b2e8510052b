"""The life of a version, and the policy over all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.embedder.domain.versions import (
    IllegalTransition,
    Load,
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


@given(st.lists(DIGESTS), SNAPSHOTS)
def test_i4_a_desired_version_is_never_let_go(desired: list[str], held: list[Snapshot]) -> None:
    assert not {a.digest for a in next_actions(desired, held) if isinstance(a, Unload)} & set(desired)


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


@given(st.lists(DIGESTS))
def test_repeating_the_policy_reaches_the_desired_set(desired: list[str]) -> None:
    held = {"x": State.READY, "a": State.FAILED}
    for _ in range(20):
        for action in next_actions(desired, [Snapshot(d, s) for d, s in held.items()]):
            if isinstance(action, Load):
                held[action.digest] = State.READY
            else:
                del held[action.digest]
    assert set(held) == set(desired)


@given(st.integers(1, 10_000))
def test_backoff_grows_to_a_bound(failures: int) -> None:
    assert 0 < backoff(failures) <= backoff(failures + 1) <= 300

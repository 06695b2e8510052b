"""The life of one version in one replica, and what to do next about all of them.

    WANTED → FETCHING → VERIFYING → LOADING → WARMING → READY → QUIESCING → GONE
       ▲         └──────────┴─────────┬┴─▲───────┴──────┐│
       │                              │  └─ process lost ─┘
       └──── after a pause ──── FAILED ◀┘

Names and rules follow TensorFlow Serving's manager: a version is reported ready only once it
serves, and reported as leaving before it stops.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Where a version is in its life."""

    WANTED = "wanted"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    QUIESCING = "quiescing"
    GONE = "gone"
    FAILED = "failed"


_NEXT: Mapping[State, frozenset[State]] = {
    State.WANTED: frozenset({State.FETCHING, State.GONE}),
    State.FETCHING: frozenset({State.VERIFYING, State.FAILED}),
    State.VERIFYING: frozenset({State.LOADING, State.FAILED}),
    State.LOADING: frozenset({State.WARMING, State.FAILED}),
    State.WARMING: frozenset({State.READY, State.FAILED}),
    State.READY: frozenset({State.QUIESCING, State.LOADING}),
    State.QUIESCING: frozenset({State.GONE}),
    State.FAILED: frozenset({State.WANTED, State.GONE}),
    State.GONE: frozenset(),
}


ON_THE_WAY = frozenset({State.FETCHING, State.VERIFYING, State.LOADING, State.WARMING})


class IllegalTransition(Exception):
    """A step that the life of a version does not have."""


def step(current: State, following: State) -> State:
    """``following``, if it may come after ``current``. Raises ``IllegalTransition``."""
    if following not in _NEXT[current]:
        raise IllegalTransition(f"{current.value} can't become {following.value}")
    return following


class Preserving(Enum):
    """What a change of versions must not cost: the ability to serve, or memory."""

    AVAILABILITY = "availability"
    RESOURCES = "resources"


@dataclass(frozen=True)
class Snapshot:
    """One version as the policy sees it. ``retry_in`` is seconds, for a failed one; infinite if given up."""

    digest: str
    state: State
    retry_in: float = 0.0


@dataclass(frozen=True)
class Load:
    """Begin to bring this version in."""

    digest: str


@dataclass(frozen=True)
class Unload:
    """Let this version go once its requests are done."""

    digest: str


Action = Load | Unload


def next_actions(
    desired: Iterable[str], held: Iterable[Snapshot], preserving: Preserving = Preserving.AVAILABILITY
) -> list[Action]:
    """What brings the replica closer to the desired set.

    Loads are one at a time, since each takes cores and memory from those that serve. What is
    desired is never let go (I4). The rest leaves once nothing desired is on its way any more;
    or first, before anything is loaded, if memory is to be preserved.
    """
    wanted = list(dict.fromkeys(desired))
    by_digest = {snapshot.digest: snapshot for snapshot in held}
    if any(snapshot.state in ON_THE_WAY for snapshot in by_digest.values()):
        return []
    leaving = (State.READY, State.FAILED, State.WANTED)
    unloads: list[Action] = [
        Unload(s.digest) for s in by_digest.values() if s.digest not in wanted and s.state in leaving
    ]
    if unloads and preserving is Preserving.RESOURCES:
        return unloads
    for digest in wanted:
        found = by_digest.get(digest)
        if found is None or found.state is State.WANTED:
            return [Load(digest)]
        if found.state is State.FAILED and found.retry_in <= 0:
            return [Load(digest)]
    return unloads


def backoff(failures: int, base: float = 2.0, most: float = 300.0, attempts: int = 10) -> float:
    """Seconds before the next try after so many failures in a row: doubling, capped; in the end infinite."""
    if failures >= attempts:
        return math.inf
    return min(most, base * 2.0 ** min(failures - 1, 30))

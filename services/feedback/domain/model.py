"""Signals, opinions and judgments."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum


class Signal(Enum):
    """What a person did."""

    THUMBS_UP = "thumbs_up"
    THUMBS_DOWN = "thumbs_down"
    GRADE = "grade"


@dataclass(frozen=True)
class Event:
    """One piece of feedback as stored. ``number`` grows in the order of arrival."""

    number: int
    query: str
    document_id: str
    actor: str
    signal: Signal
    value: float | None = None


@dataclass(frozen=True)
class Aim:
    """What a signal says about relevance, and how much it counts."""

    target: float
    weight: float = 1.0


@dataclass(frozen=True)
class Policy:
    """From signals to judgments. A grade's target is its value; its weight is from the policy."""

    name: str = "thumbs"
    aims: Mapping[Signal, Aim] = field(
        default_factory=lambda: {
            Signal.THUMBS_UP: Aim(1.0),
            Signal.THUMBS_DOWN: Aim(0.0),
            Signal.GRADE: Aim(0.0),
        }
    )


@dataclass(frozen=True)
class Judgment:
    """What training reads about one query and one document."""

    query: str
    document_id: str
    target: float
    weight: float


def normalized(query: str) -> str:
    """The query without differences of white space: what makes two queries the same."""
    return " ".join(query.split())


def judgments(events: Iterable[Event], policy: Policy) -> list[Judgment]:
    """Judgments by query, then document.

    Each actor has one opinion on a query and a document: the latest event that the policy
    reads. Opinions are averaged by weight, and the judgment's weight is their sum. Events
    without an actor are one actor's each.
    """
    opinions: dict[tuple[str, str], dict[str, Aim]] = {}
    for event in sorted(events, key=lambda event: event.number):
        aim = policy.aims.get(event.signal)
        if aim is None or aim.weight <= 0:
            continue
        if event.signal is Signal.GRADE and event.value is not None:
            aim = Aim(event.value, aim.weight)
        actor = event.actor or f"\0{event.number}"
        opinions.setdefault((normalized(event.query), event.document_id), {})[actor] = aim
    result = []
    for (query, document_id), by_actor in sorted(opinions.items()):
        weight = sum(aim.weight for aim in by_actor.values())
        target = sum(aim.target * aim.weight for aim in by_actor.values()) / weight
        result.append(Judgment(query, document_id, target, weight))
    return result

"""Signals, events, what searches showed, and judgments."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Signal(Enum):
    """What a person did."""

    THUMBS_UP = "thumbs_up"
    THUMBS_DOWN = "thumbs_down"
    GRADE = "grade"
    CLICK = "click"
    DWELL = "dwell"
    CONVERSION = "conversion"
    DISMISSAL = "dismissal"
    COMMENT = "comment"
    WITHDRAWAL = "withdrawal"


EXPLICIT = frozenset({Signal.THUMBS_UP, Signal.THUMBS_DOWN, Signal.GRADE})
IMPLICIT = frozenset({Signal.CLICK, Signal.DWELL, Signal.CONVERSION, Signal.DISMISSAL})
# The document served: what was shown above it and left is less likely to have.
TAKEN = frozenset({Signal.CLICK, Signal.DWELL, Signal.CONVERSION})
OPINIONS = EXPLICIT | IMPLICIT

MINUTE_MS = 60_000

# A person within a tenant; ("", "") are all those without a name.
Actor = tuple[str, str]
# Whose opinion an event is: an actor's, else that of a search, else the event's own.
Who = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """One piece of feedback as stored.

    ``number`` grows in the order of arrival; ``time`` is when it was done, in milliseconds since 1970.
    """

    number: int
    query: str
    document_id: str
    actor: str
    signal: Signal
    value: float | None = None
    tenant: str = ""
    search_id: str = ""
    time: int = 0

    @property
    def by(self) -> Actor:
        """The actor within the tenant; both empty for an event without an actor."""
        return (self.tenant, self.actor) if self.actor else ("", "")

    @property
    def who(self) -> Who:
        """Whose opinion it is. One search is one person's, also when nobody says whose."""
        if self.actor:
            return self.tenant, self.actor, ""
        return "", "", f"search {self.search_id}" if self.search_id else f"event {self.number}"

    @property
    def moment(self) -> tuple[int, int]:
        """What makes one event later than another."""
        return self.time, self.number


@dataclass(frozen=True)
class Impression:
    """What a search showed: documents with their ranks, from 1."""

    ranks: Mapping[str, int]


@dataclass(frozen=True)
class Judgment:
    """What training reads about one query and one document.

    ``actors`` opinions made it; ``flagged`` if one of them is of an actor who floods or bursts.
    """

    query: str
    document_id: str
    target: float
    weight: float
    actors: int = 1
    flagged: bool = False


def normalized(query: str) -> str:
    """The query without differences of white space: what makes two queries the same."""
    return " ".join(query.split())

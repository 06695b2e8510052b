"""What must be true, given what was asked and what was answered. Pure: no I/O.

Every call is an interval of ticks. A write that was acknowledged took effect within its interval; one whose
answer never came may have taken effect within it, or never. What a later read shows must be explained by one
such order, and settles it: what was seen to be so can't have been otherwise (no flip-flop).
"""

import itertools
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


class Violation(AssertionError):
    """The service did what it must not do."""


@dataclass(frozen=True)
class Content:
    """A document's content. The text is unlike that of every other content."""

    text: str
    title: str = ""
    group: str = ""
    number: int = 0

    @property
    def passage(self) -> str:
        """The text as the encoder reads it."""
        return f"{self.title}\n{self.text}" if self.title else self.text


# None: the document does not exist.
State = Content | None


@dataclass(eq=False)
class Write:
    """One write of one document. ``call`` and ``position`` order the writes of one stream."""

    id: str
    state: State
    call: int
    position: int
    begun: int
    ended: int | None = None
    acknowledged: bool = False
    # Since when the serving index was known to hold it.
    indexed: int | None = None
    # Since when something else was seen in its place.
    over: int | None = None
    revision: int = 0

    def is_before(self, other: "Write") -> bool:
        """Whether this one took effect before the other, if both did."""
        in_order = self.call == other.call and self.position < other.position
        return in_order or (self.ended is not None and self.ended < other.begun)


@dataclass
class _History:
    writes: list[Write]
    passages: set[str] = field(default_factory=set)
    revisions: dict[int, Content] = field(default_factory=dict)


class Clock:
    """Ticks, each later than all before."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1)

    def tick(self) -> int:
        """The next."""
        # One step of the interpreter, so threads need no lock.
        return next(self._ticks)


class Documents:
    """What the documents may be. Used from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._histories: dict[str, _History] = defaultdict(
            lambda: _History([Write("", None, 0, 0, begun=0, ended=0, acknowledged=True)])
        )

    def begin(self, changes: Sequence[tuple[str, State]]) -> list[Write]:
        """Writes of one call, in their order, about to be sent."""
        with self._lock:
            call = self._clock.tick()
            writes = [Write(i, state, call, position, begun=call) for position, (i, state) in enumerate(changes)]
            for write in writes:
                history = self._histories[write.id]
                history.writes.append(write)
                if write.state:
                    history.passages.add(write.state.passage)
            return writes

    def acknowledge(self, write: Write, revision: int = 0, indexed: bool = False) -> None:
        """The write is durable."""
        with self._lock:
            write.ended, write.acknowledged = self._clock.tick(), True
            write.revision = revision
            if indexed:
                write.indexed = write.ended
            if write.state and revision:
                self._note_revision(write.id, revision, write.state)

    def abandon(self, writes: Sequence[Write]) -> None:
        """No answer came to those without one, and none will: they happened by now, or never will."""
        with self._lock:
            for write in writes:
                write.ended = write.ended or self._clock.tick()

    def cancel(self, write: Write) -> None:
        """The write was refused: it did not happen."""
        with self._lock:
            history = self._histories[write.id]
            history.writes = [other for other in history.writes if other is not write]

    def read(self, document_id: str, state: State, begun: int, revision: int = 0) -> None:
        """A document was seen in this state by a call that began at ``begun``. Raises ``Violation``."""
        with self._lock:
            ended = self._clock.tick()
            history = self._histories[document_id]
            possible = _possible(history.writes, begun, ended)
            if state not in [write.state for write in possible]:
                raise Violation(
                    f"{document_id} was read as {state}; possible were {[write.state for write in possible]}"
                )
            if state and revision:
                acknowledged = [w.revision for w in history.writes if w.acknowledged and (w.ended or 0) < begun]
                if revision < max(acknowledged, default=0):
                    raise Violation(f"{document_id} was read at revision {revision}, once it was at {acknowledged}")
                self._note_revision(document_id, revision, state)
            for write in history.writes:
                # It had ended before this read began and is not what was seen: calls that begin later can't see it.
                if write.state != state and write.ended is not None and write.ended < begun:
                    write.over = write.over or ended

    def possible(self, document_id: str, begun: int) -> list[Write]:
        """The writes of which one was in force, at each moment since ``begun``."""
        with self._lock:
            return _possible(self._histories[document_id].writes, begun, self._clock.tick())

    def passages(self, document_id: str) -> set[str]:
        """All that the document may ever have said."""
        with self._lock:
            return set(self._histories[document_id].passages)

    def ids(self) -> list[str]:
        """All ids that were ever written to."""
        with self._lock:
            return sorted(self._histories)

    def living(self) -> dict[str, Content]:
        """The documents, at a moment without calls and after all were read, when each has one possible state."""
        found: dict[str, Content] = {}
        for document_id in self.ids():
            states = {write.state for write in self.possible(document_id, self._clock.tick())}
            (state,) = states
            if state:
                found[document_id] = state
        return found

    def latest(self, number: int) -> list[str]:
        """The documents that were said to be indexed last."""
        with self._lock:
            when = {i: max(w.indexed or 0 for w in history.writes) for i, history in self._histories.items()}
        return sorted(when, key=lambda i: when[i], reverse=True)[:number]

    def revision(self, document_id: str) -> int:
        """The highest that was seen of a document."""
        with self._lock:
            return max(self._histories[document_id].revisions, default=0)

    def all_indexed(self, before: int) -> None:
        """The serving index holds every write that ended before this tick."""
        with self._lock:
            for history in self._histories.values():
                for write in history.writes:
                    if write.ended is not None and write.ended < before:
                        write.indexed = write.indexed or self._clock.tick()

    def _note_revision(self, document_id: str, revision: int, state: Content) -> None:
        known = self._histories[document_id].revisions.setdefault(revision, state)
        if known != state:
            raise Violation(f"{document_id} has two contents at revision {revision}: {known} and {state}")


def _possible(writes: Sequence[Write], begun: int, ended: int) -> list[Write]:
    """Those that may be in force at a moment between ``begun`` and ``ended``."""
    done = [write for write in writes if write.acknowledged and write.ended is not None and write.ended < begun]
    return [
        w
        for w in writes
        if w.begun < ended and (w.over is None or w.over >= begun) and not any(w.is_before(other) for other in done)
    ]

"""What the threads of one seed share: the process that lives now, the oracle, the gate and the history."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from diapason.client import Client
from diapason.errors import DiapasonError
from tests.chaos.oracle import Clock, Documents, Violation
from tests.chaos.process import Life
from tests.chaos.routes import Routes

COLLECTION = "films"
_QUIET_SECONDS = 20.0


class Died(Exception):
    """The process was killed while a call was on its way. The call may have been carried out, or not."""


class History:
    """What was asked and answered, in the order of writing it down."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._began = time.monotonic()

    def note(self, text: str) -> None:
        """Add a line, with the time and the thread."""
        self._lines.append(f"{time.monotonic() - self._began:8.3f} {threading.current_thread().name:8} {text}")

    @property
    def lines(self) -> list[str]:
        """So far."""
        return list(self._lines)


class Gate:
    """Lets threads work while it is open; closing waits until none is at work."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = False
        self._over = False
        self._inside = 0

    @contextmanager
    def passed(self) -> Iterator[bool]:
        """Wait until it is open; False if it will not open again."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._over)
            if self._over:
                yield False
                return
            self._inside += 1
        try:
            yield True
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def open(self) -> None:
        """Let threads in."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in."""
        with self._changed:
            self._open = False

    def close(self) -> None:
        """Let nobody in, and return once nobody is inside. Raises ``Violation`` if a call hangs."""
        with self._changed:
            self._open = False
            if not self._changed.wait_for(lambda: not self._inside, _QUIET_SECONDS):
                raise Violation(f"calls did not end within {_QUIET_SECONDS:.0f} s")

    def end(self) -> None:
        """Send everybody home."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


class World:
    """One collection of one search service, through many lives."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.documents = Documents(self.clock)
        self.routes = Routes()
        self.history = History()
        self.gate = Gate()
        self.life: Life | None = None
        self.failure: Exception | None = None
        self.counts: dict[str, int] = {}
        # Whether documents can be found by their words too.
        self.has_words = False
        self._lock = threading.Lock()

    def count(self, what: str, by: int = 1) -> None:
        """Note that something was done, for the table."""
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + by

    def fail(self, error: Exception) -> None:
        """Keep the first failure of any thread."""
        with self._lock:
            self.failure = self.failure or error
        self.history.note(f"FAILED {type(error).__name__}: {error}")

    @contextmanager
    def asking(self, what: str, *refusals: type[DiapasonError]) -> Iterator[Client]:
        """Calls to the process that lives now; the errors named are answers, others must not be.

        Raises ``Died`` where it was killed meanwhile, ``Violation`` where it failed without that.
        """
        life = self.life
        assert life is not None
        try:
            yield life.client
        except refusals as refusal:
            self.history.note(f"{what} refused: {refusal}")
            raise
        except DiapasonError as error:
            if life.killed.is_set():
                self.history.note(f"{what} unanswered: {type(error).__name__}")
                raise Died from error
            life.check()
            raise Violation(f"{what} failed while the process lived: {type(error).__name__}: {error}") from error

"""What runs and rollouts share while a worker drives them."""

import threading
import time


class Interrupted(Exception):
    """The worker is shutting down; the job is given back and goes on elsewhere or later."""


class StopRequested(Exception):
    """A person cancelled the run or aborted the rollout."""


class Shutdown:
    """Set when the worker must stop. One per worker process."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """From now on, `check` and `pause` raise."""
        self._event.set()

    def check(self) -> None:
        """Raise ``Interrupted`` if the worker must stop."""
        if self._event.is_set():
            raise Interrupted

    def pause(self, seconds: float) -> None:
        """Wait, or raise ``Interrupted`` as soon as the worker must stop."""
        if self._event.wait(seconds):
            raise Interrupted


class Every:
    """True at most once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True

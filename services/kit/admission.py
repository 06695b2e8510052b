"""How many requests may be at work at once (I10)."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.kit.errors import Overloaded


class Admission:
    """A bound on requests at work. Used from the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place for the block. Raises ``Overloaded`` at once if there is none."""
        if self._admitted >= self._limit:
            raise Overloaded(f"{self._limit} requests are at work already; try again after the delay given")
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

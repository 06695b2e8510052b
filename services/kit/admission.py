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
    def admitted(self, places: int = 1) -> Iterator[None]:
        """Hold places for the block, all of them at most. Raises ``Overloaded`` at once if so many are not free."""
        places = min(places, self._limit)
        if self._admitted + places > self._limit:
            raise Overloaded(f"{self._limit} requests may be at work at once; try again after the delay given")
        self._admitted += places
        try:
            yield
        finally:
            self._admitted -= places

"""Whether people search right now, so that work in the background can step aside."""

import time

_RECENT_SECONDS = 1.0


class Activity:
    """Notes the time of the last search."""

    def __init__(self) -> None:
        self._last = -_RECENT_SECONDS

    def note(self) -> None:
        """A search began."""
        self._last = time.monotonic()

    def recent(self) -> bool:
        """Whether one began within the last second."""
        return time.monotonic() - self._last < _RECENT_SECONDS

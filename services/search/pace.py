"""Doing no more in a second than was asked for."""


class Pace:
    """A bound on documents per second; zero for none."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0

    def batch(self, size: int) -> int:
        """So many at once that there is something every second."""
        return max(1, min(size, int(self._rate))) if self._rate else size

    def delay(self, documents: int, now: float) -> float:
        """Seconds to wait before so many are begun. ``now`` on a clock that only goes forward."""
        if not self._rate:
            return 0.0
        begins = max(now, self._next)
        self._next = begins + documents / self._rate
        return begins - now

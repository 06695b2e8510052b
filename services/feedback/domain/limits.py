"""How fast one actor may send (I10): a token bucket for each, of a bounded number."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from services.feedback.domain.model import Actor

# Of sums of fractions of a token.
_TOLERANCE = 1e-6


@dataclass
class _Bucket:
    tokens: float
    filled: float


class Limits:
    """Buckets of ``per_minute`` tokens that fill evenly; an event takes one. 0: no limit.

    The least recently used of more than ``most`` actors are forgotten, which fills their buckets. A batch larger
    than a bucket is taken when the bucket is full, and leaves it in debt.
    """

    def __init__(self, per_minute: int, most: int = 100_000) -> None:
        self._size, self._most = float(per_minute), most
        self._buckets: OrderedDict[Actor, _Bucket] = OrderedDict()

    def take(self, events: Mapping[Actor, int], now: float) -> float:
        """Take tokens for all events, or none: then the seconds until it may be tried again, else 0.

        ``now`` in seconds by a clock that never goes back.
        """
        if not self._size:
            return 0.0
        buckets = {actor: self._bucket(actor, now) for actor in events}
        missing = max((min(count, self._size) - buckets[actor].tokens for actor, count in events.items()), default=0.0)
        if missing > _TOLERANCE:
            return missing * 60 / self._size
        for actor, count in events.items():
            buckets[actor].tokens -= count
        return 0.0

    def give_back(self, events: Mapping[Actor, int]) -> None:
        """Return the tokens of events that were not stored."""
        for actor, count in events.items():
            if actor in self._buckets:
                self._buckets[actor].tokens = min(self._size, self._buckets[actor].tokens + count)

    def _bucket(self, actor: Actor, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(actor, _Bucket(self._size, now))
        self._buckets.move_to_end(actor)
        while len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._size, bucket.tokens + (now - bucket.filled) * self._size / 60)
        bucket.filled = now
        return bucket

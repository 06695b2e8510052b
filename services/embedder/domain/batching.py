"""Which waiting texts go into the next forward pass."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Bounds:
    """At most so many texts, and so many padded tokens (texts × longest), in one pass."""

    texts: int = 64
    tokens: int = 4096


def take(queue: "deque[Item]", length: Callable[[Item], int], bounds: Bounds) -> list[Item]:
    """Remove and return the longest prefix of ``queue`` that stays within the bounds.

    At least one item is taken from a queue that is not empty. ``length`` gives an item's tokens.
    """
    taken: list[Item] = []
    longest = 0
    while queue and len(taken) < bounds.texts:
        longest = max(longest, length(queue[0]))
        if taken and longest * (len(taken) + 1) > bounds.tokens:
            break
        taken.append(queue.popleft())
    return taken


class Lanes(Generic[Item]):
    """Two queues, interactive before bulk, with one bound on all that waits."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._interactive: deque[Item] = deque()
        self._bulk: deque[Item] = deque()

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._interactive) + len(self._bulk)

    def offer(self, items: list[Item], bulk: bool) -> bool:
        """Queue all of ``items`` or none; False if there is no room."""
        if len(self) + len(items) > self._capacity:
            return False
        (self._bulk if bulk else self._interactive).extend(items)
        return True

    def next_batch(self, length: Callable[[Item], int], bounds: Bounds) -> list[Item]:
        """The next batch, from the first lane that has any. Batches never mix lanes."""
        return take(self._interactive or self._bulk, length, bounds)

    def clear(self) -> list[Item]:
        """Remove and return everything."""
        everything = [*self._interactive, *self._bulk]
        self._interactive.clear()
        self._bulk.clear()
        return everything

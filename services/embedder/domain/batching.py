"""Which waiting texts go into the next forward pass."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar


class Lane(Enum):
    """Who waits: a person, or a machine at work on many texts."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Waiting(Protocol):
    """A queued text. ``tokens`` is an estimate; ``since`` is on the clock of ``next_batch``."""

    @property
    def tokens(self) -> int:
        """Its length."""
        ...

    @property
    def since(self) -> float:
        """When it came."""
        ...

    @property
    def kind(self) -> object:
        """A batch has texts of one kind."""
        ...

    @property
    def dead(self) -> bool:
        """Nobody waits for it any more."""
        ...


Item = TypeVar("Item", bound=Waiting)


@dataclass(frozen=True)
class Bounds:
    """At most so many texts, and so many padded tokens (texts × longest)."""

    texts: int
    tokens: int


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """Texts of one version and one lane. ``solo``: nothing else may run in its process meanwhile."""

    version: str
    lane: Lane
    items: list[Item]
    solo: bool = False


# As many texts as are looked through for some of the same length.
WINDOW = 64
# One thread gains nothing from larger batches (two documents of 100 words give 0.98 of the best rate),
# and a query that comes while one runs waits for no more than this.
BATCHES = {Lane.INTERACTIVE: Bounds(texts=32, tokens=512), Lane.BULK: Bounds(texts=32, tokens=384)}
# A bulk text that has waited so many seconds without any bulk batch begun goes before interactive ones.
PATIENCE = 0.1


def similar(lengths: list[int], bounds: Bounds) -> list[int]:
    """Positions to batch together: the first, which is the oldest, with those nearest to it in length.

    The first alone may exceed the bounds. Positions come in ascending order.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    low = high = order.index(0)
    longest = lengths[0]
    while high - low + 1 < bounds.texts:
        shorter = longest - lengths[order[low - 1]] if low else None
        longer = lengths[order[high + 1]] - longest if high + 1 < len(order) else None
        count = high - low + 2
        # Whichever wastes less: padding one shorter text, or padding all of these to one longer.
        if shorter is not None and (longer is None or shorter <= longer * (count - 1)):
            if longest * count > bounds.tokens:
                break
            low -= 1
        elif longer is not None:
            if (longest + longer) * count > bounds.tokens:
                break
            high, longest = high + 1, longest + longer
        else:
            break
    return sorted(order[low : high + 1])


class Lanes(Generic[Item]):
    """What waits, by lane and version. ``capacity`` bounds each lane."""

    def __init__(
        self, capacity: Bounds, batches: Mapping[Lane, Bounds] | None = None, patience: float = PATIENCE
    ) -> None:
        self._capacity = capacity
        self._batches = batches or BATCHES
        self._patience = patience
        self._queues: dict[Lane, dict[str, deque[Item]]] = {lane: {} for lane in Lane}
        self._texts = dict.fromkeys(Lane, 0)
        self._tokens = dict.fromkeys(Lane, 0)
        self._bulk_began = 0.0

    def __len__(self) -> int:
        """Texts that wait."""
        return sum(self._texts.values())

    def tokens(self, lane: Lane) -> int:
        """Tokens that wait in a lane."""
        return self._tokens[lane]

    def room(self, lane: Lane, texts: int, tokens: int) -> bool:
        """Whether so much more would be admitted. An empty lane admits anything: it must go somehow."""
        if not self._texts[lane]:
            return True
        return (
            self._texts[lane] + texts <= self._capacity.texts and self._tokens[lane] + tokens <= self._capacity.tokens
        )

    def offer(self, version: str, lane: Lane, items: list[Item]) -> bool:
        """Queue all of ``items`` or none; False if there is no room."""
        if not self.room(lane, len(items), sum(item.tokens for item in items)):
            return False
        self._queues[lane].setdefault(version, deque()).extend(items)
        self._count(lane, items, 1)
        return True

    def next_batch(self, now: float, may_start: Callable[[str], bool]) -> Batch[Item] | None:
        """The next batch of a version that may start one, or None. What is dead is dropped on the way."""
        while True:
            interactive, bulk = self._oldest(Lane.INTERACTIVE, may_start), self._oldest(Lane.BULK, may_start)
            lane, version = Lane.INTERACTIVE, interactive
            if bulk and (interactive is None or self._overdue(self._queues[Lane.BULK][bulk][0], now)):
                lane, version = Lane.BULK, bulk
            if version is None:
                return None
            if taken := self._take(lane, version):
                self._bulk_began = now if lane is Lane.BULK else self._bulk_began
                return Batch(version, lane, taken)

    def remove(self, version: str) -> list[Item]:
        """Remove and return all that waits for a version."""
        removed = []
        for lane, queues in self._queues.items():
            items = list(queues.pop(version, ()))
            self._count(lane, items, -1)
            removed += items
        return removed

    def purge(self, lane: Lane) -> None:
        """Drop all that is dead in a lane, wherever it stands."""
        for version, queue in list(self._queues[lane].items()):
            items = list(queue)
            self._queues[lane][version] = deque(self._living(lane, items))

    def waiting(self) -> Iterator[tuple[Lane, str, int, int, float]]:
        """Lane, version, texts, tokens and the oldest's arrival, for each queue that is not empty."""
        for lane, queues in self._queues.items():
            for version, queue in list(queues.items()):
                if items := list(queue):
                    yield lane, version, len(items), sum(item.tokens for item in items), items[0].since

    def _oldest(self, lane: Lane, may_start: Callable[[str], bool]) -> str | None:
        """The version whose first text has waited longest."""
        found: tuple[float, str] | None = None
        for version in list(self._queues[lane]):
            queue = self._queues[lane][version]
            while queue and queue[0].dead:
                self._count(lane, [queue.popleft()], -1)
            if not queue:
                del self._queues[lane][version]
            elif may_start(version) and (found is None or queue[0].since < found[0]):
                found = (queue[0].since, version)
        return found[1] if found else None

    def _overdue(self, head: Item, now: float) -> bool:
        return now - max(head.since, self._bulk_began) > self._patience

    def _take(self, lane: Lane, version: str) -> list[Item]:
        """A batch off the queue; nothing if all that was looked through is dead."""
        queue = self._queues[lane][version]
        alive = self._living(lane, [queue.popleft() for _ in range(min(WINDOW, len(queue)))])
        if not alive:
            return []
        alike = [i for i, item in enumerate(alive) if item.kind == alive[0].kind]
        chosen = [alike[i] for i in similar([alive[i].tokens for i in alike], self._batches[lane])]
        taken = [alive[i] for i in chosen]
        left = set(range(len(alive))) - set(chosen)
        queue.extendleft(alive[i] for i in sorted(left, reverse=True))
        self._count(lane, taken, -1)
        return taken

    def _living(self, lane: Lane, items: list[Item]) -> list[Item]:
        """Those that are not dead; the others are no longer counted. Asked once: the answer depends on the clock."""
        dead = [item.dead for item in items]
        self._count(lane, [item for item, gone in zip(items, dead, strict=True) if gone], -1)
        return [item for item, gone in zip(items, dead, strict=True) if not gone]

    def _count(self, lane: Lane, items: list[Item], sign: int) -> None:
        self._texts[lane] += sign * len(items)
        self._tokens[lane] += sign * sum(item.tokens for item in items)


class TokenEstimate:
    """Tokens of a text by its characters, learnt from what the tokenizer said of earlier ones."""

    # English prose has four to five characters to a token; the estimate begins on the safe side.
    _FIRST = 1 / 3
    # Those that encoders put around each text.
    _SPECIAL = 2
    # What was seen before counts as much as so many characters.
    _MEMORY = 20_000

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._per_character = self._FIRST

    def __call__(self, characters: int) -> int:
        """At least 1, at most what the version reads."""
        return min(self._max_tokens, int(characters * self._per_character) + self._SPECIAL)

    def learn(self, texts: int, characters: int, tokens: int) -> None:
        """Take note of texts that were not truncated, all together."""
        if characters:
            share = characters / (characters + self._MEMORY)
            own = max(0, tokens - texts * self._SPECIAL)
            self._per_character += share * (own / characters - self._per_character)

"""Who computes next: all versions' waiting texts, onto the slots that the cores allow.

One slot is one batch in flight. Slots are shared by all resident versions, so that together they
never use more threads than there are, and a lane's order holds across versions.
"""

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog

from services.embedder.domain.batching import Batch, Bounds, Lane, Lanes
from services.embedder.domain.caching import Cache
from services.embedder.worker.runtime import Outcome, Output, Passages, Work
from services.embedder.workers import Answered, BatchFailed, WorkerLost
from services.kit.context import request_id
from services.kit.errors import InvalidArgument, Overloaded, ServiceError, Unavailable, Violation

log = structlog.get_logger()

# Before anything was computed: about what two cores do with all-MiniLM-L6-v2.
_FIRST_TOKENS_PER_SECOND = 20_000.0
_LEAST_RETRY, _MOST_RETRY = 0.05, 30.0
# Once with others, then twice alone: what ends its process again and again gets the blame.
_MOST_LOSSES = 3


# So many texts in a row that failed one by one: it is not they, it is the process.
_MOST_FAILURES = 64
# Texts that seem to end their process are remembered, though not for long: it may have been killed from outside.
_REMEMBERED, _BLAME_SECONDS = 1000, 600.0
# Looking through a full lane for what is dead takes milliseconds; no more often than this.
_PURGE_SECONDS = 0.25


_ENDS_PROCESS = "it ends the inference process; leave it out"


class Uncomputable(InvalidArgument):
    """One text that this version can't compute, ``fault`` being why."""

    def __init__(self, fault: str) -> None:
        super().__init__(Violation("text", fault))
        self.fault = fault


class Computes(Protocol):
    """An inference process, to the scheduler."""

    def kill(self) -> None:
        """End it at once, as if it had crashed."""
        ...

    def submit(self, inputs: Sequence[Work], wide: bool, answered: Answered) -> None:
        """Send a batch."""
        ...


@dataclass(slots=True)
class Answer:
    """One text's part of a batch. Times in seconds."""

    row: npt.NDArray[np.float32]
    tokens: int
    truncated: bool
    queued: float = 0.0
    tokenization: float = 0.0
    inference: float = 0.0


Result = Answer | Passages | ServiceError


class Request:
    """Texts that came together and are answered together: ``results`` has one entry for each, in order."""

    def __init__(self, texts: int, deadline: float) -> None:
        self.results: list[Result | None] = [None] * texts
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self.id = request_id()
        self._missing = texts

    def settle(self, index: int, result: Result) -> None:
        """Take one text's result."""
        self.results[index] = result
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True)
class Item:
    """One waiting text. Dead once its caller has gone or its time has passed."""

    request: Request
    index: int
    input: Work
    tokens: int
    since: float
    losses: int = 0

    @property
    def kind(self) -> type[Work]:
        """Texts, pairs and cuts don't go together."""
        return type(self.input)

    @property
    def dead(self) -> bool:
        """Nobody waits for it any more."""
        return self.request.done.done() or self.request.deadline < time.monotonic()


class Observer(Protocol):
    """What wants to know of each batch."""

    def computed(self, batch: Batch[Item], output: Output, queued: float, seconds: float) -> None:
        """A batch was answered."""
        ...


@dataclass
class _Process:
    computes: Computes | None
    in_flight: int = 0
    solo: bool = False
    failures: int = 0


class Scheduler:
    """Lanes in front, slots behind. Used from the event loop only."""

    def __init__(self, slots: int, capacity: Bounds, observer: Observer) -> None:
        self._slots = self._free = slots
        self._observer = observer
        self._lanes: Lanes[Item] = Lanes(capacity)
        self._processes: dict[str, _Process] = {}
        # Batches that were lost or failed, to be tried again in smaller ones.
        self._again: deque[Batch[Item]] = deque()
        self._pumping = False
        self._tokens_per_second = _FIRST_TOKENS_PER_SECOND
        self._roomier = asyncio.Event()
        self._turns = {lane: asyncio.Lock() for lane in Lane}
        self._purged_at = dict.fromkeys(Lane, -math.inf)
        self._blamed: Cache[tuple[str, bytes], float] = Cache(_REMEMBERED)

    def attach(self, version: str, computes: Computes) -> None:
        """Begin, or go on after a loss, to give the version's texts to this process."""
        self._processes[version] = _Process(computes)
        self._pump_soon()

    def pause(self, version: str) -> bool:
        """Its process is gone and another comes: its texts wait. True if a single text is to blame."""
        process = self._processes.get(version)
        if process is None:
            return False
        self._processes[version] = _Process(None)
        return process.solo

    def detach(self, version: str, reason: str) -> None:
        """It is not coming back: what waits for it is answered so."""
        self._processes.pop(version, None)
        again = [item for batch in self._again if batch.version == version for item in batch.items]
        self._again = deque(batch for batch in self._again if batch.version != version)
        for item in (*again, *self._lanes.remove(version)):
            item.request.settle(item.index, Unavailable(reason))
        self._pump_soon()

    def submit(
        self, version: str, lane: Lane, inputs: Sequence[Work], tokens: Sequence[int], deadline: float
    ) -> Request:
        """Queue texts with estimates of their tokens.

        Raises ``Overloaded`` at once if there is no room, ``Unavailable`` if the version is not attached.
        """
        if version not in self._processes:
            raise Unavailable("the version was let go")
        now = time.perf_counter()
        request = Request(len(inputs), deadline)
        items = [
            Item(request, index, text, length, now)
            for index, (text, length) in enumerate(zip(inputs, tokens, strict=True))
        ]
        for item in items:
            self._recall_blame(version, item)
        if not self._offer(version, lane, [item for item in items if request.results[item.index] is None]):
            wait = self._lanes.tokens(lane) / self._tokens_per_second
            raise Overloaded(
                f"the {lane.value} queue is full; try again after the delay given",
                min(_MOST_RETRY, max(_LEAST_RETRY, wait)),
            )
        self._pump_soon()
        return request

    async def room(self, lane: Lane, tokens: Sequence[int]) -> None:
        """Wait until so many texts would be admitted. First come, first served: who needs much is not passed over."""
        async with self._turns[lane]:
            while not self._lanes.room(lane, len(tokens), sum(tokens)):
                self._purge(lane)
                self._roomier.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PURGE_SECONDS):
                        await self._roomier.wait()

    def waiting(self) -> Iterator[tuple[Lane, str, int, int, float]]:
        """Lane, version, texts, tokens and age in seconds of the oldest, for each queue that is not empty."""
        now = time.perf_counter()
        for lane, version, texts, tokens, since in self._lanes.waiting():
            yield lane, version, texts, tokens, now - since

    def in_flight(self) -> Iterator[tuple[str, int]]:
        """Batches being computed, by version."""
        for version, process in list(self._processes.items()):
            yield version, process.in_flight

    def _offer(self, version: str, lane: Lane, items: list[Item]) -> bool:
        if self._lanes.offer(version, lane, items):
            return True
        # Dead texts hold places until their turn comes, which for a version without a process it doesn't.
        return self._purge(lane) and self._lanes.offer(version, lane, items)

    def _purge(self, lane: Lane) -> bool:
        now = time.monotonic()
        if now - self._purged_at[lane] < _PURGE_SECONDS:
            return False
        self._purged_at[lane] = now
        self._lanes.purge(lane)
        return True

    def _pump_soon(self) -> None:
        # At the end of this round of the loop, so that what arrives together is batched together.
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        while self._free and (batch := self._next()) is not None:
            self._start(batch)
        self._roomier.set()

    def _next(self) -> Batch[Item] | None:
        for batch in self._again:
            if self._may_start(batch.version, batch.solo):
                self._again.remove(batch)
                return batch
        held_back = {batch.version for batch in self._again}
        return self._lanes.next_batch(
            time.perf_counter(), lambda version: version not in held_back and self._may_start(version, False)
        )

    def _may_start(self, version: str, solo: bool) -> bool:
        process = self._processes.get(version)
        return bool(process and process.computes and not process.solo and not (solo and process.in_flight))

    def _start(self, batch: Batch[Item]) -> None:
        items = [item for item in batch.items if not item.dead]
        if not items:
            return
        batch = Batch(batch.version, batch.lane, items, batch.solo)
        process = self._processes[batch.version]
        # With nothing else to do, all threads work on this one; what comes meanwhile is batched.
        wide = batch.lane is Lane.INTERACTIVE and self._free == self._slots and not len(self._lanes)
        cost = self._slots if wide else 1
        self._free -= cost
        process.in_flight += 1
        process.solo = batch.solo
        started = time.perf_counter()

        def answered(outcome: Outcome | Exception) -> None:
            self._free += cost
            process.in_flight -= 1
            process.solo = False
            self._settle(batch, outcome, started)

        assert process.computes is not None  # it may start
        process.computes.submit([item.input for item in items], wide, answered)

    def _settle(self, batch: Batch[Item], outcome: Outcome | Exception, started: float) -> None:
        match outcome:
            case Output() | list():
                if process := self._processes.get(batch.version):
                    process.failures = 0
                try:
                    self._pump()  # the next batch goes out before this one's answers do
                finally:
                    self._deliver(batch, outcome, started)
                return
            case WorkerLost():
                self._after_loss(batch)
            case BatchFailed() if len(batch.items) > 1:
                # Taken apart, so that only the texts that can't be computed get the error.
                middle = len(batch.items) // 2
                for half in (batch.items[:middle], batch.items[middle:]):
                    self._again.append(Batch(batch.version, batch.lane, half, batch.solo))
            case _:
                self._after_failure(batch, outcome)
        self._pump_soon()

    def _after_failure(self, batch: Batch[Item], error: Exception) -> None:
        """One text that can't be computed, unless it is the process that can't compute."""
        [item] = batch.items
        trace = error.trace if isinstance(error, BatchFailed) else ""
        log.warning("a text failed", version=batch.version, error=str(error), trace=trace, request_id=item.request.id)
        item.request.settle(item.index, Uncomputable(f"this version can't compute it ({error}); leave it out"))
        process = self._processes.get(batch.version)
        if process and process.computes:
            process.failures += 1
            if process.failures >= _MOST_FAILURES:
                process.failures = 0
                process.computes.kill()

    def _after_loss(self, batch: Batch[Item]) -> None:
        """Every text of a batch that was lost is tried again, alone; inference repeats without harm."""
        for item in batch.items:
            item.losses += 1
            if item.losses >= _MOST_LOSSES:
                log.error("a text ends its process", version=batch.version, request_id=item.request.id)
                self._blamed.put((batch.version, _fingerprint(item.input)), time.monotonic() + _BLAME_SECONDS)
                item.request.settle(item.index, Uncomputable(_ENDS_PROCESS))
            elif batch.version in self._processes:
                self._again.append(Batch(batch.version, batch.lane, [item], solo=True))
            else:
                item.request.settle(item.index, Unavailable("the version was let go"))

    def _recall_blame(self, version: str, item: Item) -> None:
        until = self._blamed.get((version, _fingerprint(item.input))) if len(self._blamed) else None
        if until and time.monotonic() < until:
            item.request.settle(item.index, Uncomputable(_ENDS_PROCESS))

    def _deliver(self, batch: Batch[Item], output: Outcome, started: float) -> None:
        if isinstance(output, list):
            for item, passages in zip(batch.items, output, strict=True):
                item.request.settle(item.index, passages)
            return
        seconds = time.perf_counter() - started
        self._tokens_per_second += 0.05 * (
            sum(output.tokens) * self._slots / max(seconds, 1e-6) - self._tokens_per_second
        )
        for index, item in enumerate(batch.items):
            item.request.settle(
                item.index,
                Answer(
                    output.rows[index],
                    output.tokens[index],
                    output.truncated[index],
                    started - item.since,
                    output.tokenization,
                    output.inference,
                ),
            )
        self._observer.computed(batch, output, started - min(item.since for item in batch.items), seconds)


def _fingerprint(text: Work) -> bytes:
    return hashlib.sha256("\0".join([text] if isinstance(text, str) else map(str, text)).encode()).digest()

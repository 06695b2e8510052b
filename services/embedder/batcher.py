"""Requests to one resident version, gathered into batches and run on that version's own thread."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from services.embedder.domain.batching import Bounds, Lanes
from services.embedder.runtime import Embedded, Runtime
from services.kit.errors import Overloaded, ServiceError

log = structlog.get_logger()


@dataclass
class Answer:
    """One text's part of a batch. Times in seconds."""

    vector: bytes
    tokens: int
    truncated: bool
    queued: float
    inference: float


@dataclass
class _Waiting:
    text: str
    answer: asyncio.Future[Answer]
    since: float


class Batcher:
    """Queues texts and embeds what has gathered, as soon as the thread is free: no delay timer.

    A batch that fails is taken apart, so that only the texts that can't be embedded get the error.
    """

    def __init__(self, runtime: Runtime, capacity: int, bounds: Bounds | None = None) -> None:
        self._runtime = runtime
        self._bounds = bounds or Bounds()
        self._lanes: Lanes[_Waiting] = Lanes(capacity)
        self._work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._loop_task = asyncio.create_task(self._run())

    async def embed(self, texts: list[str], bulk: bool) -> list[Answer]:
        """One answer per text, in order. Raises ``Overloaded`` at once if the queue has no room."""
        loop, now = asyncio.get_running_loop(), time.perf_counter()
        waiting = [_Waiting(text, loop.create_future(), now) for text in texts]
        if not self._lanes.offer(waiting, bulk):
            raise Overloaded("the embedder's queue is full; try again after the delay given")
        self._work.set()
        try:
            return await asyncio.gather(*(item.answer for item in waiting))
        except ServiceError:
            # The others' failures belong to the same answer; looked at, so that none counts as forgotten.
            await asyncio.gather(*(item.answer for item in waiting), return_exceptions=True)
            raise
        finally:
            for item in waiting:
                item.answer.cancel()  # a caller that has gone leaves nothing to compute

    async def close(self) -> None:
        """Stop. Nothing may be waiting any more: the resident's lease count sees to that."""
        self._loop_task.cancel()
        await asyncio.gather(self._loop_task, return_exceptions=True)
        for item in self._lanes.clear():
            item.answer.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            batch = self._lanes.next_batch(lambda item: _tokens(item.text), self._bounds)
            if not self._lanes:
                self._work.clear()
            try:
                await self._embed(batch)
            except Exception as error:  # whatever it is, those who come after must not wait for ever
                log.exception("a batch was lost")
                _refuse(batch, error)

    async def _embed(self, batch: list[_Waiting]) -> None:
        batch = [item for item in batch if not item.answer.done()]
        if not batch:
            return
        started = time.perf_counter()
        texts = [item.text for item in batch]
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._runtime.embed, texts)
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._embed(batch[:middle])
                await self._embed(batch[middle:])
                return
            log.exception("a text could not be embedded")
            _refuse(batch, error)
            return
        self._deliver(batch, found, started)

    def _deliver(self, batch: list[_Waiting], found: Embedded, started: float) -> None:
        took = time.perf_counter() - started
        for i, item in enumerate(batch):
            if not item.answer.done():
                answer = Answer(
                    found.vectors[i].tobytes(),
                    found.token_counts[i],
                    found.truncated[i],
                    started - item.since,
                    took,
                )
                item.answer.set_result(answer)


def _refuse(batch: list[_Waiting], error: Exception) -> None:
    for item in batch:
        if not item.answer.done():
            item.answer.set_exception(ServiceError(f"inference failed: {type(error).__name__}"))


def _tokens(text: str) -> int:
    """A cheap estimate, on the safe side for English: three characters to a token."""
    return len(text) // 3 + 2

"""Many small calls at once become a few large ones.

While a call is under way, those that come meanwhile wait and go together in the next one. A call
that comes alone goes at once and alone: nothing waits for company.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.kit.errors import DeadlineExceeded, Overloaded, Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")


_Entry = tuple[Item, "asyncio.Future[Answer]", contextvars.Context]


class Gather(Generic[Item, Answer]):
    """Calls ``work`` with up to ``most`` items, ``at_once`` times at the same time. Used from the event loop only.

    ``work`` returns an answer for each item, in order. If it fails for several, each is tried alone, so
    that one caller's bad item is that caller's only; unless what it needs is away or too busy. Whoever
    gives up waiting is left out.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], most: int, at_once: int = 1
    ) -> None:
        self._work, self._most, self._free = work, most, at_once
        self._waiting: deque[_Entry[Item, Answer]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Answer:
        """The answer for one item."""
        if self._free and not self._waiting:
            self._free -= 1
            try:
                [answer] = await self._work([item])
                return answer
            finally:
                self._free += 1
                self._begin()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, contextvars.copy_context()))
        self._begin()
        return await future

    def _begin(self) -> None:
        """Take up what waits, if there is room."""
        if self._waiting and self._free:
            self._free -= 1
            task = asyncio.create_task(self._drain(), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        try:
            while True:
                batch: list[_Entry[Item, Answer]] = []
                while self._waiting and len(batch) < self._most:
                    entry = self._waiting.popleft()
                    if not entry[1].done():
                        batch.append(entry)
                if not batch:
                    return
                await self._answer(batch)
        finally:
            self._free += 1

    async def _answer(self, batch: "list[_Entry[Item, Answer]]") -> None:
        items = [item for item, _, _ in batch]
        try:
            # Alone, it runs as part of its request: with its id, its trace and its deadline.
            context = batch[0][2] if len(batch) == 1 else contextvars.Context()
            answers = await asyncio.create_task(_call(self._work, items), context=context)
            if len(answers) != len(batch):
                raise ValueError(f"{len(answers)} answers to {len(batch)} items")
            for (_, future, _), answer in zip(batch, answers, strict=True):
                if not future.done():  # else whoever waited has gone
                    future.set_result(answer)
        except Exception as error:
            for entry in batch:
                if entry[1].done():
                    continue
                # What is away or too busy is so for all; anything else may be the fault of one.
                if len(batch) == 1 or isinstance(error, Unavailable | Overloaded | DeadlineExceeded):
                    entry[1].set_exception(error)
                else:
                    await self._answer([entry])
        except BaseException:
            for _, future, _ in batch:
                future.cancel()
            raise


async def _call(
    work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], items: Sequence[Item]
) -> Sequence[Answer]:
    return await work(items)

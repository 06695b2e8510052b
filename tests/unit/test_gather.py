"""Many small calls at once become a few large ones."""

import asyncio
from collections.abc import Sequence

import pytest

from services.kit.errors import InvalidArgument, Overloaded, Violation
from services.kit.gather import Gather


class Work:
    """Doubles numbers, when it may."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.short = False

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.calls.append(list(items))
        await self.gate.wait()
        if self.error:
            raise self.error
        if 13 in items:
            raise InvalidArgument(Violation("item", "is 13"))
        return [2 * item for item in items][: -1 if self.short else None]


async def started(gather: Gather[int, int], items: Sequence[int]) -> list["asyncio.Task[int]"]:
    tasks = []
    for item in items:  # the first is under way before the others come
        tasks.append(asyncio.create_task(gather(item)))
        for _ in range(5):
            await asyncio.sleep(0)
    return tasks


async def test_one_alone_goes_at_once_and_those_that_come_meanwhile_go_together() -> None:
    work = Work()
    gather: Gather[int, int] = Gather(work, 3)
    work.gate.clear()
    tasks = await started(gather, range(6))
    work.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
    assert work.calls == [[0], [1, 2, 3], [4, 5]]
    assert await gather(7) == 14, "it goes on after it had nothing to do"


async def test_one_bad_item_is_its_caller_s_only() -> None:
    work = Work()
    gather: Gather[int, int] = Gather(work, 10)
    work.gate.clear()
    tasks = await started(gather, [1, 2, 13, 4])
    work.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answers[0], answers[1], answers[3]] == [2, 4, 8]
    assert isinstance(answers[2], InvalidArgument)


async def test_i10_what_is_too_busy_is_asked_once_for_all() -> None:
    work = Work()
    gather: Gather[int, int] = Gather(work, 10)
    work.gate.clear()
    tasks = await started(gather, range(9))
    work.error = Overloaded("busy")
    work.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, Overloaded) for answer in answers)
    assert len(work.calls) == 2


async def test_who_has_gone_is_left_out() -> None:
    work = Work()
    gather: Gather[int, int] = Gather(work, 10)
    work.gate.clear()
    tasks = await started(gather, range(4))
    tasks[2].cancel()
    await asyncio.sleep(0)
    work.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert work.calls == [[0], [1, 3]]
    assert isinstance(answers[2], asyncio.CancelledError)


async def test_too_few_answers_leave_nobody_waiting() -> None:
    work = Work()
    gather: Gather[int, int] = Gather(work, 10)
    work.short = True
    async with asyncio.timeout(5):
        with pytest.raises(ValueError, match="values to unpack"):
            await gather(1)
        work.gate.clear()
        tasks = await started(gather, range(3))
        work.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, ValueError) for answer in answers)
        work.short = False
        assert await gather(2) == 4

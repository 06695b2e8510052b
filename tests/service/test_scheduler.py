"""Whose batch goes to which process, what becomes of batches that fail, and who is refused. Processes are played."""

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest

from services.embedder.domain.batching import Batch, Bounds, Lane
from services.embedder.scheduler import Answer, Item, Request, Scheduler, Uncomputable
from services.embedder.worker.runtime import Output, Work
from services.embedder.workers import Answered, BatchFailed, WorkerLost
from services.kit.errors import Overloaded, Unavailable

IN_AN_HOUR = time.monotonic() + 3600
LONG_AGO = time.monotonic() - 1


class Played:
    """A process that the test answers for."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[Work], bool, Answered]] = []
        self.killed = False

    def submit(self, inputs: Sequence[Work], wide: bool, answered: Answered) -> None:
        self.batches.append((list(inputs), wide, answered))

    def kill(self) -> None:
        self.killed = True

    def inputs(self) -> list[list[Work]]:
        return [inputs for inputs, _, _ in self.batches]

    def answer(self, outcome: Exception | None = None) -> list[Work]:
        """Answer the oldest batch, with its texts' lengths as vectors; returns its texts."""
        inputs, _, answered = self.batches.pop(0)
        answered(outcome or output(inputs))
        return inputs


def output(inputs: Sequence[Work]) -> Output:
    rows = np.array([[len(text)] for text in inputs], np.float32)
    return Output(rows, [len(text) for text in inputs], [False] * len(inputs), 100, 0.001, 0.002)


class Noted:
    """The observer."""

    def __init__(self) -> None:
        self.computed_texts = 0

    def computed(self, batch: Batch[Item], output: Output, queued: float, seconds: float) -> None:
        self.computed_texts += len(batch.items)


def scheduler(slots: int = 2, texts: int = 100, tokens: int = 100_000) -> Scheduler:
    return Scheduler(slots, Bounds(texts, tokens), Noted())


def submit(
    of: Scheduler, texts: Sequence[str], lane: Lane = Lane.INTERACTIVE, version: str = "v", deadline: float = IN_AN_HOUR
) -> Request:
    return of.submit(version, lane, texts, [len(text) for text in texts], deadline)


async def settled() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


def values(request: Request) -> list[float | str]:
    return [
        float(result.row[0]) if isinstance(result, Answer) else str(type(result).__name__) for result in request.results
    ]


async def test_what_arrives_together_is_computed_together_and_answered_in_order() -> None:
    under_test, process = scheduler(), Played()
    under_test.attach("v", process)
    first, second = submit(under_test, ["a", "bbb"]), submit(under_test, ["cc"])
    await settled()
    assert process.inputs() == [["a", "bbb", "cc"]]
    process.answer()
    await first.done
    await second.done
    assert (values(first), values(second)) == ([1, 3], [2])


async def test_a_lone_request_gets_all_threads_and_the_next_one_waits_for_it() -> None:
    under_test, process = scheduler(slots=2), Played()
    under_test.attach("v", process)
    submit(under_test, ["a"])
    await settled()
    submit(under_test, ["b"])
    await settled()
    assert [(inputs, wide) for inputs, wide, _ in process.batches] == [(["a"], True)]
    process.answer()
    assert process.inputs() == [["b"]]


async def test_slots_are_shared_by_all_versions() -> None:
    under_test, one, other = scheduler(slots=2), Played(), Played()
    under_test.attach("one", one)
    under_test.attach("other", other)
    for version in ("one", "other", "one", "other"):
        submit(under_test, ["x" * 200, "y" * 200], Lane.BULK, version)
    await settled()
    assert len(one.batches) + len(other.batches) == 2
    one.answer()
    assert len(one.batches) + len(other.batches) == 2


async def test_an_interactive_request_waits_for_one_bulk_batch_at_most() -> None:
    under_test, process = scheduler(slots=1), Played()
    under_test.attach("v", process)
    submit(under_test, ["x" * 100] * 10, Lane.BULK)
    await settled()
    submit(under_test, ["q"])
    assert process.answer() == ["x" * 100] * 3
    assert process.inputs() == [["q"]]


async def test_i10_a_full_queue_refuses_at_once_and_says_when_to_come_again() -> None:
    under_test = scheduler(texts=2)
    under_test.attach("v", Played())
    submit(under_test, ["a", "b"])
    for refused in (["c"], ["c", "d"]):
        with pytest.raises(Overloaded) as caught:
            submit(under_test, refused)
        assert caught.value.retry_after > 0
    submit(under_test, ["d"], Lane.BULK)


async def test_i10_a_stream_waits_for_room() -> None:
    under_test, process = scheduler(slots=1, texts=2), Played()
    under_test.attach("v", process)
    submit(under_test, ["a" * 300, "b" * 300], Lane.BULK)
    waiting = asyncio.create_task(under_test.room(Lane.BULK, [1, 1]))
    await settled()
    assert not waiting.done()
    process.answer()
    await settled()
    process.answer()
    await waiting


async def test_i10_cancelled_and_expired_texts_are_not_computed() -> None:
    under_test, process = scheduler(slots=1), Played()
    under_test.attach("v", process)
    submit(under_test, ["first"])
    await settled()
    gone, late, wanted = (
        submit(under_test, ["gone"]),
        submit(under_test, ["late"], deadline=LONG_AGO),
        submit(under_test, ["wanted"]),
    )
    gone.done.cancel()
    process.answer()
    assert process.inputs() == [["wanted"]]
    process.answer()
    await wanted.done
    assert late.results == [None]


async def test_a_batch_that_fails_is_taken_apart_until_the_bad_text_is_alone() -> None:
    under_test, process = scheduler(slots=1), Played()
    under_test.attach("v", process)
    texts = [f"text {i}" for i in range(31)] + ["poison"]
    requests = [submit(under_test, [text]) for text in texts]
    await settled()
    passes = 0
    while process.batches:
        poisoned = "poison" in process.batches[0][0]
        process.answer(BatchFailed("RuntimeError") if poisoned else None)
        await settled()
        passes += 1
    failed = [text for text, request in zip(texts, requests, strict=True) if values(request) == ["Uncomputable"]]
    assert failed == ["poison"]
    assert all(request.done.done() for request in requests)
    assert passes == 11  # 1 of 32, then two halves at each of 16, 8, 4, 2, 1


async def test_a_lost_batch_is_tried_again_text_by_text_with_nothing_beside() -> None:
    under_test, process = scheduler(slots=2), Played()
    under_test.attach("v", process)
    requests = [submit(under_test, [text]) for text in ("a", "bb", "ccc")]
    await settled()
    under_test.pause("v")
    process.answer(WorkerLost("killed"))
    later = submit(under_test, ["dddd"])
    await settled()
    assert process.batches == []
    successor = Played()
    under_test.attach("v", successor)
    await settled()
    alone = []
    while successor.batches:
        assert len(successor.batches) == 1
        alone.append(successor.answer())
        await settled()
    assert alone == [["a"], ["bb"], ["ccc"], ["dddd"]]
    assert [values(request) for request in (*requests, later)] == [[1], [2], [3], [4]]


async def test_i10_a_text_whose_caller_went_while_it_waited_to_be_tried_again_is_not_computed() -> None:
    under_test, process = scheduler(slots=1), Played()
    under_test.attach("v", process)
    gone, wanted = submit(under_test, ["gone"]), submit(under_test, ["wanted"])
    await settled()
    under_test.pause("v")
    process.answer(WorkerLost("killed"))
    gone.done.cancel()
    successor = Played()
    under_test.attach("v", successor)
    await settled()
    assert successor.answer() == ["wanted"]
    await wanted.done


async def test_a_text_that_keeps_ending_its_process_gets_the_blame_and_the_others_their_vectors() -> None:
    under_test, process = scheduler(slots=1), Played()
    under_test.attach("v", process)
    innocent, guilty = submit(under_test, ["a"]), submit(under_test, ["poison"])
    await settled()
    losses = 0
    while process.batches:
        if "poison" in process.batches[0][0]:
            losses += 1
            under_test.pause("v")
            process.answer(WorkerLost("killed by signal 11"))
            under_test.attach("v", process)
        else:
            process.answer()
        await settled()
    assert losses == 3
    assert values(innocent) == [1]
    [failure] = guilty.results
    assert isinstance(failure, Uncomputable)
    assert "leave it out" in failure.fault
    again = submit(under_test, ["poison", "bb"])
    await settled()
    assert process.answer() == ["bb"]
    assert values(again) == ["Uncomputable", 2]


async def test_a_process_that_can_compute_nothing_any_more_is_ended() -> None:
    under_test, process = scheduler(slots=1), Played()
    under_test.attach("v", process)
    submit(under_test, [f"text {i}" for i in range(64)])
    await settled()
    while process.batches:
        assert not process.killed
        process.answer(BatchFailed("RuntimeError"))
        await settled()
    assert process.killed


async def test_i10_texts_that_nobody_waits_for_make_room_when_it_is_needed() -> None:
    under_test, idle = scheduler(texts=10), Played()
    under_test.attach("v", idle)
    under_test.attach("paused", Played())
    under_test.pause("paused")
    gone = submit(under_test, ["x"] * 10, version="paused")
    with pytest.raises(Overloaded):
        submit(under_test, ["a"])
    gone.done.cancel()
    await until_admitted(under_test)
    await settled()
    assert idle.inputs() == [["a"]]


async def until_admitted(under_test: Scheduler) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                submit(under_test, ["a"])
                return
            except Overloaded:
                await asyncio.sleep(0.01)


async def test_i10_who_needs_much_room_is_not_passed_over_by_those_who_need_little() -> None:
    under_test, process = scheduler(slots=1, texts=10), Played()
    under_test.attach("v", process)
    submit(under_test, ["x" * 300] * 10, Lane.BULK)
    order: list[int] = []

    async def wait(size: int) -> None:
        await under_test.room(Lane.BULK, [1] * size)
        order.append(size)
        submit(under_test, ["y" * 300] * size, Lane.BULK)

    waiting = [asyncio.create_task(wait(size)) for size in (9, 1, 1, 1)]
    await settled()
    while not all(task.done() for task in waiting):
        if process.batches:
            process.answer()
        await settled()
    assert order == [9, 1, 1, 1]


async def test_what_waits_for_a_version_that_does_not_come_back_is_answered() -> None:
    under_test, process = scheduler(slots=1), Played()
    under_test.attach("v", process)
    lost, waiting = submit(under_test, ["a"]), submit(under_test, ["x" * 600])
    await settled()
    under_test.pause("v")
    process.answer(WorkerLost("killed"))
    under_test.detach("v", "the version failed: no memory")
    for request in (lost, waiting):
        await request.done
        [result] = request.results
        assert isinstance(result, Unavailable)
    with pytest.raises(Unavailable):
        submit(under_test, ["b"])


async def test_after_a_loss_the_slots_are_free_again() -> None:
    under_test, process, other = scheduler(slots=2), Played(), Played()
    under_test.attach("v", process)
    under_test.attach("other", other)
    submit(under_test, ["x" * 300], Lane.BULK)
    submit(under_test, ["y" * 400], Lane.BULK)
    await settled()
    assert len(process.batches) == 2
    under_test.pause("v")
    process.answer(WorkerLost("killed"))
    process.answer(WorkerLost("killed"))
    for _ in range(2):
        submit(under_test, ["z" * 300], Lane.BULK, "other")
    await settled()
    assert len(other.batches) == 2

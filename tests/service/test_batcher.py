"""The batcher over a runtime that does what the test says: blocks, or fails for some texts."""

import asyncio
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest

from services.embedder.batcher import Batcher
from services.embedder.domain.batching import Bounds
from services.embedder.runtime import Embedded
from services.kit.errors import Overloaded, ServiceError


class ScriptedRuntime:
    """Fails for texts that say so; waits while it is held."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()
        self.batches: list[list[str]] = []

    def embed(self, texts: list[str]) -> Embedded:
        self.entered.set()
        assert self.free.wait(20)
        self.batches.append(texts)
        if any(text.startswith("bad") for text in texts):
            raise MemoryError
        return Embedded(np.ones((len(texts), 4), np.float32), [1] * len(texts), [False] * len(texts))


@pytest.fixture
async def runtime() -> ScriptedRuntime:
    return ScriptedRuntime()


@pytest.fixture
async def batcher(runtime: ScriptedRuntime) -> AsyncIterator[Batcher]:
    made = Batcher(runtime, 10, Bounds(texts=8))  # type: ignore[arg-type]
    yield made
    runtime.free.set()
    await made.close()


async def started(runtime: ScriptedRuntime, batcher: Batcher) -> "asyncio.Task[object]":
    """A request that keeps the thread busy until the runtime is let go."""
    runtime.free.clear()
    busy = asyncio.create_task(batcher.embed(["busy"], bulk=False))
    while not runtime.entered.is_set():
        await asyncio.sleep(0)
    return busy


async def test_i10_a_full_queue_refuses_at_once_and_what_waits_is_served(
    runtime: ScriptedRuntime, batcher: Batcher
) -> None:
    busy = await started(runtime, batcher)
    waiting = asyncio.create_task(batcher.embed(["w"] * 10, bulk=True))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await batcher.embed(["one too many"], bulk=False)
    assert refused.value.retry_after > 0
    runtime.free.set()
    assert len(await waiting) == 10
    await busy
    assert len(await batcher.embed(["fits again"], bulk=False)) == 1


async def test_a_bad_text_fails_alone_and_the_rest_of_its_batch_is_served(
    runtime: ScriptedRuntime, batcher: Batcher
) -> None:
    busy = await started(runtime, batcher)
    requests = [asyncio.create_task(batcher.embed([text], bulk=False)) for text in ("a", "bad", "b", "c")]
    await asyncio.sleep(0)
    runtime.free.set()
    found = await asyncio.gather(*requests, return_exceptions=True)
    await busy
    assert [isinstance(item, ServiceError) for item in found] == [False, True, False, False]


async def test_several_bad_texts_of_one_request_do_not_end_the_loop(runtime: ScriptedRuntime, batcher: Batcher) -> None:
    with pytest.raises(ServiceError, match="MemoryError"):
        await batcher.embed(["bad 1", "bad 2", "good", "bad 3"], bulk=False)
    async with asyncio.timeout(5):
        assert len(await batcher.embed(["good"], bulk=False)) == 1


async def test_what_nobody_waits_for_is_not_computed(runtime: ScriptedRuntime, batcher: Batcher) -> None:
    busy = await started(runtime, batcher)
    gone = asyncio.create_task(batcher.embed(["gone", "bad and gone"], bulk=False))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    runtime.free.set()
    await busy
    await batcher.embed(["next"], bulk=False)
    assert "gone" not in [text for batch in runtime.batches for text in batch]


async def test_a_bad_text_whose_caller_has_gone_does_not_end_the_loop(
    runtime: ScriptedRuntime, batcher: Batcher
) -> None:
    runtime.free.clear()
    gone = asyncio.create_task(batcher.embed(["bad"], bulk=False))
    while not runtime.entered.is_set():
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    runtime.free.set()
    async with asyncio.timeout(5):
        assert len(await batcher.embed(["good"], bulk=False)) == 1


async def test_texts_that_wait_together_go_together(runtime: ScriptedRuntime, batcher: Batcher) -> None:
    busy = await started(runtime, batcher)
    requests = [asyncio.create_task(batcher.embed([f"t{i}"], bulk=False)) for i in range(8)]
    await asyncio.sleep(0)
    runtime.free.set()
    await asyncio.gather(busy, *requests)
    assert [len(batch) for batch in runtime.batches] == [1, 8]

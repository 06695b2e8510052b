"""Callers over gRPC: many at once, and at random moments."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc

Call = Callable[[], Awaitable[object]]


class Caller:
    """One channel, and the loop that it lives on."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._address = address
        self._channel: grpc.aio.Channel | None = None

    def play(self, part: Coroutine[Any, Any, Any]) -> Any:
        """Run a part on the loop that stays."""
        return self._runner.run(part)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, opened on the loop."""
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._address)
        return self._channel


async def together(call: Call, callers: int, each: int) -> dict[str, float]:
    """Callers who each make one call after the other: how many in all, from when to when."""

    async def caller() -> None:
        for _ in range(each):
            await call()

    began = time.time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"asked": callers * each, "began": began, "ended": time.time()}


async def steady(call: Call, rate: float, seconds: float, seed: int, due: Callable[[float], None]) -> dict[str, Any]:
    """Calls at random moments, whatever became of those before: seconds of those answered, and errors.

    ``due`` hears before each call what part of the time has passed.
    """
    chance, errors, answered = random.Random(seed), Counter[str](), list[float]()  # noqa: S311

    async def timed() -> None:
        started = time.perf_counter()
        try:
            await call()
            answered.append(time.perf_counter() - started)
        except grpc.aio.AioRpcError as error:
            errors[error.code().name] += 1

    pending = set[asyncio.Task[None]]()
    loop = asyncio.get_running_loop()
    start = moment = loop.time()
    while moment - start < seconds:
        moment += chance.expovariate(rate)
        await asyncio.sleep(max(0.0, moment - loop.time()))
        due((moment - start) / seconds)
        task = asyncio.create_task(timed())
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    return {"seconds": answered, "errors": errors}

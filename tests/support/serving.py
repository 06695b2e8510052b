"""Servers in a thread of this process; search among them: real engine, real catalog, a planted embedder."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from services.kit.server import Host
from services.kit.settings import ServiceSettings
from services.search.__main__ import serve
from tests.support.fakes import Bench

_MAX_REQUESTS = 64

T = TypeVar("T")


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Bench, str]]:
    """The bench and the address at which it answers, for the time of the block."""
    with in_thread(lambda: _search(folder)) as made:
        yield made


@asynccontextmanager
async def _search(folder: Path) -> AsyncIterator[tuple[Bench, str]]:
    bench, host = Bench(folder), Host(ServiceSettings(listen=""))
    await bench.open()
    serve(host, bench.search, _MAX_REQUESTS)
    port = await host.start("127.0.0.1:0")
    await host.set_ready(True)
    yield bench, f"127.0.0.1:{port}"
    await host.stop(1)
    await bench.close()


@contextmanager
def in_thread(opened: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """What ``opened`` yields on a loop of its own, which runs for the time of the block."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    made: list[T] = []
    ending = asyncio.Event()

    async def run() -> None:
        async with opened() as one:
            made.append(one)
            ready.set()
            await ending.wait()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        finally:
            ready.set()
            loop.close()

    # Standard output is the command's.
    logging_as_it_was = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        assert ready.wait(20), "it did not start"
        yield made[0]
    finally:
        if loop.is_running():
            loop.call_soon_threadsafe(ending.set)
        thread.join(30)
        structlog.configure(**logging_as_it_was)
        assert not thread.is_alive(), "it did not end"

"""Counting who uses a thing, so that it is taken away only when nobody does."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Usage:
    """A count of holders. Used from the event loop only."""

    def __init__(self) -> None:
        self._holders = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the block runs, `idle` waits."""
        self._holders += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until nobody holds it."""
        await self._idle.wait()

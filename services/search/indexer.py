"""Keeping one index true to its collection.

One loop does all of it: take the documents written after the last place applied, embed them
with the index's own version, write them, note the place. Filling a new index, following live
writes and catching up after a crash are that same loop, and since it alone writes to the index,
in the order of writing, a stale copy can't overwrite a fresh one and a delete stays deleted (I5).
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence

import numpy as np
import structlog

from diapason.vectors import Matrix
from services.kit.errors import DeadlineExceeded, InvalidArgument, Overloaded, ServiceError, Unavailable
from services.kit.usage import Usage
from services.search.adapters.catalog import Catalog
from services.search.domain.model import Document, Index, IndexState
from services.search.ports import Embedder, VectorIndex

log = structlog.get_logger()

_BATCH = 32
# Places are noted in SQL after so many writes, or when there is nothing left to do. What lies
# between is applied again after a crash, which changes nothing.
_FLUSH_EVERY = 2_000
_OPTIMIZE_AFTER = 1_000
_IDLE_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_PASSING = (Unavailable, Overloaded, DeadlineExceeded)
# A fault of ours may pass too; after so many tries the documents are embedded one by one.
_TRIES = 5


class Indexer:
    """Follows one collection into one index."""

    def __init__(self, index: Index, vectors: VectorIndex, catalog: Catalog, embedder: Embedder) -> None:
        self.index = index
        self.vectors = vectors
        self.usage = Usage()
        self.applied = index.applied
        self.reason = ""
        self._flushed = index.applied
        self._unoptimized = 0
        self._known_caught_up = index.state is not IndexState.BUILDING
        self._catalog = catalog
        self._embedder = embedder
        self._nudged = asyncio.Event()
        self._advanced = asyncio.Condition()
        self._truncated: deque[int] = deque(maxlen=4_096)
        self._refused: deque[int] = deque(maxlen=4_096)
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow."""
        # In a context of its own: the request that caused it has a deadline, this has none.
        self._task = asyncio.create_task(self._run(), name=f"indexer {self.index.id}", context=contextvars.Context())

    async def close(self) -> None:
        """Stop following, wait until nobody queries, and let go of the files."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.usage.idle()
        await asyncio.to_thread(self.vectors.close)

    def nudge(self) -> None:
        """Something was written."""
        self._nudged.set()

    async def wait_for(self, sequence: int, seconds: float) -> bool:
        """Wait until the index holds everything up to ``sequence``; False if that took too long."""
        try:
            async with asyncio.timeout(seconds), self._advanced:
                await self._advanced.wait_for(lambda: self.applied >= sequence)
        except TimeoutError:
            return False
        return True

    def was_truncated(self, sequence: int) -> bool:
        """Whether the document lately written at ``sequence`` was too long for the encoder."""
        return sequence in self._truncated

    def was_refused(self, sequence: int) -> bool:
        """Whether the document lately written at ``sequence`` could not be embedded and was left out."""
        return sequence in self._refused

    async def _run(self) -> None:
        while True:
            self._nudged.clear()
            try:
                busy = await self._advance()
                self.reason, self._failures = "", 0
            except asyncio.CancelledError:
                raise
            except Exception as error:
                passing = isinstance(error, _PASSING)
                self._failures += not passing
                self.reason = error.message if isinstance(error, ServiceError) else "internal error; see the log"
                log.warning("indexing waits", index=self.index.id, reason=self.reason, exc_info=not passing)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if busy:
                continue
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._nudged.wait()
            except TimeoutError:
                continue

    async def _advance(self) -> bool:
        """Apply the next documents. False if there were none."""
        index = self.index
        batch = await asyncio.to_thread(self._catalog.after, index.collection, self.applied, _BATCH, True)
        if not batch:
            await self._settle()
            return False
        living = [document for document in batch if not document.deleted]
        if living:
            indexed, rows = await self._embed(living)
            await asyncio.to_thread(self.vectors.upsert, indexed, rows)
        if gone := [document.id for document in batch if document.deleted]:
            await asyncio.to_thread(self.vectors.delete, gone)
        self._unoptimized += len(batch)
        async with self._advanced:
            self.applied = batch[-1].sequence
            self._advanced.notify_all()
        if self.applied - self._flushed >= _FLUSH_EVERY:
            await self._flush()
        return True

    async def _embed(self, documents: Sequence[Document]) -> tuple[Sequence[Document], Matrix]:
        try:
            answer = await self._embedder.documents(self.index.version, [d.passage for d in documents])
        except _PASSING:
            raise
        except ServiceError as error:
            if not isinstance(error, InvalidArgument) and self._failures < _TRIES:
                raise
            if len(documents) == 1:
                # Left out rather than blocking all that come after; a switch would notice the gap.
                log.exception("a document can't be embedded", index=self.index.id, document=documents[0].id)
                self._refused.append(documents[0].sequence)
                return [], np.empty((0, self.index.dimension), np.float32)
            parts = [await self._embed([document]) for document in documents]
            return [d for some, _ in parts for d in some], np.concatenate([rows for _, rows in parts])
        if answer.version.digest != self.index.version.digest:
            raise ServiceError("the embedder used another version than asked for")
        self._truncated.extend(d.sequence for d, cut in zip(documents, answer.truncated, strict=True) if cut)
        return documents, answer.vectors

    async def _settle(self) -> None:
        if self._unoptimized >= _OPTIMIZE_AFTER:
            await asyncio.to_thread(self.vectors.optimize)
            self._unoptimized = 0
        await self._flush()
        if not self._known_caught_up:
            await asyncio.to_thread(self._catalog.caught_up, self.index.id)
            self._known_caught_up = True

    async def _flush(self) -> None:
        if self.applied > self._flushed:
            reached = self.applied
            await asyncio.to_thread(self.vectors.flush)
            await asyncio.to_thread(self._catalog.set_applied, self.index.id, reached)
            self._flushed = reached

"""Keeping one index true to its collection.

One loop does all of it: take the documents written after the last place applied, embed with the
index's own version what it does not hold yet, write, note the place. Filling a new index, following
live writes and catching up after a crash are that same loop, and since it alone writes to the index,
in the order of writing, a stale copy can't overwrite a fresh one and a delete stays deleted (I5).
Of several processes over one catalog, one keeps each index, by a lease.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from services.kit.errors import ServiceError
from services.kit.gather import Gather
from services.kit.usage import Usage
from services.search.activity import Activity
from services.search.adapters.catalog import Catalog, LostLease
from services.search.adapters.documents import Documents
from services.search.adapters.words import Words
from services.search.bounds import fitting
from services.search.domain.model import Document, Hit, Index, IndexState
from services.search.pace import Pace
from services.search.planning import Plan, changed, plan
from services.search.ports import Embedder, IndexGone, Query, VectorIndex
from services.search.vectorizing import PASSING, Vectorized, Vectorizer

log = structlog.get_logger()

# Documents in a batch, and batches on their way through the embedder at once.
_BATCH, _STREAMS = 128, 3
# Characters in a batch: short passages make thousands of vectors of a long document.
_BATCH_CHARACTERS = 1_000_000
# While people search, a new index is built with no more at a time than the embedder computes in one go
# on one of its threads: the others are the searches'.
_YIELDING_BATCH, _YIELDING_STREAMS = 2, 1
# Places are noted in SQL after so many writes, or when there is nothing left to do. What lies
# between is looked at again after a crash, which changes nothing.
_FLUSH_EVERY = 2_000
# Changes after which an index is brought into form, beside all else: so many once there is nothing more to
# write, and before that, where it is in use, each time it has grown by half.
_OPTIMIZE_IDLE, _OPTIMIZE_BUSY, _GROWTH = 1_000, 20_000, 0.5
_IDLE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_RETRY_SECONDS = 0.5
_FORM_AGAIN_SECONDS, _FORMED_SECONDS = 5.0, 0.2
_RATE_SECONDS = 10.0
_QUERIES, _QUERIES_AT_ONCE = 32, 2
_SWEEP = 1_000
_REFUSED = 1_000


@dataclass
class _Batch:
    plan: Plan
    reaches: int
    embedding: "asyncio.Task[Vectorized]"


class Indexer:
    """Follows one collection into one index."""

    def __init__(
        self,
        index: Index,
        vectors: VectorIndex,
        catalog: Catalog,
        documents: Documents,
        embedder: Embedder,
        activity: Activity,
    ) -> None:
        self.index = index
        self.vectors = vectors
        self.usage = Usage()
        # Queries that come at the same time go to the engine together.
        self.ask: Gather[Query, list[Hit]] = Gather(self._query, _QUERIES, _QUERIES_AT_ONCE)
        # Whether the engine lacked it when it was last used.
        self.gone = False
        self.applied = index.applied
        self.reason = ""
        self.rate = 0.0
        # Ids of documents that were left out because they can't be embedded; an ordered set, and bounded.
        self.refused: dict[str, None] = {}
        self.words = Words(index.settings.bm25) if index.settings.bm25 else None
        self._pace = Pace(index.max_rate)
        self._fields = set(index.fields)
        self._refreshing: set[str] = set()
        self._refreshed = 0
        self._flushed = index.applied
        self._unoptimized, self._optimized_at = 0, 0
        self._formed = False
        self._forming: asyncio.Task[None] | None = None
        self._known_caught_up = index.state is not IndexState.BUILDING
        self._catalog, self._documents = catalog, documents
        self._vectorizer = Vectorizer(index, embedder, self.words)
        self._activity = activity
        self._token: int | None = None
        self._nudged = asyncio.Event()
        self._advanced = asyncio.Condition()
        self._progress: deque[tuple[float, int]] = deque()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow, as soon as the index is this process's to keep."""
        # In a context of its own: the request that caused it has a deadline, this has none.
        self._task = asyncio.create_task(self._run(), name=f"indexer {self.index.id}", context=contextvars.Context())

    async def close(self) -> None:
        """Stop following, wait until nobody queries, and let go of the files."""
        for task in filter(None, (self._task, self._forming)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.usage.idle()
        await self.vectors.close()

    @property
    def kept(self) -> bool:
        """Whether this process keeps the index."""
        return self._token is not None

    async def keep(self, token: int | None) -> None:
        """From now on this process keeps the index, by this token; or, with None, no longer."""
        if token is not None and token != self._token:
            # Whoever kept it before may have gone further.
            index = await asyncio.to_thread(self._catalog.index, self.index.id)
            self.applied = self._flushed = index.applied
            self._known_caught_up = index.state is not IndexState.BUILDING
        self._token = token
        self.nudge()
        async with self._advanced:
            self._advanced.notify_all()

    def follow(self, index: Index) -> None:
        """The index as the catalog has it now: settings and rate may have changed, another keeper may have gone on."""
        if index.max_rate != self.index.max_rate:
            self._pace = Pace(index.max_rate)
        if not self.kept:
            self._fields = set(index.fields)
        if (index.settings, index.max_rate) != (self.index.settings, self.index.max_rate):
            self.index = replace(self.index, settings=index.settings, max_rate=index.max_rate)
            self.nudge()

    def nudge(self) -> None:
        """Something was written."""
        self._nudged.set()

    def has_fields(self, names: set[str]) -> bool:
        """Whether all points have these fields."""
        return names <= self._fields

    async def wait_for(self, sequence: int, seconds: float) -> bool:
        """Wait until the index holds everything up to ``sequence``; False if that took too long."""
        try:
            async with asyncio.timeout(seconds):
                while self.applied < sequence:
                    if self.kept:
                        async with self._advanced:
                            await self._advanced.wait_for(lambda: self.applied >= sequence or not self.kept)
                    else:
                        index = await asyncio.to_thread(self._catalog.index, self.index.id)
                        if not self.kept:
                            self.applied = index.applied
                        await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return False
        return True

    async def sweep(self) -> int:
        """Remove what the index holds of documents that don't exist; returns how many.

        There is such a thing only where a process that had lost its lease wrote once more. Whoever
        keeps the index: what was written after ``applied`` stays.
        """
        swept, after = 0, ""
        while True:
            ids, after = await self.vectors.scroll(None, after, _SWEEP)
            there = await asyncio.to_thread(self._documents.existing, self.index.collection, ids)
            if ghosts := [name for name in ids if name not in there]:
                held = await self.vectors.held(ghosts)
                await self.vectors.delete({name: (0, what.passages) for name, what in held.items()}, self.applied)
                log.warning("points of deleted documents were removed", index=self.index.id, documents=ghosts)
                swept += len(ghosts)
            if not after:
                return swept

    async def _query(self, queries: Sequence[Query]) -> list[list[Hit]]:
        try:
            return await self.vectors.query(queries)
        except IndexGone:
            self.gone = True
            raise

    async def _run(self) -> None:
        while True:
            self._nudged.clear()
            busy = False
            try:
                if self.kept:
                    busy = await self._advance()
                self.reason = ""
            except LostLease:
                await self.keep(None)
                log.warning("another process keeps the index now", index=self.index.id)
            except Exception as error:
                passing = isinstance(error, PASSING)
                self.gone = self.gone or isinstance(error, IndexGone)
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
        """Apply all that was written, then do what can wait. True if there may be more to do at once."""
        batches: deque[_Batch] = deque()
        cursor, token = self.applied, self._token
        try:
            while True:
                yielding = not self._known_caught_up and self._activity.recent()
                size, streams = (_YIELDING_BATCH, _YIELDING_STREAMS) if yielding else (_BATCH, _STREAMS)
                while len(batches) < streams:
                    documents = await self._next(cursor, size)
                    if not documents:
                        break
                    cursor = documents[-1].sequence
                    batches.append(await self._begin(documents, batches))
                if not batches:
                    break
                await self._apply(batches[0], token)
                batches.popleft()
        finally:
            for batch in batches:
                batch.embedding.cancel()
        return await self._settle()

    async def _next(self, cursor: int, size: int) -> list[Document]:
        if not self._known_caught_up:
            size = self._pace.batch(size)
            await asyncio.sleep(self._pace.delay(size, time.monotonic()))
        documents = await asyncio.to_thread(self._documents.after, self.index.collection, cursor, size, True)
        return documents[: fitting((len(document.passage) for document in documents), _BATCH_CHARACTERS)]

    async def _begin(self, documents: Sequence[Document], before: Sequence[_Batch]) -> _Batch:
        """Decide what is to be done for these documents, and start to embed."""
        held = await self.vectors.held([document.id for document in documents])
        for batch in before:  # not written yet, but they will be before this one
            for known, what in batch.plan.holding().items():
                if what:
                    held[known] = what
                else:
                    held.pop(known, None)
        spans = await self._vectorizer.spans(changed(documents, held))
        made = plan(documents, held, spans, self.index.settings.fields)
        embedding = asyncio.create_task(self._vectorizer.vectorize(made))
        return _Batch(made, documents[-1].sequence, embedding)

    async def _apply(self, batch: _Batch, token: int | None) -> None:
        made, found = batch.plan, await batch.embedding
        if not self.kept or token != self._token:
            raise LostLease
        self._note(made, found)
        # What is held of a document that can't be embedded is of a text that it no longer has.
        removed = made.removed | {name: (0, made.passages_before(name)) for name in found.refused}
        if removed:
            await self.vectors.delete(removed, batch.reaches)
        if found.points:
            await self.vectors.upsert(found.points, found.rows)
        if made.refreshed:
            await self.vectors.refresh(made.refreshed)
        self._unoptimized += len(found.points) + len(removed)
        async with self._advanced:
            if token != self._token:  # it may have to be filled from the beginning
                raise LostLease
            self.applied = batch.reaches
            self._advanced.notify_all()
        if self.applied - self._flushed >= _FLUSH_EVERY:
            await self._flush()
        if self._known_caught_up and self._unoptimized >= max(_OPTIMIZE_BUSY, self._optimized_at * _GROWTH):
            self._form()

    def _note(self, made: Plan, found: Vectorized) -> None:
        for document in made.documents:
            self.refused.pop(document.id, None)
            if document.id in found.refused and len(self.refused) < _REFUSED:
                self.refused[document.id] = None
        now = time.monotonic()
        self._progress.append((now, len(made.documents)))
        while self._progress[0][0] < now - _RATE_SECONDS:
            self._progress.popleft()
        span = now - self._progress[0][0]
        self.rate = sum(n for _, n in list(self._progress)[1:]) / span if span > 0 else 0.0

    async def _settle(self) -> bool:
        """What is done when nothing is left to apply. True if a part of it is left for the next time."""
        if self._fields != set(self.index.settings.fields):
            return await self._refresh()
        if self._unoptimized >= _OPTIMIZE_IDLE or not (self._known_caught_up or self._formed):
            self._form()
        await self._flush()
        if not self._known_caught_up and self._formed and not self._forming:
            await asyncio.to_thread(self._catalog.caught_up, self.index.id, self._held_token())
            self._known_caught_up = True
        return False

    async def _refresh(self) -> bool:
        """Give some of the points the fields that were declared after they were written."""
        fields = dict(self.index.settings.fields)
        if self._refreshing != set(fields):  # from the beginning, also if more were declared on the way
            await self.vectors.declare(fields)
            self._refreshing, self._refreshed = set(fields), 0
        documents = await asyncio.to_thread(
            self._documents.after, self.index.collection, self._refreshed, _BATCH, False
        )
        if documents:
            held = await self.vectors.held([document.id for document in documents])
            made = plan([d for d in documents if d.id in held], held, {}, fields)
            await self.vectors.refresh(made.refreshed)
            self._refreshed = documents[-1].sequence
        else:
            await asyncio.to_thread(self._catalog.set_fields, self.index.id, self._held_token(), fields)
            self._fields = set(fields)
        return True

    def _form(self) -> None:
        """Have the index brought into form while this goes on, unless that is under way."""
        if not self._forming:
            self._forming = asyncio.create_task(self._optimize(), name=f"forming {self.index.id}")

    async def _optimize(self) -> None:
        before, self._unoptimized = self._unoptimized, 0
        try:
            self._formed = await self.vectors.optimize()
            self._optimized_at = await self.vectors.points()
            if not self._formed:  # a server does it by itself: it is asked again
                await asyncio.sleep(_FORMED_SECONDS)
        except Exception:  # what there is goes on serving; it is tried again
            log.exception("an index can't be brought into form", index=self.index.id)
            self._unoptimized += before
            await asyncio.sleep(_FORM_AGAIN_SECONDS)
        finally:
            self._forming = None
            self.nudge()

    async def _flush(self) -> None:
        if self.applied > self._flushed:
            reached, token = self.applied, self._held_token()
            await self.vectors.flush()
            await asyncio.to_thread(self._catalog.set_applied, self.index.id, token, reached, self.rate)
            if token == self._token:
                self._flushed = reached

    def _held_token(self) -> int:
        if self._token is None:
            raise LostLease
        return self._token

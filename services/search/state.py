"""What this process has open: for each collection its route, and each index with its indexer.

`read` makes it what the catalog says; everything that changes the catalog calls it afterwards, and
a loop does where other processes share the catalog. A request takes what it needs once, at its
beginning (`find`), so a route that has changed meanwhile is served consistently to its end (I2).
"""

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from services.kit.errors import NotFound
from services.kit.server import CannotStart
from services.search.activity import Activity
from services.search.adapters.catalog import Catalog
from services.search.adapters.documents import Documents, unknown_collection
from services.search.domain.model import Index, Route, Settings
from services.search.indexer import Indexer
from services.search.ports import Embedder, Engine, VectorIndex

log = structlog.get_logger()

Result = TypeVar("Result")

# An index whose keeper has not been heard of for so long is taken over by another process, and an import is ended.
LEASE_SECONDS = 15.0
# Between two of these, other processes' writes are looked for so often.
_READ_SECONDS, _NOTICES = 1.0, 10
_DROP_SECONDS = 1.0
# Whoever drops an index waits for that no longer than this: somebody may hold it for hours.
_GONE_WITHIN_SECONDS, _DROP_AGAIN_SECONDS = 5.0, 5.0


@dataclass(frozen=True)
class Live:
    """What one request reads, once: the route, with the index and settings that belong to it (I2)."""

    route: Route
    indexer: Indexer
    settings: Settings


class State:
    """All collections, as far as this process knows."""

    def __init__(self, catalog: Catalog, documents: Documents, engine: Engine, embedder: Embedder) -> None:
        self.catalog, self.documents, self.engine, self.embedder = catalog, documents, engine, embedder
        self.activity = Activity()
        self.indexers: dict[str, Indexer] = {}
        # Collections that this process takes in.
        self.importing: set[str] = set()
        self._live: dict[str, Live] = {}
        self._reading = asyncio.Lock()
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._dropping: set[asyncio.Task[None]] = set()
        self._finishing: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Open every index that the catalog knows and go on where each had stopped. Raises ``CannotStart``."""
        indexes = await asyncio.to_thread(self.catalog.indexes)
        kept = await asyncio.to_thread(self.catalog.claim, self.engine.owner, LEASE_SECONDS)
        if not self.engine.shared and (others := [index.id for index in indexes if index.id not in kept]):
            raise CannotStart(
                f"index {others[0]!r} is kept by another process over the same catalog; stop that one first, "
                "or use a Qdrant server (DIAPASON_QDRANT_URL) to run several"
            )
        await asyncio.to_thread(self.catalog.resume_all, self.engine.owner)
        await self.engine.keep_only({index.id for index in indexes})
        await self.read()

    async def close(self) -> None:
        """Let requests finish, then close all indexes and give up keeping them."""
        await asyncio.gather(*(indexer.close() for indexer in self.indexers.values()), *self._closing.values())
        # What is not dropped by now is at the next start.
        for dropping in self._dropping:
            dropping.cancel()
        await asyncio.gather(*self._dropping, return_exceptions=True)
        await asyncio.to_thread(self.catalog.release, self.engine.owner)
        await self.engine.close()

    async def find(self, collection: str) -> Live:
        """What serves a collection now. Raises ``NotFound``."""
        live = self._live.get(collection)
        if live is None and await asyncio.to_thread(self.catalog.knows, collection):
            # Another process has made it just now, or its index could not be opened before.
            await self.read()
            live = self._live.get(collection)
        if live is None:
            raise unknown_collection(collection)
        return live

    def names(self) -> list[str]:
        """All collections."""
        return sorted(self._live)

    def indexer(self, index_id: str, collection: str) -> Indexer:
        """The indexer of one of a collection's indexes. Raises ``NotFound``."""
        indexer = self.indexers.get(index_id)
        if indexer is None or indexer.index.collection != collection:
            raise NotFound("index", index_id, f"GetCollection lists the indexes of {collection!r}")
        return indexer

    def written(self, collection: str) -> None:
        """Something was written: indexers need not wait until they look by themselves."""
        for indexer in self.indexers.values():
            if indexer.index.collection == collection:
                indexer.nudge()

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something to its end, also if the caller goes away: what SQL says and what memory says stay one."""
        task = asyncio.create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        return await asyncio.shield(task)

    async def read(self) -> None:
        """Open, close and route as the catalog says."""
        async with self._reading:
            indexes = {index.id: index for index in await asyncio.to_thread(self.catalog.indexes)}
            for gone in self.indexers.keys() - indexes.keys():
                self._live = {name: live for name, live in self._live.items() if live.indexer.index.id != gone}
                self._close(gone)
            for index in indexes.values():
                try:
                    await self._follow(index)
                except Exception:  # the others must not wait for it; it is tried again at the next reading
                    log.exception("an index can't be opened", index=index.id)
            await self._claim()
            serving = await asyncio.to_thread(self.catalog.serving)
            self._live = {
                name: Live(route, self.indexers[route.index], settings)
                for name, (route, settings) in serving.items()
                if route.index in self.indexers
            }

    def _close(self, index_id: str) -> None:
        # Requests may still hold it; nobody else waits for them.
        self._closing[index_id] = closing = asyncio.create_task(self.indexers.pop(index_id).close())
        closing.add_done_callback(lambda _: self._closing.pop(index_id))

    async def _follow(self, index: Index) -> None:
        indexer = self.indexers.get(index.id)
        if indexer is None:
            await self._open(index)
            return
        if indexer.gone:  # though the catalog has it: somebody deleted it by hand
            await self._opened(index)
            indexer.gone = False
        indexer.follow(index)

    async def _open(self, index: Index) -> None:
        opened = await self._opened(index)
        if opened is None:
            return
        index, vectors = opened
        indexer = Indexer(index, vectors, self.catalog, self.documents, self.embedder, self.activity)
        self.indexers[index.id] = indexer
        indexer.start()

    async def _opened(self, index: Index) -> tuple[Index, VectorIndex] | None:
        """Open the index, or make it anew where it is missing; None if it has been dropped meanwhile."""
        if vectors := await self.engine.open(index):
            return index, vectors
        if index.applied or index.id in self.indexers:
            log.warning("an index is missing or broken; it is built again", index=index.id)
            # Noted before there is an empty index that could be taken for a full one.
            await asyncio.to_thread(self.catalog.forget_applied, index.id)
        vectors = await self.engine.create(index)
        # Who drops an index says so in the catalog first: what is still there now will be dropped by them.
        if index.id in {known.id for known in await asyncio.to_thread(self.catalog.indexes, index.collection)}:
            return replace(index, applied=0), vectors
        await vectors.close()
        await self.engine.drop(index.id)
        return None

    async def _claim(self) -> None:
        if self.importing:
            await asyncio.to_thread(self.catalog.keep_importing, list(self.importing), LEASE_SECONDS)
        kept = await asyncio.to_thread(self.catalog.claim, self.engine.owner, LEASE_SECONDS)
        for index_id, indexer in self.indexers.items():
            await indexer.keep(kept.get(index_id))

    # In the background

    async def keep(self) -> None:
        """Go on keeping indexes, take over those that nobody keeps, and follow what others change, for ever."""
        pause = _READ_SECONDS / _NOTICES if self.engine.shared else LEASE_SECONDS / 3
        for turn in itertools.count(1):
            await asyncio.sleep(pause)
            try:
                if self.engine.shared and turn % _NOTICES:
                    await self._notice()
                elif self.engine.shared:
                    await self.read()
                else:
                    async with self._reading:
                        await self._claim()
            except Exception:
                log.exception("the catalog was not read; trying again")

    async def _notice(self) -> None:
        """Wake indexers for what other processes have written."""
        newest = await asyncio.to_thread(self.documents.newest)
        for indexer in self.indexers.values():
            if indexer.kept and newest.get(indexer.index.collection, 0) > indexer.applied:
                indexer.nudge()

    async def drop_expired(self) -> None:
        """Drop indexes whose retention is over, and what broken imports left, for ever."""
        while True:
            try:
                for index in await asyncio.to_thread(self.catalog.droppable):
                    await self._drop(index)
                for name in await asyncio.to_thread(self.catalog.abandoned):
                    log.warning("an import has broken off; what has come is deleted", collection=name)
                    with contextlib.suppress(NotFound):
                        await self.delete(name, abandoned=True)
            except Exception:
                log.exception("expired indexes were not dropped; trying again")
            await asyncio.sleep(_DROP_SECONDS)

    async def _drop(self, index: Index) -> None:
        if await asyncio.to_thread(self.catalog.drop, index.id):
            await self.forget(index.id)

    async def delete(self, collection: str, *, abandoned: bool = False) -> int:
        """Delete a collection with its indexes, or only if it is abandoned; returns how many documents it had."""
        indexes, documents = await asyncio.to_thread(self.catalog.delete_collection, collection, abandoned=abandoned)
        for index in indexes:
            await self.forget(index)
        return documents

    async def forget(self, index_id: str) -> None:
        """Delete an index that the catalog no longer has, once nobody uses it here; waits for it a few seconds."""
        # In a context of its own: the request that caused it has a deadline, this has none.
        dropping = asyncio.create_task(self._forget(index_id), context=contextvars.Context())
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)
        await asyncio.wait([dropping], timeout=_GONE_WITHIN_SECONDS)

    async def _forget(self, index_id: str) -> None:
        while True:
            try:
                if index_id in self.indexers:
                    await self.read()
                if closing := self._closing.get(index_id):
                    await asyncio.wait([closing])
                await self.engine.drop(index_id)
                break
            except Exception:
                log.exception("an index was not dropped; trying again", index=index_id)
                await asyncio.sleep(_DROP_AGAIN_SECONDS)
        log.info("index dropped", index=index_id)

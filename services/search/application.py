"""What search does: the use cases behind the servicers."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from services.kit.errors import FailedPrecondition, NotFound, ServiceError
from services.search.adapters.catalog import Catalog
from services.search.domain import rules
from services.search.domain.model import (
    Document,
    Encoder,
    Hit,
    Index,
    IndexState,
    Reindex,
    ReindexState,
    Route,
    Settings,
    Version,
)
from services.search.indexer import Indexer
from services.search.ports import Embedder, Engine, Impression, Impressions

log = structlog.get_logger()

Result = TypeVar("Result")

# How long a write waits to be searchable before it is acknowledged as durable only.
INDEXED_WITHIN_SECONDS = 15.0
_SWITCH_WAIT_SECONDS = 10.0
_DROP_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Live:
    """What one request reads, once: the route, with the index and settings that belong to it (I2)."""

    route: Route
    indexer: Indexer
    settings: Settings


@dataclass(frozen=True)
class Found:
    """One answer. Times in seconds."""

    search_id: str
    route: Route
    query_version: Version
    hits: Sequence[tuple[Hit, Document]]
    query_truncated: bool
    embed_seconds: float
    query_seconds: float


@dataclass(frozen=True)
class Receipt:
    """What became of one document."""

    id: str
    revision: int = 0
    indexed: bool = False
    truncated: bool = False
    error: str = ""


@dataclass(frozen=True)
class CollectionView:
    """A collection as it stands."""

    name: str
    settings: Settings
    route: Route
    documents: int
    indexes: Sequence[tuple[Index, int]]


class Search:
    """All collections of this process."""

    def __init__(self, catalog: Catalog, engine: Engine, embedder: Embedder, impressions: Impressions) -> None:
        self._catalog = catalog
        self._engine = engine
        self._embedder = embedder
        self._impressions = impressions
        self._live: dict[str, Live] = {}
        self._indexers: dict[str, Indexer] = {}
        self._writing: dict[str, asyncio.Lock] = {}
        self._finishing: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Open every index that the catalog knows and go on where each had stopped."""
        indexes = await asyncio.to_thread(self._catalog.indexes)
        await asyncio.to_thread(self._engine.keep_only, {index.id for index in indexes})
        for index in indexes:
            await self._open(index)
        for name in await asyncio.to_thread(self._catalog.collections):
            await self._read_route(name)

    async def close(self) -> None:
        """Let requests finish, then close all indexes."""
        await asyncio.gather(*(indexer.close() for indexer in self._indexers.values()))

    # Searching

    async def search(self, collection: str, query: str, limit: int, dimensions: int, actor: str) -> Found:
        """The nearest documents under the route that serves now."""
        live = self._find(collection)
        rules.check_query(query, limit, dimensions, live.settings.dimensions, actor)
        with live.indexer.usage.held():
            started = time.perf_counter()
            embedded = await self._embedder.query(live.route.version, query, dimensions)
            if not embedded.version.digest == live.route.version.digest == live.indexer.index.version.digest:
                # Never compare vectors of two versions, whatever went wrong before (I1).
                raise ServiceError("query, route and index do not have the same version")
            between = time.perf_counter()
            hits = await asyncio.to_thread(
                live.indexer.vectors.query, embedded.vectors, limit or rules.DEFAULT_LIMIT, dimensions
            )
        ids = [hit.document_id for hit in hits]
        documents = await asyncio.to_thread(self._catalog.existing, collection, ids)
        ended = time.perf_counter()
        # A document deleted a moment ago may still be in the index; it is not shown.
        shown = [(hit, documents[hit.document_id]) for hit in hits if hit.document_id in documents]
        found = Found(
            secrets.token_urlsafe(16),
            live.route,
            embedded.version,
            shown,
            embedded.truncated[0],
            between - started,
            ended - between,
        )
        self._impressions.record(Impression(found.search_id, query, actor, live.route, [hit for hit, _ in shown]))
        return found

    # Documents

    async def write(self, collection: str, documents: Sequence[Document]) -> list[Receipt]:
        """Store documents (or, with ``deleted``, tombstones); a receipt for each, in order."""
        self._find(collection)
        errors = ["" if d.deleted else rules.document_error(d) for d in documents]
        good = [d for d, error in zip(documents, errors, strict=True) if not error]
        written: list[Document] = []
        if good:
            async with self._writing[collection]:
                written = await asyncio.to_thread(self._catalog.write, collection, good)
        for indexer in self._indexers.values():
            if indexer.index.collection == collection:
                indexer.nudge()
        serving = self._find(collection).indexer
        indexed = not written or await serving.wait_for(written[-1].sequence, INDEXED_WITHIN_SECONDS)
        stored = iter(written)
        receipts = []
        for document, error in zip(documents, errors, strict=True):
            if error:
                receipts.append(Receipt(document.id, error=error))
            else:
                done = next(stored)
                found = indexed and not serving.was_refused(done.sequence)
                receipts.append(Receipt(done.id, done.revision, found, serving.was_truncated(done.sequence)))
        return receipts

    async def delete(self, collection: str, ids: Sequence[str]) -> int:
        """Delete documents; returns how many existed."""
        self._find(collection)
        known = await asyncio.to_thread(self._catalog.existing, collection, list(ids))
        if known:
            await self.write(collection, [Document(i, "", "", {}, deleted=True) for i in known])
        return len(known)

    async def documents(self, collection: str, ids: Sequence[str]) -> dict[str, Document]:
        """Those of the documents that exist."""
        self._find(collection)
        return await asyncio.to_thread(self._catalog.existing, collection, list(ids))

    async def page(self, collection: str, after: int, size: int) -> list[Document]:
        """The documents after a place in the order of writing."""
        self._find(collection)
        return await asyncio.to_thread(self._catalog.after, collection, after, size, False)

    # Collections

    async def create(self, name: str, encoder: tuple[str, int, str], settings: Settings) -> CollectionView:
        """A new, empty collection under a version that the embedder holds."""
        rules.check_name(name)
        resolved = await self._embedder.resolve(*encoder)
        rules.check_settings(settings, resolved)
        await self._finish(self._create(name, settings, resolved))
        return await self.view(name)

    async def _create(self, name: str, settings: Settings, encoder: Encoder) -> None:
        await asyncio.to_thread(self._catalog.create_collection, name, settings, encoder)
        for index in await asyncio.to_thread(self._catalog.indexes, name):
            await self._open(index)
        await self._read_route(name)

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something to its end, also if the caller goes away: what SQL says and what memory says stay one."""
        task = asyncio.create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        return await asyncio.shield(task)

    async def view(self, name: str) -> CollectionView:
        """A collection with counts. Raises ``NotFound``."""
        live = self._find(name)
        held = []
        for index in await asyncio.to_thread(self._catalog.indexes, name):
            if indexer := self._indexers.get(index.id):
                with indexer.usage.held():
                    held.append((index, await asyncio.to_thread(indexer.vectors.count)))
        documents = await asyncio.to_thread(self._catalog.count, name)
        return CollectionView(name, live.settings, live.route, documents, held)

    def names(self) -> list[str]:
        """All collections."""
        return sorted(self._live)

    async def routes(self, name: str) -> list[Route]:
        """What was live when, newest first."""
        return await asyncio.to_thread(self._catalog.routes, name)

    # Reindexing and switching

    async def start_reindex(self, collection: str, encoder: tuple[str, int, str]) -> tuple[Reindex, str]:
        """Build an index under another version, beside the one that serves."""
        live = self._find(collection)
        resolved: Encoder = await self._embedder.resolve(*encoder)
        rules.check_settings(live.settings, resolved)
        if resolved.version.digest == live.route.version.digest:
            raise FailedPrecondition(
                "ALREADY_SERVING",
                collection,
                f"{collection!r} is served by that version already; nothing to do",
            )
        return await self.reindex(await self._finish(self._start_reindex(collection, resolved)))

    async def _start_reindex(self, collection: str, encoder: Encoder) -> str:
        async with self._writing[collection]:
            reindex = await asyncio.to_thread(self._catalog.start_reindex, collection, encoder, uuid.uuid4().hex)
            if reindex.index not in self._indexers:
                await self._open(await asyncio.to_thread(self._catalog.index, reindex.index))
        return reindex.id

    async def reindex(self, reindex_id: str) -> tuple[Reindex, str]:
        """A reindex with its progress, and why it waits if it does."""
        reindex = await asyncio.to_thread(self._catalog.reindex, reindex_id)
        indexer = self._indexers.get(reindex.index)
        if reindex.state is not ReindexState.RUNNING or indexer is None:
            return replace(reindex, done=reindex.total), ""
        done = await asyncio.to_thread(self._catalog.count, reindex.collection, indexer.applied)
        return replace(reindex, done=min(done, reindex.total)), indexer.reason

    async def cancel_reindex(self, reindex_id: str) -> tuple[Reindex, str]:
        """Stop a build; what it made is dropped soon."""
        await asyncio.to_thread(self._catalog.cancel_reindex, reindex_id)
        return await self.reindex(reindex_id)

    async def switch(self, collection: str, index_id: str, expected_generation: int) -> Route:
        """Make an index serve, if it holds everything and nobody switched meanwhile.

        Writers wait while the index takes in the last writes and the counts are compared, so
        that everything acknowledged before the switch is found after it. Searches don't wait.
        """
        self._find(collection)
        return await self._finish(self._switch(collection, index_id, expected_generation))

    async def _switch(self, collection: str, index_id: str, expected_generation: int) -> Route:
        async with self._writing[collection]:
            current = self._find(collection).route
            if current.index == index_id and current.generation == expected_generation + 1:
                return current  # the same request, come again after its answer was lost
            if current.generation != expected_generation:
                raise rules.stale_generation(collection, expected_generation)
            index = await asyncio.to_thread(self._catalog.index, index_id)
            indexer = self._indexers.get(index_id)
            if indexer is None or index.collection != collection:
                raise NotFound("index", index_id, f"GetCollection lists the indexes of {collection!r}")
            newest = await asyncio.to_thread(self._catalog.last_sequence, collection)
            indexer.nudge()
            await indexer.wait_for(newest, _SWITCH_WAIT_SECONDS)
            with indexer.usage.held():
                points = await asyncio.to_thread(indexer.vectors.count)
            documents = await asyncio.to_thread(self._catalog.count, collection)
            rules.check_switch(index, indexer.applied, newest, points, documents)
            route = await asyncio.to_thread(self._catalog.switch, collection, index_id, expected_generation)
            await self._read_route(collection)
        log.info("route switched", collection=collection, generation=route.generation, index=index_id)
        return route

    async def roll_back(self, collection: str, expected_generation: int) -> Route:
        """Switch to the index that served before, while it is retained (I8)."""
        current = self._find(collection).route
        kept = {
            i.id for i in await asyncio.to_thread(self._catalog.indexes, collection) if i.state is IndexState.RETAINED
        }
        for route in await self.routes(collection):
            if route.generation < current.generation and route.index in kept:
                return await self.switch(collection, route.index, expected_generation)
        raise FailedPrecondition(
            "NOTHING_RETAINED",
            collection,
            f"no earlier index of {collection!r} is retained; reindex to an older version",
        )

    async def drop_expired(self) -> None:
        """Drop indexes whose retention is over, for ever."""
        while True:
            try:
                for index in await asyncio.to_thread(self._catalog.droppable):
                    await self._drop(index)
            except Exception:
                log.exception("expired indexes were not dropped; trying again")
            await asyncio.sleep(_DROP_EVERY_SECONDS)

    async def _drop(self, index: Index) -> None:
        if await asyncio.to_thread(self._catalog.drop, index.id):
            if indexer := self._indexers.pop(index.id, None):
                await indexer.close()
            await asyncio.to_thread(self._engine.drop, index.id)
            log.info("index dropped", index=index.id)

    async def _open(self, index: Index) -> None:
        vectors = await asyncio.to_thread(self._engine.open, index)
        if vectors is None:
            if index.applied:
                log.warning("an index is missing or broken; it is built again", index=index.id)
                # Noted before there is an empty index that could be taken for a full one.
                await asyncio.to_thread(self._catalog.set_applied, index.id, 0)
            index = replace(index, applied=0)
            vectors = await asyncio.to_thread(self._engine.create, index)
        indexer = self._indexers[index.id] = Indexer(index, vectors, self._catalog, self._embedder)
        indexer.start()

    async def _read_route(self, collection: str) -> None:
        route = await asyncio.to_thread(self._catalog.route, collection)
        settings = await asyncio.to_thread(self._catalog.settings, collection)
        self._live[collection] = Live(route, self._indexers[route.index], settings)
        self._writing.setdefault(collection, asyncio.Lock())

    def _find(self, collection: str) -> Live:
        live = self._live.get(collection)
        if live is None:
            raise NotFound("collection", collection, "ListCollections names those there are")
        return live

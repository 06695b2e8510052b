"""Reindexing, switching, rolling back: how another version comes to serve a collection."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from services.kit.errors import FailedPrecondition
from services.search.domain import rules
from services.search.domain.model import (
    Encoder,
    IndexState,
    Reindex,
    ReindexState,
    Route,
    Settings,
    Version,
)
from services.search.state import State
from services.search.trying import try_index

log = structlog.get_logger()

# Writers wait no longer than this for a switch.
_PAUSE_SECONDS = 10.0
_SAMPLED = 32


@dataclass(frozen=True)
class Estimate:
    """What building an index would take; bytes of disk, seconds."""

    documents: int
    seconds: float
    disk_bytes: int
    free_bytes: int


# The index and the reranker that are to serve.
Target = tuple[str, Version | None]


class Routing:
    """Routes of all collections."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._switching: dict[str, asyncio.Lock] = {}

    async def routes(self, name: str) -> list[Route]:
        """What was live when, newest first."""
        return await asyncio.to_thread(self._state.catalog.routes, name)

    # Reindexing

    async def estimate(self, collection: str, encoder: tuple[str, int, str]) -> Estimate:
        """What a reindex would take, by embedding a sample in the bulk lane."""
        live = await self._state.find(collection)
        resolved = await self._state.embedder.resolve(*encoder)
        documents, needed, free = await self._room(collection, resolved, live.settings)
        sample = await asyncio.to_thread(self._state.documents.sample, collection, _SAMPLED)
        seconds = 0.0
        if sample:
            started = time.perf_counter()
            await self._state.embedder.documents(resolved.version, [d.passage for d in sample])
            seconds = (time.perf_counter() - started) / len(sample) * documents
        return Estimate(documents, seconds, needed, free)

    async def _room(self, collection: str, encoder: Encoder, settings: Settings) -> tuple[int, int, int]:
        """How many documents there are, the bytes that an index of them needs, and those that are free."""
        documents = await asyncio.to_thread(self._state.documents.count, collection)
        return documents, rules.disk_bytes(documents, encoder, settings), await self._state.engine.free_bytes()

    async def start_reindex(
        self, collection: str, encoder: tuple[str, int, str], max_rate: float = 0.0
    ) -> tuple[Reindex, str]:
        """Build an index under another version, beside the one that serves."""
        live = await self._state.find(collection)
        rules.check_rate(max_rate)
        resolved = await self._state.embedder.resolve(*encoder)
        rules.check_settings(live.settings, resolved)
        if resolved.version.digest == live.route.version.digest:
            raise FailedPrecondition(
                "ALREADY_SERVING", collection, f"{collection!r} is served by that version already; nothing to do"
            )
        _, needed, free = await self._room(collection, resolved, live.settings)
        if free and needed > free:
            raise FailedPrecondition(
                "DISK_FULL",
                collection,
                f"the new index needs about {needed >> 20} MiB and {free >> 20} MiB are free; make room first",
            )
        reindex = await self._state.finish(self._start_reindex(collection, resolved, max_rate))
        return await self.reindex(reindex.id)

    async def _start_reindex(self, collection: str, encoder: Encoder, max_rate: float) -> Reindex:
        reindex = await asyncio.to_thread(self._state.catalog.start_reindex, collection, encoder, max_rate)
        await self._state.read()
        return reindex

    async def reindex(self, reindex_id: str) -> tuple[Reindex, str]:
        """A reindex with its progress, and why it waits if it does."""
        reindex = await asyncio.to_thread(self._state.catalog.reindex, reindex_id)
        if reindex.state is not ReindexState.RUNNING:
            return replace(reindex, done=reindex.total, rate=0.0), ""
        indexer = self._state.indexers.get(reindex.index)
        if indexer is not None and indexer.kept:
            applied, rate, reason = indexer.applied, indexer.rate, indexer.reason
        else:
            index = await asyncio.to_thread(self._state.catalog.index, reindex.index)
            applied, rate, reason = index.applied, reindex.rate, ""
        done = await asyncio.to_thread(self._state.documents.count, reindex.collection, applied)
        return replace(reindex, done=min(done, reindex.total), rate=rate), reason

    async def cancel_reindex(self, reindex_id: str) -> tuple[Reindex, str]:
        """Stop a build; what it made is dropped soon."""
        await asyncio.to_thread(self._state.catalog.cancel_reindex, reindex_id)
        return await self.reindex(reindex_id)

    # Switching

    async def switch(
        self,
        collection: str,
        index_id: str,
        expected_generation: int,
        reranker: tuple[str, int, str] | None = None,
    ) -> Route:
        """Make an index serve (empty: the one that does), or another reranker.

        Only if the index holds exactly what the collection holds, answers as comparing every vector
        would, and nobody switched meanwhile. Writers wait while counts are compared, so that
        everything acknowledged before the switch is found after it. Searches don't wait.

        ``reranker`` None: as it was; a name of nothing: none.
        """
        await self._state.find(collection)
        keep = reranker is None
        chosen = await self._state.embedder.resolve_reranker(*reranker) if reranker and any(reranker) else None

        def wanted(routes: list[Route]) -> Target:
            # As it was before this switch, whatever this process has noticed of it.
            base = next((route for route in routes if route.generation == expected_generation), routes[0])
            return index_id or base.index, base.reranker if keep else chosen

        return await self._state.finish(self._switch(collection, expected_generation, wanted, rollback=False))

    async def roll_back(self, collection: str, expected_generation: int) -> Route:
        """Switch to what served before, while its index is retained (I8)."""
        await self._state.find(collection)
        indexes = await asyncio.to_thread(self._state.catalog.indexes, collection)
        usable = {i.id for i in indexes if i.state in (IndexState.RETAINED, IndexState.SERVING)}

        def before(routes: list[Route]) -> Target:
            base = next((route for route in routes if route.generation == expected_generation), routes[0])
            for route in routes:
                differs = (route.index, route.reranker) != (base.index, base.reranker)
                if route.generation < base.generation and route.index in usable and differs:
                    return route.index, route.reranker
            raise FailedPrecondition(
                "NOTHING_RETAINED",
                collection,
                f"no earlier index of {collection!r} is retained; reindex to an older version",
            )

        return await self._state.finish(self._switch(collection, expected_generation, before, rollback=True))

    async def _switch(
        self, collection: str, generation: int, wanted: Callable[[list[Route]], Target], *, rollback: bool
    ) -> Route:
        """Switch to what ``wanted`` makes of the routes as the catalog has them, newest first."""
        async with self._switching.setdefault(collection, asyncio.Lock()):
            routes = await self.routes(collection)
            current, (index_id, reranker) = routes[0], wanted(routes)
            if (current.index, current.reranker, current.generation) == (index_id, reranker, generation + 1):
                return current  # the same request, come again after its answer was lost
            if current.generation != generation:
                raise rules.stale_generation(collection, generation)
            if current.index == index_id:
                if current.reranker == reranker:
                    raise rules.not_switchable(index_id, IndexState.SERVING)
                route = await asyncio.to_thread(
                    self._state.catalog.switch, collection, index_id, generation, None, reranker
                )
            else:
                route = await self._switch_index(collection, index_id, generation, reranker, rollback=rollback)
            await self._state.read()
        log.info("route switched", collection=collection, generation=route.generation, index=index_id)
        return route

    async def _switch_index(
        self, collection: str, index_id: str, generation: int, reranker: Version | None, *, rollback: bool
    ) -> Route:
        catalog = self._state.catalog
        indexer = self._state.indexer(index_id, collection)
        with indexer.usage.held():
            newest = await asyncio.to_thread(self._state.documents.last_sequence, collection)
            indexer.nudge()
            await indexer.wait_for(newest, _PAUSE_SECONDS)
            if not rollback:  # an index that served has been tried, and going back must not wait
                await try_index(indexer, self._state.documents, self._state.embedder)
            newest = await asyncio.to_thread(catalog.pause, collection, _PAUSE_SECONDS, self._state.engine.owner)
            try:
                indexer.nudge()
                await indexer.wait_for(newest, _PAUSE_SECONDS * 0.8)
                held = await indexer.vectors.count()
                documents = await asyncio.to_thread(self._state.documents.count, collection)
                if held > documents:
                    held -= await indexer.sweep()
                index = await asyncio.to_thread(catalog.index, index_id)
                rules.check_switch(index, indexer.applied, newest, held, documents, list(indexer.refused))
                return await asyncio.to_thread(catalog.switch, collection, index_id, generation, newest, reranker)
            except BaseException:
                await asyncio.to_thread(catalog.resume, collection)
                raise

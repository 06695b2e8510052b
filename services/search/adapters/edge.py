"""The embedded Qdrant engine: one shard, in one folder, for each index."""

import asyncio
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import qdrant_edge as qdrant
import structlog

from diapason.vectors import Matrix
from services.kit.server import CannotStart
from services.search.adapters import edge_forming, fusion
from services.search.adapters import edge_native as native
from services.search.adapters import edge_shards as shards
from services.search.adapters import points as layout
from services.search.domain.filters import Filter
from services.search.domain.model import FieldType, Hit, Index
from services.search.ports import Held, Point, Query, Stored

log = structlog.get_logger()

_PARTIAL, _BROKEN = ".partial", ".broken"
_LOCK, _OWNER, _SHARDS = ".lock", ".owner", "shards"
# Points that are read or written in one go.
_ROWS = 500
# How often a copy is brought up to date while writers go on, before they have to wait for it.
_ROUNDS = 20


class EdgeEngine:
    """Shards below one folder, which belongs to one catalog and to one process at a time. Raises ``CannotStart``."""

    shared = False

    def __init__(self, folder: Path, catalog: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise CannotStart(f"{folder} is in use by another process; stop it, or name another folder") from error
        try:
            self.owner = _owner(folder, catalog)
        except CannotStart:
            os.close(self._lock)
            raise
        # Within it everything is ours to delete, beside it nothing.
        self._folder = folder / _SHARDS
        self._folder.mkdir(exist_ok=True)

    async def open(self, index: Index) -> "EdgeIndex | None":
        """Open the shard."""
        path = self._folder / index.id
        if not path.exists():
            return None
        try:
            return EdgeIndex(path, index)
        except Exception:  # the engine raises nothing more special
            log.exception("a shard can't be opened", index=index.id)
            return None

    async def create(self, index: Index) -> "EdgeIndex":
        """Create the shard; an unreadable one is kept beside it for whoever wants to look."""
        path = self._folder / index.id
        if path.exists():
            broken = path.with_name(path.name + _BROKEN)
            shutil.rmtree(broken, ignore_errors=True)
            path.rename(broken)
        # Created under another name, so that a crash leaves no half-made shard under this one.
        partial = path.with_name(path.name + _PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        shard = qdrant.EdgeShard.create(str(shards.first(partial)), native.config(index.dimension, index.settings))
        for operation in native.field_indexes(index.settings.fields, split=index.settings.passages is not None):
            shard.update(operation)
        shard.close()
        partial.rename(path)
        return EdgeIndex(path, index)

    async def keep_only(self, index_ids: Set[str]) -> None:
        """Delete the folders of shards that were dropped, or half made, when the process ended."""
        for path in self._folder.iterdir():
            if path.name not in index_ids and not path.name.endswith(_BROKEN):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def drop(self, index_id: str) -> None:
        """Delete the shard's folder."""
        await asyncio.to_thread(shutil.rmtree, self._folder / index_id, ignore_errors=True)

    async def free_bytes(self) -> int:
        """Of the folder's disk."""
        return shutil.disk_usage(self._folder).free

    async def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)


class EdgeIndex:
    """One shard, in the folder of its index that ``current`` names.

    The engine's calls hold the interpreter until they are done, so threads would only add to them; all but
    those that take long are made at once. See `edge_forming` for the one that does.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        """Open the shard. Raises whatever the engine does."""
        self._folder = folder
        self._shard = qdrant.EdgeShard.load(str(shards.current(folder)))
        shards.clear(folder)
        self._settings = index.settings
        self._sizes = layout.sizes(index.dimension, index.settings)
        self._dimension = index.dimension
        self._declared: dict[str, FieldType] = {}
        # Points written while a copy is brought into form; None while there is no copy.
        self._touched: set[qdrant.PointId] | None = None
        self._writing, self._forming = asyncio.Lock(), asyncio.Lock()

    async def upsert(self, points: Sequence[Point], vectors: Matrix) -> None:
        """Write points, each with its vector at every size of the index."""
        made = []
        for point, row in zip(points, vectors, strict=True):
            named: dict[str, qdrant.NamedVector] = {n: layout.head(row, size) for n, size in self._sizes.items()}
            if point.words:
                named[layout.WORDS] = qdrant.SparseVector(point.words.indices, point.words.values)
            made.append(qdrant.Point(layout.point_id(point.document_id, point.passage), named, layout.payload(point)))
        operation = qdrant.UpdateOperation.upsert_points(made, native.not_newer(points))
        await self._update(operation, [point.id for point in made])

    async def refresh(self, points: Sequence[Point]) -> None:
        """New fields for all passages of documents."""
        for point in points:
            # By filter, because by id one that is not there is an error.
            ids = [layout.point_id(point.document_id, n) for n in range(point.passages)]
            there = native.up_to(point.sequence, ids)
            await self._update(qdrant.UpdateOperation.set_payload_by_filter(there, layout.refreshed(point)), ids)

    async def delete(self, documents: Mapping[str, tuple[int, int]], up_to: int) -> None:
        """Remove points."""
        ids = [layout.point_id(i, n) for i, span in documents.items() for n in range(*span)]
        operation = qdrant.UpdateOperation.delete_points_by_filter(native.up_to(up_to, ids))
        await self._update(operation, ids)

    async def _update(self, operation: qdrant.UpdateOperation, ids: "Iterable[qdrant.PointId]" = ()) -> None:
        async with self._writing:
            self._shard.update(operation)
            if self._touched is not None:
                self._touched.update(ids)

    async def held(self, ids: Sequence[str]) -> dict[str, Held]:
        """From the payload of first passages."""
        wanted: list[qdrant.PointId] = [layout.point_id(i) for i in ids]
        # The engine's types say otherwise, but the last argument has no default.
        records = self._shard.retrieve(wanted, layout.HELD, False)
        return {str(r.payload[layout.ID]): layout.held(r.payload) for r in records if r.payload}

    async def stored(self, ids: Sequence[str]) -> dict[str, list[Stored]]:
        """Passages with vectors, a few hundred at a time."""
        held = await self.held(ids)
        wanted = [layout.point_id(i, n) for i, known in held.items() for n in range(known.passages)]
        found: list[qdrant.Record] = []
        for start in range(0, len(wanted), _ROWS):
            part: list[qdrant.PointId] = [*wanted[start : start + _ROWS]]
            found += self._shard.retrieve(part, layout.HIT, [layout.FULL])
            await asyncio.sleep(0)
        return layout.stored(found)

    async def query(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Several queries in one planned batch."""
        distance = self._settings.distance
        asked = [fusion.lists(query, distance) for query in queries]
        requests = [native.request(part, self._dimension, self._settings) for parts in asked for part in parts]
        if len(requests) == 1:
            answers = iter([self._shard.query(requests[0])])
        else:
            answers = iter(self._shard.query_batch(qdrant.QueryBatchRequest(requests)))
        return [
            fusion.fused(query, parts, [layout.hits(next(answers), distance, part) for part in parts])
            for query, parts in zip(queries, asked, strict=True)
        ]

    async def count(self, where: Filter | None = None) -> int:
        """First passages are counted, so each document once."""
        return self._shard.count(qdrant.CountRequest(exact=True, filter=native.documents(where, self._settings)))

    async def points(self) -> int:
        """All points."""
        return self._shard.count(qdrant.CountRequest(exact=True))

    async def scroll(self, where: Filter | None, after: str, limit: int) -> tuple[list[str], str]:
        """In the order of point ids."""
        request = qdrant.ScrollRequest(
            offset=uuid.UUID(after) if after else None,
            limit=limit,
            filter=native.documents(where, self._settings),
            with_payload=[layout.ID],
        )
        records, following = self._shard.scroll(request)
        return [str((r.payload or {})[layout.ID]) for r in records], "" if following is None else str(following)

    async def declare(self, fields: Mapping[str, FieldType]) -> None:
        """Payload indexes; one that is there already is left alone by the engine."""
        self._declared |= fields
        for operation in native.field_indexes(fields, split=False):
            await self._update(operation)

    async def optimize(self) -> bool:
        """Merge segments and build the graph, on a copy which then takes the shard's place."""
        async with self._forming:
            if await self.points() * sum(self._sizes.values()) < native.GRAPH_FROM_NUMBERS:
                # Without a graph there is at most a little to merge.
                async with self._writing:
                    self._shard.optimize()
                return True
            async with self._writing:
                self._shard.flush()
                copy = await asyncio.to_thread(shards.copy, self._folder)
                self._touched = set()
            try:
                await edge_forming.form(copy)
                await self._change_to(copy)
            finally:
                self._touched = None
                await asyncio.to_thread(shards.clear, self._folder)
        return True

    async def _change_to(self, copy: Path) -> None:
        """Bring the copy up to date and use it from now on."""
        formed = qdrant.EdgeShard.load(str(copy))
        assert self._touched is not None
        for _ in range(_ROUNDS):
            if len(self._touched) <= _ROWS:
                break
            # So many that writers should not wait for them; what they write meanwhile comes in the next round.
            touched, self._touched = self._touched, set()
            await self._transfer(formed, touched)
        async with self._writing:
            await self._transfer(formed, self._touched)
            for operation in native.field_indexes(self._declared, split=False):
                formed.update(operation)
            formed.flush()
            shards.use(copy)
            before, self._shard = self._shard, formed
            before.close()

    async def _transfer(self, formed: qdrant.EdgeShard, ids: "Iterable[qdrant.PointId]") -> None:
        """Make these points of a copy what they are now."""
        waiting = list(ids)
        for start in range(0, len(waiting), _ROWS):
            part = waiting[start : start + _ROWS]
            found = self._shard.retrieve(part, True, True)
            formed.update(qdrant.UpdateOperation.delete_points(part))
            if found:
                points = [qdrant.Point(r.id, r.vector or {}, r.payload or {}) for r in found]
                formed.update(qdrant.UpdateOperation.upsert_points(points))
            await asyncio.sleep(0)

    async def flush(self) -> None:
        """Write segments to disk."""
        async with self._writing:
            self._shard.flush()

    async def close(self) -> None:
        """Flush and unlock the shard."""
        async with self._writing:
            self._shard.close()


def _owner(folder: Path, catalog: str) -> str:
    """The name of the folder's user, kept in it beside the catalog's. Raises ``CannotStart`` for another's folder."""
    path = folder / _OWNER
    if not path.exists():
        partial = path.with_name(_OWNER + _PARTIAL)
        partial.write_text(f"{uuid.uuid4().hex} {catalog}")
        partial.rename(path)
    owner, _, kept = path.read_text().partition(" ")
    if kept != catalog:
        raise CannotStart(
            f"{folder} holds the indexes of another catalog; give that one's URL again, or name another folder"
        )
    return owner

"""A Qdrant server or cluster: one of its collections for each index, shared by all replicas of search."""

import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TypeVar

import structlog
from qdrant_client import AsyncQdrantClient, models

from diapason.vectors import Matrix
from services.kit.errors import ServiceError
from services.search.adapters import fusion
from services.search.adapters import points as layout
from services.search.adapters import server_native as native
from services.search.adapters.server_calls import Server, ServerSettings, connect
from services.search.domain.filters import Filter
from services.search.domain.model import FieldType, Hit, Index
from services.search.ports import Held, IndexGone, Point, Query, Stored

log = structlog.get_logger()

T = TypeVar("T")

# What a collection's metadata say of it.
_CATALOG, _INDEX, _CREATED = "diapason_catalog", "diapason_index", "diapason_created"
# Points in one request. A write's condition has a branch for each, and each point is tried against it.
_WRITE, _READ = 100, 500
# Writes to a shard go through one of its replicas, so that all apply them in one order. "Strong"
# would stop them while that very replica is away.
_ORDERING = models.WriteOrdering.MEDIUM


class ServerEngine:
    """Collections of one server whose names begin with the prefix."""

    shared = True

    def __init__(self, settings: ServerSettings, client: AsyncQdrantClient | None = None) -> None:
        self._settings = settings
        self._server = Server(client or connect(settings), settings)
        self.owner = uuid.uuid4().hex

    def _name(self, index_id: str) -> str:
        return self._settings.prefix + index_id

    async def open(self, index: Index) -> "ServerIndex | None":
        """The index, with whatever payload indexes it still lacks."""
        name = self._name(index.id)
        await self._server.check_version()
        try:
            info = await self._server.info(name)
        except IndexGone:
            return None
        self._check_ours(info, name)
        await self._declare_missing(index, info)
        return ServerIndex(self._server, name, index)

    async def create(self, index: Index) -> "ServerIndex":
        """A new collection; one that another replica has made at the same moment serves as well."""
        name, settings = self._name(index.id), self._settings
        replicas = settings.replication_factor
        await self._server.check_version()
        try:
            await self._server.call(
                name,
                lambda seconds: self._server.client.create_collection(
                    name,
                    vectors_config=native.vectors(index.dimension, index.settings),
                    sparse_vectors_config=native.words(index.settings),
                    shard_number=settings.shards or None,
                    replication_factor=replicas,
                    write_consistency_factor=settings.write_consistency_factor or replicas // 2 + 1,
                    metadata={_CATALOG: settings.catalog, _INDEX: index.id, _CREATED: int(time.time())},
                    timeout=seconds,
                ),
            )
        except ServiceError:
            if not await self._server.call(name, lambda _: self._server.client.collection_exists(name)):
                raise
        info = await self._server.info(name)
        self._check_ours(info, name)
        await self._declare_missing(index, info)
        return ServerIndex(self._server, name, index)

    async def _declare_missing(self, index: Index, info: models.CollectionInfo) -> None:
        # Before any point: the graph of vectors takes account of the payload indexes that are there.
        wanted = native.own_indexes() | native.field_indexes(index.settings.fields)
        missing = {path: kind for path, kind in wanted.items() if path not in info.payload_schema}
        await _declare(self._server, self._name(index.id), missing)

    def _is_ours(self, info: models.CollectionInfo, name: str) -> bool:
        said = info.config.metadata or {}
        return said.get(_CATALOG) == self._settings.catalog and self._name(str(said.get(_INDEX))) == name

    def _check_ours(self, info: models.CollectionInfo, name: str) -> None:
        if not self._is_ours(info, name):
            raise ServiceError(f"the collection {name!r} was not made by this catalog; set another prefix")

    async def keep_only(self, index_ids: Set[str]) -> None:
        """Delete collections that this catalog made, that it no longer knows, and that are not new."""
        if not self._settings.catalog:
            return
        listed = await self._server.call("", lambda _: self._server.client.get_collections())
        names = {described.name for described in listed.collections if described.name.startswith(self._settings.prefix)}
        for name in sorted(names - {self._name(index_id) for index_id in index_ids}):
            try:
                info = await self._server.info(name)
            except IndexGone:
                continue
            age = time.time() - float((info.config.metadata or {}).get(_CREATED, math.inf))
            if self._is_ours(info, name) and age >= self._settings.settled_seconds:
                log.warning("a collection that the catalog does not know is deleted", collection=name)
                await self._delete(name)

    async def drop(self, index_id: str) -> None:
        """Delete the collection, if it is ours."""
        name = self._name(index_id)
        try:
            self._check_ours(await self._server.info(name), name)
        except IndexGone:
            return
        await self._delete(name)

    async def _delete(self, name: str) -> None:
        await self._server.call(name, lambda seconds: self._server.client.delete_collection(name, timeout=seconds))

    async def free_bytes(self) -> int:
        """Not told by the server."""
        return 0

    async def close(self) -> None:
        """Close the connections."""
        await self._server.client.close()


class ServerIndex:
    """One collection. Raises ``IndexGone`` once another replica has dropped it."""

    def __init__(self, server: Server, name: str, index: Index) -> None:
        self._server = server
        self._client = server.client
        self._name = name
        self._settings = index.settings
        self._dimension = index.dimension
        self._sizes = layout.sizes(index.dimension, index.settings)

    async def upsert(self, points: Sequence[Point], vectors: Matrix) -> None:
        """Write points, first passages last.

        By its first passage an index tells what it holds of a document, and a write to several
        shards can succeed in one of them only.
        """
        rows = list(zip(points, vectors, strict=True))
        for later in (True, False):
            for part in _parts([row for row in rows if bool(row[0].passage) is later], _WRITE):
                await self._upsert(part)

    async def _upsert(self, rows: Sequence[tuple[Point, Matrix]]) -> None:
        made = [native.point(point, row, self._sizes) for point, row in rows]
        condition = native.not_newer([point for point, _ in rows])
        await self._server.write(
            self._name,
            lambda seconds: self._client.upsert(
                self._name, made, wait=True, ordering=_ORDERING, update_filter=condition, timeout=seconds
            ),
        )

    async def refresh(self, points: Sequence[Point]) -> None:
        """New fields for all passages of documents, many in one request."""
        for part in _parts(points, _WRITE):
            await self._refresh(part)

    async def _refresh(self, points: Sequence[Point]) -> None:
        operations = [_refreshing(point) for point in points]
        await self._server.write(
            self._name,
            lambda seconds: self._client.batch_update_points(
                self._name, operations, wait=True, ordering=_ORDERING, timeout=seconds
            ),
        )

    async def delete(self, documents: Mapping[str, tuple[int, int]], up_to: int) -> None:
        """Remove points, first passages last: without them the others would not be missed."""
        numbers = [(document, n) for document, span in documents.items() for n in range(*span)]
        for later in (True, False):
            for part in _parts([number for number in numbers if bool(number[1]) is later], _READ):
                await self._delete([layout.point_id(document, n) for document, n in part], up_to)

    async def _delete(self, ids: list[uuid.UUID], up_to: int) -> None:
        chosen = models.FilterSelector(filter=native.up_to(up_to, ids))
        await self._server.write(
            self._name,
            lambda seconds: self._client.delete(self._name, chosen, wait=True, ordering=_ORDERING, timeout=seconds),
        )

    async def held(self, ids: Sequence[str]) -> dict[str, Held]:
        """From the payload of first passages."""
        wanted = [layout.point_id(one) for one in ids]
        records = await self._retrieve(wanted, layout.HELD, with_vectors=False)
        return {str(r.payload[layout.ID]): layout.held(r.payload) for r in records if r.payload}

    async def stored(self, ids: Sequence[str]) -> dict[str, list[Stored]]:
        """Passages with vectors."""
        held = await self.held(ids)
        wanted = [layout.point_id(i, n) for i, known in held.items() for n in range(known.passages)]
        return layout.stored(await self._retrieve(wanted, layout.HIT, with_vectors=True))

    async def _retrieve(
        self, ids: Sequence[uuid.UUID], payload: list[str], *, with_vectors: bool
    ) -> list[models.Record]:
        return [r for part in _parts(ids, _READ) for r in await self._retrieve_part(part, payload, with_vectors)]

    async def _retrieve_part(
        self, ids: Sequence[uuid.UUID], payload: list[str], with_vectors: bool
    ) -> list[models.Record]:
        return await self._server.call(
            self._name,
            lambda seconds: self._client.retrieve(
                self._name,
                [str(one) for one in ids],
                with_payload=payload,
                with_vectors=[layout.FULL] if with_vectors else False,
                consistency=self._server.consistency,
                timeout=seconds,
            ),
        )

    async def query(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Several queries in one request."""
        distance = self._settings.distance
        asked = [fusion.lists(query, distance) for query in queries]
        requests = [native.request(part, self._dimension, self._settings) for parts in asked for part in parts]
        if not requests:
            return []
        found = await self._server.call(
            self._name,
            lambda seconds: self._client.query_batch_points(self._name, requests, timeout=seconds),
        )
        answers = iter(found)
        return [
            fusion.fused(query, parts, [layout.hits(next(answers).points, distance, part) for part in parts])
            for query, parts in zip(queries, asked, strict=True)
        ]

    async def count(self, where: Filter | None = None) -> int:
        """First passages are counted, so each document once."""
        return await self._count(native.documents(where, self._settings))

    async def points(self) -> int:
        """All points."""
        return await self._count(None)

    async def _count(self, where: models.Filter | None) -> int:
        result = await self._server.call(
            self._name,
            lambda seconds: self._client.count(self._name, where, exact=True, timeout=seconds),
        )
        return result.count

    async def scroll(self, where: Filter | None, after: str, limit: int) -> tuple[list[str], str]:
        """In the order of point ids."""
        records, following = await self._server.call(
            self._name,
            lambda seconds: self._client.scroll(
                self._name,
                native.documents(where, self._settings),
                limit=limit,
                offset=after or None,
                with_payload=[layout.ID],
                consistency=self._server.consistency,
                timeout=seconds,
            ),
        )
        return [str((r.payload or {})[layout.ID]) for r in records], "" if following is None else str(following)

    async def declare(self, fields: Mapping[str, FieldType]) -> None:
        """Payload indexes; the server leaves one alone that is there already."""
        await _declare(self._server, self._name, native.field_indexes(fields))

    async def optimize(self) -> bool:
        """Whether the server has merged its segments and built its graphs, which it does by itself."""
        info = await self._server.info(self._name)
        if info.status is models.CollectionStatus.GREY:
            # After a restart it waits for a change, and this is one that changes nothing.
            nothing = models.OptimizersConfigDiff()
            await self._server.call(
                self._name,
                lambda seconds: self._client.update_collection(self._name, optimizers_config=nothing, timeout=seconds),
            )
        if info.optimizer_status is not models.OptimizersStatusOneOf.OK:
            log.error("the vector database can't optimize", collection=self._name, said=str(info.optimizer_status))
            return False
        return info.status is models.CollectionStatus.GREEN

    async def flush(self) -> None:
        """Nothing to do: a write is in the server's log before it is acknowledged."""

    async def close(self) -> None:
        """Nothing to do: the connections are the engine's."""


async def _declare(server: Server, name: str, wanted: Mapping[str, models.PayloadSchemaParams]) -> None:
    for path, kind in wanted.items():
        await _declare_one(server, name, path, kind)


async def _declare_one(server: Server, name: str, path: str, kind: models.PayloadSchemaParams) -> None:
    await server.write(
        name,
        lambda seconds: server.client.create_payload_index(
            name, path, kind, wait=True, ordering=_ORDERING, timeout=seconds
        ),
    )


def _refreshing(point: Point) -> models.SetPayloadOperation:
    ids = [layout.point_id(point.document_id, number) for number in range(point.passages)]
    # By filter, because by id one that is not there is an error.
    change = models.SetPayload(payload=layout.refreshed(point), filter=native.up_to(point.sequence, ids))
    return models.SetPayloadOperation(set_payload=change)


def _parts(rows: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    return (rows[start : start + most] for start in range(0, len(rows), most))

"""The contracts, translated to and from `application.py`."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from diapason.search.v1 import collection_pb2, collection_pb2_grpc, document_pb2, document_pb2_grpc
from diapason.search.v1 import search_pb2 as pb
from diapason.search.v1 import search_pb2_grpc as rpc
from services.kit.admission import Admission
from services.kit.errors import InvalidArgument, Violation
from services.search import wire
from services.search.application import CollectionView, Receipt, Search
from services.search.domain import rules
from services.search.domain.model import Document, Settings

Context = grpc.aio.ServicerContext[object, object]

# Documents of one stream that may be on their way at once: enough to fill batches, and a bound.
_WINDOW = 128
_WRITE_BATCH = 64
_MAX_DOCUMENT_BYTES = 1024 * 1024
_PAGE, _MAX_PAGE = 100, 1_000
_PAGE_CHARACTERS = 4_000_000
_PAGE_TOKEN = re.compile(r"\d{1,18}")
_MAX_IDS = 1_000


class SearchServicer(rpc.SearchServiceServicer):
    """Queries."""

    def __init__(self, search: Search, admission: Admission) -> None:
        self._search = search
        self._admission = admission

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """Answer one query."""
        with self._admission.admitted():
            found = await self._search.search(
                request.collection, request.query, request.limit, request.dimensions, request.actor
            )
        return pb.SearchResponse(
            search_id=found.search_id,
            route=wire.route_to_pb(found.route),
            query_version=wire.version_to_pb(found.query_version),
            results=[
                pb.Result(
                    id=hit.document_id,
                    rank=rank,
                    score=hit.score,
                    title=document.title,
                    text=document.text,
                    payload=wire.payload_to_pb(document),
                )
                for rank, (hit, document) in enumerate(found.hits, 1)
            ],
            query_truncated=found.query_truncated,
            timings=pb.Timings(
                embed=_duration(found.embed_seconds),
                query=_duration(found.query_seconds),
                total=_duration(found.embed_seconds + found.query_seconds),
            ),
        )


class DocumentServicer(document_pb2_grpc.DocumentServiceServicer):
    """Documents in and out."""

    def __init__(self, search: Search) -> None:
        self._search = search

    async def UpsertDocuments(
        self, request_iterator: AsyncIterator[document_pb2.UpsertDocumentsRequest], context: Context
    ) -> AsyncIterator[document_pb2.UpsertDocumentsResponse]:
        """Write what arrives in batches; acknowledge each document."""
        arrived: asyncio.Queue[document_pb2.UpsertDocumentsRequest | None] = asyncio.Queue(_WINDOW)

        async def read() -> None:
            try:
                async for request in request_iterator:
                    await arrived.put(_bounded(request))
            finally:
                await arrived.put(None)

        reader = asyncio.create_task(read())
        collection = ""
        try:
            ended = False
            while not ended:
                batch = [await arrived.get()]
                while batch[-1] is not None and len(batch) < _WRITE_BATCH and not arrived.empty():
                    batch.append(arrived.get_nowait())
                if batch[-1] is None:
                    ended = True
                    batch.pop()
                requests = [request for request in batch if request is not None]
                if not requests:
                    continue
                collection = collection or requests[0].collection
                if any(request.collection not in ("", collection) for request in requests):
                    raise InvalidArgument(
                        Violation("collection", "changes within the stream; open one stream for each collection")
                    )
                for receipt in await self._write(collection, requests):
                    yield receipt
            await reader
        finally:
            reader.cancel()

    async def _write(
        self, collection: str, requests: Sequence[document_pb2.UpsertDocumentsRequest]
    ) -> list[document_pb2.UpsertDocumentsResponse]:
        """Receipts in the order of the requests; what can't be read as a document gets its error."""
        read = [_document(request.document) for request in requests]
        written = iter(await self._search.write(collection, [d for d in read if isinstance(d, Document)]))
        return [_receipt(next(written) if isinstance(item, Document) else item) for item in read]

    async def GetDocuments(
        self, request: document_pb2.GetDocumentsRequest, context: Context
    ) -> document_pb2.GetDocumentsResponse:
        """By ids, or page by page."""
        if request.ids:
            _check_ids(list(request.ids))
            found = await self._search.documents(request.collection, request.ids)
            return document_pb2.GetDocumentsResponse(
                documents=[wire.document_to_pb(found[i]) for i in request.ids if i in found],
                missing_ids=[i for i in request.ids if i not in found],
            )
        size = request.page_size or _PAGE
        if size > _MAX_PAGE:
            raise InvalidArgument(Violation("page_size", f"is {size}; the most is {_MAX_PAGE}"))
        if request.page_token and not _PAGE_TOKEN.fullmatch(request.page_token):
            raise InvalidArgument(Violation("page_token", "is not one; give back next_page_token as it came"))
        listed = await self._search.page(request.collection, int(request.page_token or 0), size)
        page = list(_within(listed, _PAGE_CHARACTERS))
        more = len(listed) == size or len(page) < len(listed)
        return document_pb2.GetDocumentsResponse(
            documents=[wire.document_to_pb(document) for document in page],
            next_page_token=str(page[-1].sequence) if more else "",
        )

    async def DeleteDocuments(
        self, request: document_pb2.DeleteDocumentsRequest, context: Context
    ) -> document_pb2.DeleteDocumentsResponse:
        """Delete by ids."""
        ids = list(dict.fromkeys(request.ids))
        _check_ids(ids)
        deleted = await self._search.delete(request.collection, ids)
        return document_pb2.DeleteDocumentsResponse(deleted=deleted, unknown=len(ids) - deleted)


class CollectionServicer(collection_pb2_grpc.CollectionServiceServicer):
    """Collections, routes, reindexes."""

    def __init__(self, search: Search) -> None:
        self._search = search

    async def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: Context
    ) -> collection_pb2.CreateCollectionResponse:
        """Create."""
        given = request.settings
        settings = Settings(
            dimensions=tuple(given.dimensions),
            retention=_seconds(given.retention) if given.HasField("retention") else Settings.retention,
        )
        view = await self._search.create(request.name, _encoder(request), settings)
        return collection_pb2.CreateCollectionResponse(collection=_view(view))

    async def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, context: Context
    ) -> collection_pb2.GetCollectionResponse:
        """One."""
        return collection_pb2.GetCollectionResponse(collection=_view(await self._search.view(request.name)))

    async def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: Context
    ) -> collection_pb2.ListCollectionsResponse:
        """All."""
        views = [await self._search.view(name) for name in self._search.names()]
        return collection_pb2.ListCollectionsResponse(collections=[_view(view) for view in views])

    async def StartReindex(
        self, request: collection_pb2.StartReindexRequest, context: Context
    ) -> collection_pb2.StartReindexResponse:
        """Begin to build."""
        reindex, reason = await self._search.start_reindex(request.collection, _encoder(request))
        return collection_pb2.StartReindexResponse(reindex=wire.reindex_to_pb(reindex, reason))

    async def GetReindex(
        self, request: collection_pb2.GetReindexRequest, context: Context
    ) -> collection_pb2.GetReindexResponse:
        """Progress."""
        reindex, reason = await self._search.reindex(request.id)
        return collection_pb2.GetReindexResponse(reindex=wire.reindex_to_pb(reindex, reason))

    async def CancelReindex(
        self, request: collection_pb2.CancelReindexRequest, context: Context
    ) -> collection_pb2.CancelReindexResponse:
        """Stop."""
        reindex, reason = await self._search.cancel_reindex(request.id)
        return collection_pb2.CancelReindexResponse(reindex=wire.reindex_to_pb(reindex, reason))

    async def SwitchRoute(
        self, request: collection_pb2.SwitchRouteRequest, context: Context
    ) -> collection_pb2.SwitchRouteResponse:
        """Compare and set."""
        route = await self._search.switch(request.collection, request.index, request.expected_generation)
        return collection_pb2.SwitchRouteResponse(route=wire.route_to_pb(route))

    async def RollbackRoute(
        self, request: collection_pb2.RollbackRouteRequest, context: Context
    ) -> collection_pb2.RollbackRouteResponse:
        """Go back."""
        route = await self._search.roll_back(request.collection, request.expected_generation)
        return collection_pb2.RollbackRouteResponse(route=wire.route_to_pb(route))

    async def ListRoutes(
        self, request: collection_pb2.ListRoutesRequest, context: Context
    ) -> collection_pb2.ListRoutesResponse:
        """History."""
        routes = await self._search.routes(request.collection)
        return collection_pb2.ListRoutesResponse(routes=[wire.route_to_pb(route) for route in routes])


def _encoder(
    request: collection_pb2.CreateCollectionRequest | collection_pb2.StartReindexRequest,
) -> tuple[str, int, str]:
    encoder = request.encoder
    if not encoder.digest and not encoder.model:
        raise InvalidArgument(Violation("encoder", "is missing; give a model's name or a version's digest"))
    return encoder.model, encoder.number, encoder.digest


def _document(message: document_pb2.Document) -> Document | Receipt:
    """The document, or what is wrong with its message."""
    try:
        payload = MessageToDict(message.payload) if message.HasField("payload") else {}
    except ValueError as error:
        return Receipt(message.id, error=f"payload: {error}; give what JSON can hold")
    return Document(message.id, message.text, message.title, payload)


def _bounded(request: document_pb2.UpsertDocumentsRequest) -> document_pb2.UpsertDocumentsRequest:
    """The request, without its content if that is more than any document may have."""
    if request.ByteSize() <= _MAX_DOCUMENT_BYTES:
        return request
    # Still too long by the rules, which will say so, but no longer held in memory.
    cut = document_pb2.Document(id=request.document.id[:1000], text="x" * (rules.MAX_TEXT_CHARACTERS + 1))
    return document_pb2.UpsertDocumentsRequest(collection=request.collection, document=cut)


def _within(documents: Sequence[Document], characters: int) -> Iterator[Document]:
    """At least one document, and no more than have so many characters of text."""
    for number, document in enumerate(documents):
        characters -= 2 * len(document.passage)  # it is sent as text and as passage
        if number and characters < 0:
            return
        yield document


def _receipt(receipt: Receipt) -> document_pb2.UpsertDocumentsResponse:
    return document_pb2.UpsertDocumentsResponse(
        id=receipt.id,
        revision=receipt.revision,
        indexed=receipt.indexed,
        truncated=receipt.truncated,
        error=receipt.error,
    )


def _view(view: CollectionView) -> collection_pb2.Collection:
    settings = collection_pb2.CollectionSettings(
        dimensions=view.settings.dimensions, retention=_duration(view.settings.retention)
    )
    return collection_pb2.Collection(
        name=view.name,
        settings=settings,
        route=wire.route_to_pb(view.route),
        documents=view.documents,
        indexes=[wire.index_to_pb(index, points) for index, points in view.indexes],
    )


def _check_ids(ids: list[str]) -> None:
    if not 1 <= len(ids) <= _MAX_IDS:
        raise InvalidArgument(Violation("ids", f"has {len(ids)} ids; give 1 to {_MAX_IDS}"))


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration

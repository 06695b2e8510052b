"""CollectionService."""

from collections.abc import AsyncIterator

import grpc

from diapason.search.v1 import collection_pb2 as pb
from diapason.search.v1 import collection_pb2_grpc as rpc
from services.kit.errors import InvalidArgument, Violation
from services.search import wire
from services.search.collections import Collections
from services.search.moving import Header, Moving, Parcel
from services.search.routing import Routing

Context = grpc.aio.ServicerContext[object, object]

_EncoderRequest = pb.CreateCollectionRequest | pb.StartReindexRequest | pb.EstimateReindexRequest


class CollectionServicer(rpc.CollectionServiceServicer):
    """Collections, routes, reindexes."""

    def __init__(self, collections: Collections, routing: Routing, moving: Moving) -> None:
        self._collections, self._routing, self._moving = collections, routing, moving

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        """Create."""
        view = await self._collections.create(request.name, _encoder(request), wire.settings_of(request.settings))
        return pb.CreateCollectionResponse(collection=wire.view_to_pb(view))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        """One."""
        return pb.GetCollectionResponse(collection=wire.view_to_pb(await self._collections.view(request.name)))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        """All."""
        views = await self._collections.views()
        return pb.ListCollectionsResponse(collections=[wire.view_to_pb(view) for view in views])

    async def UpdateCollection(
        self, request: pb.UpdateCollectionRequest, context: Context
    ) -> pb.UpdateCollectionResponse:
        """Change."""
        retention = wire.seconds(request.retention) if request.HasField("retention") else None
        fields = wire.fields_of(request.fields, "fields")
        view = await self._collections.update(request.name, retention, fields)
        return pb.UpdateCollectionResponse(collection=wire.view_to_pb(view))

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        """Delete."""
        return pb.DeleteCollectionResponse(documents=await self._collections.delete(request.name))

    async def EstimateReindex(self, request: pb.EstimateReindexRequest, context: Context) -> pb.EstimateReindexResponse:
        """What it would take."""
        estimate = await self._routing.estimate(request.collection, _encoder(request))
        return pb.EstimateReindexResponse(
            documents=estimate.documents,
            duration=wire.duration(estimate.seconds),
            disk_bytes=estimate.disk_bytes,
            free_disk_bytes=estimate.free_bytes,
        )

    async def StartReindex(self, request: pb.StartReindexRequest, context: Context) -> pb.StartReindexResponse:
        """Begin to build."""
        reindex = await self._routing.start_reindex(
            request.collection, _encoder(request), request.max_documents_per_second
        )
        return pb.StartReindexResponse(reindex=wire.reindex_to_pb(*reindex))

    async def GetReindex(self, request: pb.GetReindexRequest, context: Context) -> pb.GetReindexResponse:
        """Progress."""
        return pb.GetReindexResponse(reindex=wire.reindex_to_pb(*await self._routing.reindex(request.id)))

    async def CancelReindex(self, request: pb.CancelReindexRequest, context: Context) -> pb.CancelReindexResponse:
        """Stop."""
        return pb.CancelReindexResponse(reindex=wire.reindex_to_pb(*await self._routing.cancel_reindex(request.id)))

    async def SwitchRoute(self, request: pb.SwitchRouteRequest, context: Context) -> pb.SwitchRouteResponse:
        """Compare and set."""
        if not request.index and not request.HasField("reranker"):
            raise InvalidArgument(Violation("index", "is missing; give an index, a reranker, or both"))
        named = request.reranker
        reranker = (named.model, named.number, named.digest) if request.HasField("reranker") else None
        route = await self._routing.switch(request.collection, request.index, request.expected_generation, reranker)
        return pb.SwitchRouteResponse(route=wire.route_to_pb(route))

    async def RollbackRoute(self, request: pb.RollbackRouteRequest, context: Context) -> pb.RollbackRouteResponse:
        """Go back."""
        route = await self._routing.roll_back(request.collection, request.expected_generation)
        return pb.RollbackRouteResponse(route=wire.route_to_pb(route))

    async def ListRoutes(self, request: pb.ListRoutesRequest, context: Context) -> pb.ListRoutesResponse:
        """History."""
        routes = await self._routing.routes(request.collection)
        return pb.ListRoutesResponse(routes=[wire.route_to_pb(route) for route in routes])

    async def ExportCollection(
        self, request: pb.ExportCollectionRequest, context: Context
    ) -> AsyncIterator[pb.ExportCollectionResponse]:
        """Everything, with vectors."""
        header, parcels = await self._moving.export(request.collection)
        yield pb.ExportCollectionResponse(
            header=pb.ExportHeader(
                collection=header.collection,
                settings=wire.settings_to_pb(header.settings),
                encoder=wire.version_to_pb(header.version),
                dimensions=header.dimension,
            )
        )
        async for parcel in parcels:
            yield pb.ExportCollectionResponse(document=wire.parcel_to_pb(parcel.document, parcel.passages))

    async def ImportCollection(
        self, request_iterator: AsyncIterator[pb.ImportCollectionRequest], context: Context
    ) -> pb.ImportCollectionResponse:
        """Everything, without embedding."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidArgument(Violation("header", "is missing; send what ExportCollection gave, all of it"))
        given = first.header
        if not given.encoder.digest:
            raise InvalidArgument(Violation("header.encoder.digest", "is missing; it says whose the vectors are"))
        settings = wire.settings_of(given.settings)
        header = Header(given.collection, settings, wire.version_of(given.encoder), given.dimensions)
        done = await self._moving.take_in(header, _parcels(request_iterator))
        return pb.ImportCollectionResponse(
            collection=wire.view_to_pb(done.view), documents=done.documents, to_embed=done.to_embed
        )


async def _parcels(requests: AsyncIterator[pb.ImportCollectionRequest]) -> AsyncIterator[Parcel]:
    came, whole = 0, False
    async for request in requests:
        if whole:
            raise InvalidArgument(Violation("sent", "was not last; it says that all documents have come"))
        if request.WhichOneof("part") == "sent":
            if request.sent != came:
                raise InvalidArgument(Violation("sent", f"is {request.sent}, but {came} documents came; import again"))
            whole = True
            continue
        if request.WhichOneof("part") != "document":
            raise InvalidArgument(Violation("document", "is missing; the header comes once, then documents only"))
        yield Parcel(*wire.parcel_of(request.document))
        came += 1
    if not whole:  # as at the end of a stream that was broken off
        raise InvalidArgument(Violation("sent", "is missing; how many documents were sent comes last, when all were"))


def _encoder(request: _EncoderRequest) -> tuple[str, int, str]:
    encoder = request.encoder
    if not encoder.digest and not encoder.model:
        raise InvalidArgument(Violation("encoder", "is missing; give a model's name or a version's digest"))
    return encoder.model, encoder.number, encoder.digest

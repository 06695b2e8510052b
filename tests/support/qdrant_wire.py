"""A Qdrant server made of the client's local mode: what the client sends is read from the wire as a server would."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from qdrant_client import AsyncQdrantClient, models
from qdrant_client import grpc as pb
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc


class Wire:
    """The server's state, and how it is to misbehave."""

    def __init__(self) -> None:
        self.local = AsyncQdrantClient(":memory:")
        self.requests: list[Any] = []
        self.indexes: dict[str, dict[str, models.PayloadIndexInfo]] = defaultdict(dict)
        # What calls end with: those with this kind of request.
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.failing: type = object
        self.delay = 0.0
        self.version = "1.19.0"
        self.update_status = pb.UpdateStatus.Completed
        self.status = models.CollectionStatus.GREEN
        self.optimizer: models.OptimizersStatus = models.OptimizersStatusOneOf.OK

    def asked(self, kind: type) -> list[Any]:
        """The requests of one kind, in order."""
        return [request for request in self.requests if isinstance(request, kind)]

    def answering(self, answer: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """A handler that misbehaves as told, and else answers; local mode's complaints become statuses."""

        async def handle(request: Any, context: Any) -> Any:
            self.requests.append(request)
            await asyncio.sleep(self.delay)
            if self.failure and isinstance(request, self.failing):
                await context.abort(*self.failure)
            try:
                return await answer(request)
            except ValueError as error:
                absent = "not found" in str(error)
                await context.abort(
                    grpc.StatusCode.NOT_FOUND if absent else grpc.StatusCode.INVALID_ARGUMENT, str(error)
                )

        return handle

    def updated(self, count: int = 1) -> list[Any]:
        """Results of so many writes."""
        return [pb.UpdateResult(operation_id=1, status=self.update_status) for _ in range(count)]

    async def greet(self, request: Any) -> Any:
        return pb.HealthCheckReply(title="qdrant", version=self.version)

    # The collections service.

    async def create(self, request: Any) -> Any:
        if not GrpcToRest.convert_payload(request.metadata).get("diapason_index"):
            raise ValueError("a collection without its marks")
        await self.local.create_collection(
            request.collection_name,
            vectors_config=GrpcToRest.convert_vectors_config(request.vectors_config),
            sparse_vectors_config=GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config),
            metadata=GrpcToRest.convert_payload(request.metadata),
        )
        return pb.CollectionOperationResponse(result=True)

    async def describe(self, request: Any) -> Any:
        info = await self.local.get_collection(request.collection_name)
        found = self.indexes[request.collection_name]
        info = info.model_copy(
            update={"payload_schema": found, "status": self.status, "optimizer_status": self.optimizer}
        )
        return pb.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    async def list_all(self, request: Any) -> Any:
        listed = (await self.local.get_collections()).collections
        return pb.ListCollectionsResponse(collections=[pb.CollectionDescription(name=one.name) for one in listed])

    async def exists(self, request: Any) -> Any:
        there = await self.local.collection_exists(request.collection_name)
        return pb.CollectionExistsResponse(result=pb.CollectionExists(exists=there))

    async def change(self, request: Any) -> Any:
        self.status = models.CollectionStatus.YELLOW
        return pb.CollectionOperationResponse(result=True)

    async def remove(self, request: Any) -> Any:
        self.indexes.pop(request.collection_name, None)
        return pb.CollectionOperationResponse(result=await self.local.delete_collection(request.collection_name))

    # The points service.

    async def create_index(self, request: Any) -> Any:
        await self.local.get_collection(request.collection_name)
        params = GrpcToRest.convert_payload_schema_params(request.field_index_params)
        kind = models.PayloadSchemaType(params.type)
        made = models.PayloadIndexInfo(data_type=kind, params=params, points=0)
        self.indexes[request.collection_name][request.field_name] = made
        return pb.PointsOperationResponse(result=self.updated()[0])

    async def upsert(self, request: Any) -> Any:
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        condition = GrpcToRest.convert_filter(request.update_filter)
        await self.local.upsert(request.collection_name, points, update_filter=condition)
        return pb.PointsOperationResponse(result=self.updated()[0])

    async def delete(self, request: Any) -> Any:
        await self.local.delete(request.collection_name, GrpcToRest.convert_points_selector(request.points))
        return pb.PointsOperationResponse(result=self.updated()[0])

    async def update(self, request: Any) -> Any:
        operations = [GrpcToRest.convert_points_update_operation(one) for one in request.operations]
        await self.local.batch_update_points(request.collection_name, operations)
        return pb.UpdateBatchResponse(result=self.updated(len(operations)))

    async def get(self, request: Any) -> Any:
        records = await self.local.retrieve(
            request.collection_name,
            [GrpcToRest.convert_point_id(one) for one in request.ids],
            with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        return pb.GetResponse(result=[RestToGrpc.convert_retrieved_point(one) for one in records])

    async def query(self, request: Any) -> Any:
        asked = [GrpcToRest.convert_query_points(one) for one in request.query_points]
        answers = await self.local.query_batch_points(request.collection_name, asked)
        lists = [[RestToGrpc.convert_scored_point(one) for one in answer.points] for answer in answers]
        return pb.QueryBatchResponse(result=[pb.BatchResult(result=one) for one in lists])

    async def scroll(self, request: Any) -> Any:
        records, following = await self.local.scroll(
            request.collection_name,
            GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
        )
        after = None if following is None else RestToGrpc.convert_extended_point_id(str(following))
        found = [RestToGrpc.convert_retrieved_point(one) for one in records]
        return pb.ScrollResponse(next_page_offset=after, result=found)

    async def count(self, request: Any) -> Any:
        where = GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None
        found = await self.local.count(request.collection_name, where)
        return pb.CountResponse(result=pb.CountResult(count=found.count))


@asynccontextmanager
async def serving(wire: Wire) -> AsyncIterator[int]:
    """Serve on a free port."""
    collections: Any = pb.CollectionsServicer()
    points: Any = pb.PointsServicer()
    root: Any = pb.QdrantServicer()
    root.HealthCheck = wire.answering(wire.greet)
    collections.Create, collections.Get = wire.answering(wire.create), wire.answering(wire.describe)
    collections.List, collections.CollectionExists = wire.answering(wire.list_all), wire.answering(wire.exists)
    collections.Update, collections.Delete = wire.answering(wire.change), wire.answering(wire.remove)
    points.CreateFieldIndex, points.Upsert = wire.answering(wire.create_index), wire.answering(wire.upsert)
    points.Delete, points.UpdateBatch = wire.answering(wire.delete), wire.answering(wire.update)
    points.Get, points.QueryBatch = wire.answering(wire.get), wire.answering(wire.query)
    points.Scroll, points.Count = wire.answering(wire.scroll), wire.answering(wire.count)
    server = grpc.aio.server()
    add_collections: Any = pb.add_CollectionsServicer_to_server
    add_points: Any = pb.add_PointsServicer_to_server
    add_root: Any = pb.add_QdrantServicer_to_server
    add_collections(collections, server)
    add_points(points, server)
    add_root(root, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
        await wire.local.close()

"""The typed client: one object, one method per call, plain errors.

    with Client() as client:
        answer = client.search("movies", "a quirky comedy set in a hotel")
        client.thumbs(answer.search_id, answer.results[0].id, up=True)

Messages are those of the contracts (`diapason.<service>.v1`). Methods block and may be called
from several threads. Every failure is a `diapason.errors.DiapasonError`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diapason.clients.calls import errors
from diapason.clients.datasets import DatasetCalls
from diapason.clients.embedder import EmbeddedTexts, EmbedderCalls
from diapason.clients.feedback import FeedbackCalls
from diapason.clients.training import TrainingCalls
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from diapason.feedback.v1 import feedback_pb2_grpc
from diapason.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    document_pb2,
    document_pb2_grpc,
    filter_pb2,
    search_pb2,
    search_pb2_grpc,
)
from diapason.trainer.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    registry_pb2_grpc,
    rollout_pb2_grpc,
    training_pb2_grpc,
)

__all__ = ["Addresses", "Client", "EmbeddedTexts"]

_MAX_MESSAGE_BYTES = 32 * 1024 * 1024
# Calls whose requests are a stream. They are not repeated: what a stream has sent already may be carried out, and
# grpcio (1.85.1) waits for ever for a repeated stream whose sender pauses while the server goes away.
_STREAMED = [
    {"service": service.full_name, "method": method.name}
    for contract in (embedder_pb2, document_pb2, collection_pb2, dataset_pb2)
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.client_streaming
]
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
            {"name": _STREAMED},
        ]
    }
)


@dataclass(frozen=True)
class Addresses:
    """Where the services listen, each host:port."""

    embedder: str = "127.0.0.1:7071"
    search: str = "127.0.0.1:7072"
    feedback: str = "127.0.0.1:7073"
    trainer: str = "127.0.0.1:7074"


class Client(TrainingCalls, DatasetCalls, EmbedderCalls, FeedbackCalls):
    """All four services. ``timeout`` is for each unary call, in seconds."""

    def __init__(self, addresses: Addresses | None = None, timeout: float = 30.0) -> None:
        self._timeout = timeout
        addresses = addresses or Addresses()
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ]
        self._channels = {
            field.name: grpc.insecure_channel(getattr(addresses, field.name), options=options)
            for field in fields(Addresses)
        }
        search, trainer = self._channels["search"], self._channels["trainer"]
        self._embedder = embedder_pb2_grpc.EmbedderServiceStub(self._channels["embedder"])
        self._search = search_pb2_grpc.SearchServiceStub(search)
        self._documents = document_pb2_grpc.DocumentServiceStub(search)
        self._collections = collection_pb2_grpc.CollectionServiceStub(search)
        self._feedback = feedback_pb2_grpc.FeedbackServiceStub(self._channels["feedback"])
        self._training = training_pb2_grpc.TrainingServiceStub(trainer)
        self._datasets = dataset_pb2_grpc.DatasetServiceStub(trainer)
        self._registry = registry_pb2_grpc.RegistryServiceStub(trainer)
        self._rollouts = rollout_pb2_grpc.RolloutServiceStub(trainer)

    def __enter__(self) -> Self:
        """Use the client within a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            channel.close()

    def health(self, service: str, check: str = "readiness") -> str:
        """``SERVING``, ``NOT_SERVING``, or why there is no answer. ``service`` as in `Addresses`."""
        stub = health_pb2_grpc.HealthStub(self._channels[service])
        request = health_pb2.HealthCheckRequest(service=check)
        try:
            answer = stub.Check(request, timeout=2.0)  # type: ignore[attr-defined]
        except grpc.RpcError as error:
            return error.code().name
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    # Search

    def search(
        self,
        collection: str,
        query: str = "",
        limit: int = 0,
        dimensions: int = 0,
        actor: str = "",
        *,
        filter: filter_pb2.Filter | None = None,  # noqa: A002 - the contract's name for it
        score_threshold: float | None = None,
        page_token: str = "",
        hybrid: search_pb2.Hybrid | None = None,
        rerank: search_pb2.Rerank | None = None,
        explain: bool = False,
        exact: bool = False,
        like: Sequence[str] = (),
        unlike: Sequence[str] = (),
        first_stage_dimensions: int = 0,
        unrecorded: bool = False,
    ) -> search_pb2.SearchResponse:
        """The documents that answer the query best. The contract says what each part does (`SearchRequest`)."""
        request = search_pb2.SearchRequest(
            collection=collection,
            query=query,
            limit=limit,
            dimensions=dimensions,
            actor=actor,
            filter=filter,
            score_threshold=score_threshold,
            page_token=page_token,
            hybrid=hybrid,
            rerank=rerank,
            explain=explain,
            exact=exact,
            like=like,
            unlike=unlike,
            first_stage_dimensions=first_stage_dimensions,
            unrecorded=unrecorded,
        )
        with errors():
            return self._search.Search(request, timeout=self._timeout)

    def search_many(
        self, searches: Sequence[search_pb2.SearchRequest]
    ) -> list[search_pb2.SearchResponse | search_pb2.SearchError]:
        """Several searches in one call, at most 100; an answer or an error for each, in order."""
        request = search_pb2.BatchSearchRequest(searches=searches)
        with errors():
            answers = self._search.BatchSearch(request, timeout=self._timeout).answers
        return [a.response if a.HasField("response") else a.error for a in answers]

    def upsert(
        self, collection: str, documents: Iterable[document_pb2.Document]
    ) -> Iterator[document_pb2.UpsertDocumentsResponse]:
        """Write documents; yields an acknowledgement for each, in order, as it becomes durable."""
        requests = (
            document_pb2.UpsertDocumentsRequest(collection=collection, document=document) for document in documents
        )
        with errors():
            yield from self._documents.UpsertDocuments(requests)

    def documents(self, collection: str, ids: Sequence[str] = ()) -> Iterator[document_pb2.Document]:
        """The named documents, or all of a collection."""
        token = ""
        while True:
            request = document_pb2.GetDocumentsRequest(collection=collection, ids=ids, page_token=token)
            with errors():
                page = self._documents.GetDocuments(request, timeout=self._timeout)
            yield from page.documents
            token = page.next_page_token
            if not token:
                return

    def count(self, collection: str, filter: filter_pb2.Filter | None = None) -> int:  # noqa: A002
        """How many documents there are, or pass the filter."""
        request = document_pb2.CountDocumentsRequest(collection=collection, filter=filter)
        with errors():
            return self._documents.CountDocuments(request, timeout=self._timeout).documents

    def delete(
        self,
        collection: str,
        ids: Sequence[str] = (),
        filter: filter_pb2.Filter | None = None,  # noqa: A002
    ) -> document_pb2.DeleteDocumentsResponse:
        """Delete documents by id, or those that pass a filter."""
        request = document_pb2.DeleteDocumentsRequest(collection=collection, ids=ids, filter=filter)
        with errors():
            return self._documents.DeleteDocuments(request, timeout=self._timeout)

    def create_collection(
        self,
        name: str,
        encoder: str | VersionRef,
        dimensions: Sequence[int] = (),
        retention: float | None = None,
        settings: collection_pb2.CollectionSettings | None = None,
    ) -> collection_pb2.Collection:
        """A new collection under a version, or the newest of a model.

        ``dimensions`` and ``retention`` (in seconds) are added to ``settings``, which has all there is to set.
        """
        wanted = collection_pb2.CollectionSettings(dimensions=dimensions)
        if settings is not None:
            wanted.MergeFrom(settings)
        if retention is not None:
            wanted.retention.FromNanoseconds(int(retention * 1e9))
        request = collection_pb2.CreateCollectionRequest(
            name=name,
            encoder=_version(encoder),
            settings=wanted,
        )
        with errors():
            return self._collections.CreateCollection(request, timeout=self._timeout).collection

    def collection(self, name: str) -> collection_pb2.Collection:
        """One collection."""
        request = collection_pb2.GetCollectionRequest(name=name)
        with errors():
            return self._collections.GetCollection(request, timeout=self._timeout).collection

    def update_collection(
        self,
        name: str,
        retention: float | None = None,
        fields: Mapping[str, collection_pb2.FieldType.ValueType] | None = None,
    ) -> collection_pb2.Collection:
        """Change how long (in seconds) an index is kept for rollback, declare further fields."""
        request = collection_pb2.UpdateCollectionRequest(name=name, fields=fields)
        if retention is not None:
            request.retention.FromNanoseconds(int(retention * 1e9))
        with errors():
            return self._collections.UpdateCollection(request, timeout=self._timeout).collection

    def delete_collection(self, name: str) -> int:
        """Delete a collection with all it has; returns how many documents that were."""
        request = collection_pb2.DeleteCollectionRequest(name=name)
        with errors():
            return self._collections.DeleteCollection(request, timeout=self._timeout).documents

    def collections(self) -> Sequence[collection_pb2.Collection]:
        """All collections."""
        request = collection_pb2.ListCollectionsRequest()
        with errors():
            return self._collections.ListCollections(request, timeout=self._timeout).collections

    def routes(self, collection: str) -> Sequence[collection_pb2.Route]:
        """What was live when, newest first."""
        request = collection_pb2.ListRoutesRequest(collection=collection)
        with errors():
            return self._collections.ListRoutes(request, timeout=self._timeout).routes

    def estimate_reindex(self, collection: str, encoder: str | VersionRef) -> collection_pb2.EstimateReindexResponse:
        """What building an index under another version would take."""
        request = collection_pb2.EstimateReindexRequest(collection=collection, encoder=_version(encoder))
        with errors():
            return self._collections.EstimateReindex(request, timeout=self._timeout)

    def start_reindex(
        self, collection: str, encoder: str | VersionRef, max_documents_per_second: float = 0
    ) -> collection_pb2.Reindex:
        """Build an index under another version, beside the one that serves."""
        request = collection_pb2.StartReindexRequest(
            collection=collection, encoder=_version(encoder), max_documents_per_second=max_documents_per_second
        )
        with errors():
            return self._collections.StartReindex(request, timeout=self._timeout).reindex

    def reindex(self, reindex_id: str) -> collection_pb2.Reindex:
        """How a build stands."""
        request = collection_pb2.GetReindexRequest(id=reindex_id)
        with errors():
            return self._collections.GetReindex(request, timeout=self._timeout).reindex

    def cancel_reindex(self, reindex_id: str) -> collection_pb2.Reindex:
        """Stop a build and drop what it made."""
        request = collection_pb2.CancelReindexRequest(id=reindex_id)
        with errors():
            return self._collections.CancelReindex(request, timeout=self._timeout).reindex

    def switch_route(
        self, collection: str, index: str, expected_generation: int, reranker: VersionRef | None = None
    ) -> collection_pb2.Route:
        """Make an index serve (empty: the one that does), or another reranker."""
        request = collection_pb2.SwitchRouteRequest(
            collection=collection, index=index, expected_generation=expected_generation, reranker=reranker
        )
        with errors():
            return self._collections.SwitchRoute(request, timeout=self._timeout).route

    def roll_back_route(self, collection: str, expected_generation: int) -> collection_pb2.Route:
        """Switch to what served before."""
        request = collection_pb2.RollbackRouteRequest(collection=collection, expected_generation=expected_generation)
        with errors():
            return self._collections.RollbackRoute(request, timeout=self._timeout).route

    def export_collection(self, name: str) -> Iterator[collection_pb2.ExportCollectionResponse]:
        """A collection with its vectors: the header, then each document."""
        with errors():
            yield from self._collections.ExportCollection(collection_pb2.ExportCollectionRequest(collection=name))

    def import_collection(
        self, parts: Iterable[collection_pb2.ImportCollectionRequest]
    ) -> collection_pb2.ImportCollectionResponse:
        """A new collection of what was exported. The header's name is the new one's."""
        with errors():
            return self._collections.ImportCollection(iter(parts))


def _version(named: str | VersionRef) -> VersionRef:
    """A string is a model's name and means its newest version."""
    return VersionRef(model=named) if isinstance(named, str) else named

"""The typed client: one object, one method per call, plain errors.

    with Client() as client:
        answer = client.search("movies", "a quirky comedy set in a hotel")
        client.thumbs(answer.search_id, answer.results[0].id, up=True)

Messages are those of the contracts (`diapason.<service>.v1`). Methods block and may be called
from several threads. Every failure is a `diapason.errors.DiapasonError`.
"""

import json
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diapason import vectors
from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER, VersionRef
from diapason.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from diapason.errors import from_rpc_error
from diapason.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from diapason.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    document_pb2,
    document_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from diapason.trainer.v1 import (
    registry_pb2,
    registry_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)

_MAX_MESSAGE_BYTES = 32 * 1024 * 1024
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
            }
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


@dataclass(frozen=True)
class EmbeddedTexts:
    """A part of a stream: ``positions[i]`` is the place of ``rows[i]`` among all texts sent.

    ``failures`` says of the others why they have no vector, by their place.
    """

    positions: list[int]
    rows: vectors.Matrix
    failures: dict[int, str]


class Client:
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
        self, collection: str, query: str, limit: int = 0, dimensions: int = 0, actor: str = ""
    ) -> search_pb2.SearchResponse:
        """The documents nearest to the query."""
        request = search_pb2.SearchRequest(
            collection=collection, query=query, limit=limit, dimensions=dimensions, actor=actor
        )
        with _errors():
            return self._search.Search(request, timeout=self._timeout)

    def upsert(
        self, collection: str, documents: Iterable[document_pb2.Document]
    ) -> Iterator[document_pb2.UpsertDocumentsResponse]:
        """Write documents; yields an acknowledgement for each, in order, as it becomes durable."""
        requests = (
            document_pb2.UpsertDocumentsRequest(collection=collection, document=document) for document in documents
        )
        with _errors():
            yield from self._documents.UpsertDocuments(requests)

    def documents(self, collection: str, ids: Sequence[str] = ()) -> Iterator[document_pb2.Document]:
        """The named documents, or all of a collection."""
        token = ""
        while True:
            request = document_pb2.GetDocumentsRequest(collection=collection, ids=ids, page_token=token)
            with _errors():
                page = self._documents.GetDocuments(request, timeout=self._timeout)
            yield from page.documents
            token = page.next_page_token
            if not token:
                return

    def delete(self, collection: str, ids: Sequence[str]) -> document_pb2.DeleteDocumentsResponse:
        """Delete documents by id."""
        request = document_pb2.DeleteDocumentsRequest(collection=collection, ids=ids)
        with _errors():
            return self._documents.DeleteDocuments(request, timeout=self._timeout)

    def create_collection(
        self,
        name: str,
        encoder: str | VersionRef,
        dimensions: Sequence[int] = (),
        retention: float | None = None,
    ) -> collection_pb2.Collection:
        """A new collection under a version, or the newest of a model. ``retention`` in seconds."""
        settings = collection_pb2.CollectionSettings(dimensions=dimensions)
        if retention is not None:
            settings.retention.FromNanoseconds(int(retention * 1e9))
        request = collection_pb2.CreateCollectionRequest(
            name=name,
            encoder=VersionRef(model=encoder) if isinstance(encoder, str) else encoder,
            settings=settings,
        )
        with _errors():
            return self._collections.CreateCollection(request, timeout=self._timeout).collection

    def collection(self, name: str) -> collection_pb2.Collection:
        """One collection."""
        request = collection_pb2.GetCollectionRequest(name=name)
        with _errors():
            return self._collections.GetCollection(request, timeout=self._timeout).collection

    def collections(self) -> Sequence[collection_pb2.Collection]:
        """All collections."""
        request = collection_pb2.ListCollectionsRequest()
        with _errors():
            return self._collections.ListCollections(request, timeout=self._timeout).collections

    def routes(self, collection: str) -> Sequence[collection_pb2.Route]:
        """What was live when, newest first."""
        request = collection_pb2.ListRoutesRequest(collection=collection)
        with _errors():
            return self._collections.ListRoutes(request, timeout=self._timeout).routes

    # Feedback

    def thumbs(self, search_id: str, document_id: str, up: bool, actor: str = "", reason: str = "") -> bool:
        """One thumb on one result. False if this actor's same thumb was stored before."""
        signal = feedback_pb2.SIGNAL_THUMBS_UP if up else feedback_pb2.SIGNAL_THUMBS_DOWN
        said = json.dumps([search_id, document_id, signal, actor])
        item = feedback_pb2.Feedback(
            idempotency_key=uuid.uuid5(uuid.NAMESPACE_OID, said).hex,
            search_id=search_id,
            document_id=document_id,
            signal=signal,
            actor=actor,
            reason=reason,
        )
        return not self.submit([item])[0].duplicate

    def submit(self, feedback: Sequence[feedback_pb2.Feedback]) -> Sequence[feedback_pb2.FeedbackReceipt]:
        """Store a batch of feedback, whole or not at all."""
        request = feedback_pb2.SubmitFeedbackRequest(feedback=feedback)
        with _errors():
            return self._feedback.SubmitFeedback(request, timeout=self._timeout).receipts

    def summary(self, collection: str = "") -> feedback_pb2.GetSummaryResponse:
        """Counts of impressions and feedback."""
        request = feedback_pb2.GetSummaryRequest(collection=collection)
        with _errors():
            return self._feedback.GetSummary(request, timeout=self._timeout)

    def judgments(self, collection: str, cursor: str = "") -> Iterator[feedback_pb2.ExportJudgmentsResponse]:
        """What training would read, each with the cursor from which to go on."""
        request = feedback_pb2.ExportJudgmentsRequest(collection=collection, cursor=cursor)
        with _errors():
            yield from self._feedback.ExportJudgments(request)

    # Training

    def train(
        self,
        collection: str,
        config: training_pb2.TrainingConfig | None = None,
        gate: training_pb2.GatePolicy | None = None,
        dry_run: bool = False,
    ) -> training_pb2.Run:
        """Queue a run; what passes the gate is rolled out."""
        request = training_pb2.StartRunRequest(collection=collection, config=config, gate=gate, dry_run=dry_run)
        with _errors():
            return self._training.StartRun(request, timeout=self._timeout).run

    def run(self, run_id: str) -> training_pb2.Run:
        """One run."""
        with _errors():
            return self._training.GetRun(training_pb2.GetRunRequest(id=run_id), timeout=self._timeout).run

    def runs(self, limit: int = 0) -> Sequence[training_pb2.Run]:
        """Runs, newest first."""
        with _errors():
            return self._training.ListRuns(training_pb2.ListRunsRequest(limit=limit), timeout=self._timeout).runs

    def cancel_run(self, run_id: str) -> training_pb2.Run:
        """Ask a run to stop."""
        with _errors():
            return self._training.CancelRun(training_pb2.CancelRunRequest(id=run_id), timeout=self._timeout).run

    def watch_run(self, run_id: str) -> Iterator[training_pb2.Run]:
        """The run now and after each change, until it ends."""
        with _errors():
            for answer in self._training.WatchRun(training_pb2.WatchRunRequest(id=run_id)):
                yield answer.run

    def trainer_status(self) -> training_pb2.GetStatusResponse:
        """Whether training would begin: broker and workers."""
        with _errors():
            return self._training.GetStatus(training_pb2.GetStatusRequest(), timeout=self._timeout)

    # Models

    def register_model(self, name: str, source: str, dimensions: Sequence[int] = (), reranker: bool = False) -> str:
        """Import a base model; returns the id of the run that does it. A reranker has no ``dimensions``."""
        kind = MODEL_KIND_RERANKER if reranker else MODEL_KIND_ENCODER
        request = registry_pb2.RegisterModelRequest(name=name, kind=kind, source=source, dimensions=dimensions)
        with _errors():
            return self._registry.RegisterModel(request, timeout=self._timeout).run_id

    def models(self) -> Sequence[registry_pb2.Model]:
        """All models."""
        with _errors():
            return self._registry.ListModels(registry_pb2.ListModelsRequest(), timeout=self._timeout).models

    def versions(self, model: str) -> Sequence[registry_pb2.Version]:
        """A model's versions, newest first."""
        request = registry_pb2.ListVersionsRequest(model=model)
        with _errors():
            return self._registry.ListVersions(request, timeout=self._timeout).versions

    def start_rollout(self, collection: str, version: VersionRef) -> rollout_pb2.Rollout:
        """Roll a published version out."""
        request = rollout_pb2.StartRolloutRequest(collection=collection, version=version)
        with _errors():
            return self._rollouts.StartRollout(request, timeout=self._timeout).rollout

    def rollout(self, rollout_id: str) -> rollout_pb2.Rollout:
        """One rollout."""
        request = rollout_pb2.GetRolloutRequest(id=rollout_id)
        with _errors():
            return self._rollouts.GetRollout(request, timeout=self._timeout).rollout

    def watch_rollout(self, rollout_id: str) -> Iterator[rollout_pb2.Rollout]:
        """The rollout now and after each change, until the new version serves or it ended without."""
        with _errors():
            for answer in self._rollouts.WatchRollout(rollout_pb2.WatchRolloutRequest(id=rollout_id)):
                yield answer.rollout

    def roll_back(self, rollout_id: str) -> rollout_pb2.Rollout:
        """Switch back to what served before a rollout."""
        request = rollout_pb2.RollbackRolloutRequest(id=rollout_id)
        with _errors():
            return self._rollouts.RollbackRollout(request, timeout=self._timeout).rollout

    # Embedding

    def embed(
        self, version: VersionRef, texts: Sequence[str], query: bool = False, dimensions: int = 0
    ) -> vectors.Matrix:
        """Vectors of texts, one row each, with exactly this version."""
        request = embedder_pb2.EmbedRequest(
            version=version,
            texts=texts,
            role=embedder_pb2.ROLE_QUERY if query else embedder_pb2.ROLE_DOCUMENT,
            dimensions=dimensions,
        )
        with _errors():
            response = self._embedder.Embed(request, timeout=self._timeout)
        return vectors.from_bytes(response.vectors, response.dimensions)

    def embed_stream(
        self,
        version: VersionRef,
        texts: Iterable[str],
        query: bool = False,
        dimensions: int = 0,
        message_texts: int = 32,
    ) -> Iterator[EmbeddedTexts]:
        """Vectors of any number of texts, in order, ``message_texts`` at a time; texts are drawn as there is room."""
        config = embedder_pb2.EmbedStreamConfig(
            version=version,
            role=embedder_pb2.ROLE_QUERY if query else embedder_pb2.ROLE_DOCUMENT,
            dimensions=dimensions,
        )
        sizes: deque[int] = deque()

        def messages() -> Iterator[embedder_pb2.EmbedStreamRequest]:
            waiting, first = iter(texts), True
            while part := list(islice(waiting, message_texts)):
                sizes.append(len(part))
                yield embedder_pb2.EmbedStreamRequest(config=config if first else None, texts=part)
                first = False

        start = 0
        with _errors():
            for answer in self._embedder.EmbedStream(messages()):
                size = sizes.popleft()
                failures = {start + failure.index: failure.message for failure in answer.failures}
                positions = [i for i in range(start, start + size) if i not in failures]
                yield EmbeddedTexts(positions, vectors.from_bytes(answer.vectors, answer.dimensions), failures)
                start += size

    def rerank(self, version: VersionRef, query: str, texts: Sequence[str]) -> list[float]:
        """A score for each text, higher for more relevant, with exactly this version of a reranker."""
        request = embedder_pb2.RerankRequest(version=version, query=query, texts=texts)
        with _errors():
            return list(self._embedder.Rerank(request, timeout=self._timeout).scores)

    def embedder_info(self) -> embedder_pb2.GetInfoResponse:
        """Limits, device, and what is resident."""
        with _errors():
            return self._embedder.GetInfo(embedder_pb2.GetInfoRequest(), timeout=self._timeout)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error

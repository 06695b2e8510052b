"""Search and feedback as the trainer's workers use them: blocking, from threads."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from diapason.common.v1.version_pb2 import VersionRef
from diapason.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from diapason.search.v1 import collection_pb2, collection_pb2_grpc, document_pb2, document_pb2_grpc
from services.kit.context import REQUEST_ID_KEY, CallOptions
from services.kit.errors import NotFound
from services.kit.status import from_rpc_error
from services.trainer.domain.data import Judgment
from services.trainer.domain.model import PublishedVersion

_SECONDS = 30.0
_EXPORT_SECONDS = 300.0
_PAGE = 500


@dataclass(frozen=True)
class Exported:
    """Judgments, and the policy by which they were made, with all its numbers."""

    judgments: Sequence[Judgment]
    policy: Mapping[str, Any]


class Peers:
    """Calls to the other services. Every failure is a ``ServiceError``."""

    def __init__(self, search: grpc.Channel, feedback: grpc.Channel) -> None:
        self._collections = collection_pb2_grpc.CollectionServiceStub(search)
        self._documents = document_pb2_grpc.DocumentServiceStub(search)
        self._feedback = feedback_pb2_grpc.FeedbackServiceStub(feedback)

    def judgments(self, collection: str, consumer: str = "", policy: str = "") -> "Exported":
        """All judgments of a collection under a policy (the default one, if it is not named).

        That ``consumer`` (a run's id) has read them is noted by the feedback service, if there is one.
        """
        request = feedback_pb2.ExportJudgmentsRequest(
            collection=collection, consumer=consumer, policy=feedback_pb2.JudgmentPolicy(name=policy)
        )
        with _translated("feedback"):
            answers = list(self._feedback.ExportJudgments(request, **_options(_EXPORT_SECONDS)))
        header = next(answer.header for answer in answers if answer.HasField("header"))
        found = (answer.judgment for answer in answers if answer.HasField("judgment"))
        return Exported(
            [Judgment(j.query, j.document_id, j.target, j.weight) for j in found],
            MessageToDict(header.policy, preserving_proto_field_name=True),
        )

    def record_training(self, consumer: str, version: PublishedVersion) -> None:
        """Have it noted that a version came of what a run has read."""
        request = feedback_pb2.RecordTrainingRequest(consumer=consumer, version=_ref(version))
        with _translated("feedback"):
            self._feedback.RecordTraining(request, **_options(_SECONDS))

    def passages(self, collection: str) -> Iterator[tuple[str, str]]:
        """The id and the passage of every document."""
        token = ""
        while True:
            request = document_pb2.GetDocumentsRequest(collection=collection, page_size=_PAGE, page_token=token)
            with _translated("search"):
                page = self._documents.GetDocuments(request, **_options(_SECONDS))
            yield from ((document.id, document.passage) for document in page.documents)
            token = page.next_page_token
            if not token:
                return

    def collection(self, name: str) -> collection_pb2.Collection:
        """A collection as it stands. Raises ``NotFound``."""
        try:
            with _translated("search"):
                request = collection_pb2.GetCollectionRequest(name=name)
                return self._collections.GetCollection(request, **_options(_SECONDS)).collection
        except NotFound as error:
            raise NotFound("collection", name, "ListCollections names those there are") from error

    def collections(self) -> list[collection_pb2.Collection]:
        """All collections."""
        with _translated("search"):
            request = collection_pb2.ListCollectionsRequest()
            return list(self._collections.ListCollections(request, **_options(_SECONDS)).collections)

    def start_reindex(self, collection: str, version: PublishedVersion) -> collection_pb2.Reindex:
        """Begin to build an index under a version, or find the build that began."""
        with _translated("search"):
            request = collection_pb2.StartReindexRequest(collection=collection, encoder=_ref(version))
            return self._collections.StartReindex(request, **_options(_SECONDS)).reindex

    def reindex(self, reindex_id: str) -> collection_pb2.Reindex:
        """How a build stands."""
        with _translated("search"):
            request = collection_pb2.GetReindexRequest(id=reindex_id)
            return self._collections.GetReindex(request, **_options(_SECONDS)).reindex

    def cancel_reindex(self, reindex_id: str) -> None:
        """End a build; one that is gone or switched is left as it is."""
        with _translated("search"):
            request = collection_pb2.CancelReindexRequest(id=reindex_id)
            self._collections.CancelReindex(request, **_options(_SECONDS))

    def switch(self, collection: str, index: str, generation: int) -> collection_pb2.Route:
        """Compare-and-set the route. Raises ``Conflict`` if the generation is another."""
        with _translated("search"):
            request = collection_pb2.SwitchRouteRequest(
                collection=collection, index=index, expected_generation=generation
            )
            return self._collections.SwitchRoute(request, **_options(_SECONDS)).route

    def switch_reranker(self, collection: str, version: PublishedVersion, generation: int) -> collection_pb2.Route:
        """The same with a reranker; the index stays."""
        with _translated("search"):
            request = collection_pb2.SwitchRouteRequest(
                collection=collection, reranker=_ref(version), expected_generation=generation
            )
            return self._collections.SwitchRoute(request, **_options(_SECONDS)).route

    def roll_back(self, collection: str, generation: int) -> collection_pb2.Route:
        """Switch back to the index and the reranker that served before."""
        with _translated("search"):
            request = collection_pb2.RollbackRouteRequest(collection=collection, expected_generation=generation)
            return self._collections.RollbackRoute(request, **_options(_SECONDS)).route


def _ref(version: PublishedVersion) -> VersionRef:
    return VersionRef(model=version.model, number=version.number, digest=version.digest)


@contextmanager
def _translated(service: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, service) from error


def _options(seconds: float) -> CallOptions:
    return {"timeout": seconds, "metadata": ((REQUEST_ID_KEY, uuid.uuid4().hex),)}

"""A small BEIR folder, and a stack in one process that searches by words alone.

The stack answers the calls that `diapason eval` makes, with errors and moods that tests choose. What it finds is
plain: a document scores a point for each word that it shares with the query.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER, VersionRef
from diapason.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from diapason.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    document_pb2,
    document_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

Context = grpc.ServicerContext
CORPUS = (
    ("d1", "Owls", "owls hunt mice at night"),
    ("d2", "", "mice eat grain in the barn"),
    ("d3", "Barn", "the barn burns at night"),
    ("d4", "", "grain grows in summer"),
)
QUERIES = (
    ("q1", "what do owls hunt at night"),
    ("q2", "who may eat grain"),
    ("q3", "nobody judged this one"),
    ("q4", "summer barn"),
)
QRELS = (("q1", "d1", 2), ("q1", "d3", 1), ("q2", "d2", 1), ("q2", "d4", 0), ("q4", "d4", 1))


def write_folder(
    folder: Path,
    corpus: Sequence[tuple[str, str, str]] = CORPUS,
    queries: Sequence[tuple[str, str]] = QUERIES,
    qrels: Sequence[tuple[str, str, int]] = QRELS,
) -> Path:
    """A folder in the layout of BEIR, with one split, `test`."""
    folder.joinpath("qrels").mkdir(parents=True, exist_ok=True)
    documents = ({"_id": name, "title": title, "text": text} for name, title, text in corpus)
    folder.joinpath("corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    asked = ({"_id": name, "text": text} for name, text in queries)
    folder.joinpath("queries.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    judged = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in qrels)
    folder.joinpath("qrels", "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return folder


ENCODER = VersionRef(model="words", number=2, digest="e" * 64)
RERANKER = VersionRef(model="judge", number=1, digest="r" * 64)


class WordStack(
    search_pb2_grpc.SearchServiceServicer,
    document_pb2_grpc.DocumentServiceServicer,
    collection_pb2_grpc.CollectionServiceServicer,
    embedder_pb2_grpc.EmbedderServiceServicer,
):
    """All services under one address. What tests may set is public, and so is what it was asked."""

    def __init__(self) -> None:
        self.collections: dict[str, collection_pb2.Collection] = {}
        self.stored: dict[str, dict[str, document_pb2.Document]] = {}
        self.deleted: list[str] = []
        self.asked: list[search_pb2.SearchRequest] = []
        self.busy = 0
        self.refused = ""
        self.reranks = True
        self.switches_after = 0
        self.searching = threading.Event()
        self.hold: threading.Event | None = None

    def GetInfo(self, request: embedder_pb2.GetInfoRequest, context: Context) -> embedder_pb2.GetInfoResponse:
        ready = embedder_pb2.VERSION_STATE_READY
        older = VersionRef(model="words", number=1, digest="d" * 64)
        encoders = [
            embedder_pb2.VersionStatus(
                version=ref, state=ready, kind=MODEL_KIND_ENCODER, dimension=32, dimensions=[32, 16]
            )
            for ref in (older, ENCODER)
        ]
        reranker = embedder_pb2.VersionStatus(version=RERANKER, state=ready, kind=MODEL_KIND_RERANKER)
        return embedder_pb2.GetInfoResponse(versions=[*encoders, reranker])

    def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: Context
    ) -> collection_pb2.CreateCollectionResponse:
        route = collection_pb2.Route(collection=request.name, generation=1, encoder=request.encoder, index="i")
        made = collection_pb2.Collection(name=request.name, settings=request.settings, route=route)
        self.collections[request.name], self.stored[request.name] = made, {}
        return collection_pb2.CreateCollectionResponse(collection=made)

    def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, context: Context
    ) -> collection_pb2.GetCollectionResponse:
        if request.name not in self.collections:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no collection {request.name!r}")
        found = self.collections[request.name]
        found.documents = len(self.stored[request.name])
        del found.indexes[:]
        found.indexes.add(id="i", points=found.documents)
        return collection_pb2.GetCollectionResponse(collection=found)

    def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: Context
    ) -> collection_pb2.ListCollectionsResponse:
        return collection_pb2.ListCollectionsResponse(collections=self.collections.values())

    def DeleteCollection(
        self, request: collection_pb2.DeleteCollectionRequest, context: Context
    ) -> collection_pb2.DeleteCollectionResponse:
        self.deleted.append(request.name)
        del self.collections[request.name]
        return collection_pb2.DeleteCollectionResponse(documents=len(self.stored.pop(request.name)))

    def SwitchRoute(
        self, request: collection_pb2.SwitchRouteRequest, context: Context
    ) -> collection_pb2.SwitchRouteResponse:
        route = self.collections[request.collection].route
        assert (request.expected_generation, request.index) == (route.generation, "")
        route.reranker.CopyFrom(request.reranker)
        route.generation += 1
        return collection_pb2.SwitchRouteResponse(route=route)

    def UpsertDocuments(
        self, request_iterator: Iterator[document_pb2.UpsertDocumentsRequest], context: Context
    ) -> Iterator[document_pb2.UpsertDocumentsResponse]:
        for request in request_iterator:
            self.stored[request.collection][request.document.id] = request.document
            yield document_pb2.UpsertDocumentsResponse(id=request.document.id)

    def GetDocuments(
        self, request: document_pb2.GetDocumentsRequest, context: Context
    ) -> document_pb2.GetDocumentsResponse:
        stored = self.stored[request.collection]
        return document_pb2.GetDocumentsResponse(documents=[stored[i] for i in request.ids if i in stored])

    def BatchSearch(self, request: search_pb2.BatchSearchRequest, context: Context) -> search_pb2.BatchSearchResponse:
        self.searching.set()
        if self.hold:
            self.hold.wait(20)
        if self.busy > 1:
            self.busy -= 1
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much at once")
        return search_pb2.BatchSearchResponse(answers=[self._answer(search) for search in request.searches])

    def _answer(self, request: search_pb2.SearchRequest) -> search_pb2.BatchSearchAnswer:
        self.asked.append(request)
        if self.busy:
            self.busy -= 1
            return search_pb2.BatchSearchAnswer(error=search_pb2.SearchError(code=8, message="too much at once"))
        if self.refused and self.refused in request.query:
            return search_pb2.BatchSearchAnswer(error=search_pb2.SearchError(code=3, message="query: is refused"))
        route = self.collections[request.collection].route
        if self.switches_after and len(self.asked) > self.switches_after:
            route.generation += 1
        words = set(request.query.split())
        points = {
            name: len(words & set(f"{document.title.lower()} {document.text}".split()))
            for name, document in self.stored[request.collection].items()
        }
        ordered = sorted((name for name in points if points[name]), key=lambda name: (-points[name], name))
        response = search_pb2.SearchResponse(
            route=route,
            results=[search_pb2.Result(id=name, score=points[name]) for name in ordered[: request.limit]],
        )
        if request.HasField("rerank"):
            response.reranking.applied = self.reranks
            response.reranking.reason = "" if self.reranks else "the reranker is away"
        return search_pb2.BatchSearchAnswer(response=response)


@contextmanager
def serving(stack: WordStack) -> Iterator[str]:
    """The address at which it answers, for the time of the block."""
    server = grpc.server(ThreadPoolExecutor(8))
    add: list[Any] = [
        search_pb2_grpc.add_SearchServiceServicer_to_server,
        document_pb2_grpc.add_DocumentServiceServicer_to_server,
        collection_pb2_grpc.add_CollectionServiceServicer_to_server,
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server,
    ]
    for each in add:
        each(stack, server)
    healthy = health.HealthServicer()
    healthy.set("readiness", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()

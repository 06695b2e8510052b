"""What search talks to in these tests: an embedder whose vectors show their version, and a moody feedback service.

Each version has columns of its own. Within a version equal texts have cosine 1; across versions every
cosine is exactly 0, at every size. So a score tells which texts, of which version, were compared.
"""

import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np

from diapason import vectors
from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from diapason.feedback.v1 import feedback_pb2
from diapason.vectors import Matrix

MODEL = "planted"
VERSIONS = 3
DIMENSION = 48
SMALL = 24
# A score that search gives may differ so much from what it should be.
TOLERANCE = 1e-3
_THREADS = 32


def version(number: int) -> VersionRef:
    """One of the versions, from 1."""
    return VersionRef(model=MODEL, number=number, digest=f"{number:x}" * 64)


@functools.lru_cache(65_536)
def vector(number: int, text: str) -> Matrix:
    """The vector of a text under a version."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    own = np.random.default_rng(seed).normal(size=DIMENSION // VERSIONS)
    row = np.zeros(DIMENSION, np.float32)
    row[number - 1 :: VERSIONS] = own / np.linalg.norm(own)
    row.setflags(write=False)
    return row


def similarity(number: int, one: str, other: str, dimensions: int) -> float:
    """The cosine that search must give for two texts under a version; zero ``dimensions`` for the full size."""
    rows = np.stack([vector(number, one), vector(number, other)])
    first, second = vectors.truncated(rows, dimensions)
    return float(first @ second)


@dataclass
class Alarm:
    """Calls somebody while a given number of bulk requests from now is being answered."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _left: int = 0
    _call: Callable[[], None] | None = None

    def set(self, requests: int, call: Callable[[], None]) -> None:
        """Have it call once."""
        with self._lock:
            self._left, self._call = requests, call

    def clear(self) -> None:
        """Call nobody."""
        with self._lock:
            self._call = None

    def count(self) -> None:
        """One request came."""
        with self._lock:
            self._left -= 1
            due = self._call if self._left <= 0 else None
            if due:
                self._call = None
        if due:
            due()


class PlantedEmbedder(rpc.EmbedderServiceServicer):
    """The embedder's contract over planted vectors. All versions are always ready."""

    def __init__(self) -> None:
        self.alarm = Alarm()
        self._bulk = threading.Event()
        self._bulk.set()

    @contextmanager
    def holding_bulk(self) -> Iterator[None]:
        """While the block runs, requests of the bulk lane wait."""
        self._bulk.clear()
        try:
            yield
        finally:
            self._bulk.set()

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        if request.lane == pb.LANE_BULK:
            self.alarm.count()
            self._bulk.wait()
        return pb.EmbedResponse(
            version=_named(request.version, context),
            dimensions=request.dimensions or DIMENSION,
            vectors=_content(request.version.number, list(request.texts), request.dimensions),
            token_counts=[_tokens(text) for text in request.texts],
            truncated=[False] * len(request.texts),
        )

    def EmbedStream(
        self, request_iterator: Iterator[pb.EmbedStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.EmbedStreamResponse]:
        config = pb.EmbedStreamConfig()
        for request in request_iterator:
            if request.HasField("config"):
                config = request.config
            self.alarm.count()
            self._bulk.wait()
            yield pb.EmbedStreamResponse(
                version=_named(config.version, context),
                dimensions=config.dimensions or DIMENSION,
                vectors=_content(config.version.number, list(request.texts), config.dimensions),
                token_counts=[_tokens(text) for text in request.texts],
                truncated=[False] * len(request.texts),
            )

    def Rerank(self, request: pb.RerankRequest, context: grpc.ServicerContext) -> pb.RerankResponse:
        named = _named(request.version, context)
        scores = [similarity(named.number, request.query, text, 0) for text in request.texts]
        return pb.RerankResponse(
            version=named,
            scores=scores,
            token_counts=[_tokens(request.query) + _tokens(text) for text in request.texts],
            truncated=[False] * len(scores),
        )

    def Split(self, request: pb.SplitRequest, context: grpc.ServicerContext) -> pb.SplitResponse:
        """Every text whole: what is written here is short."""
        whole = [pb.TextPassages(starts=[0], ends=[len(text)]) for text in request.texts]
        return pb.SplitResponse(version=_named(request.version, context), texts=whole)

    def GetInfo(self, request: pb.GetInfoRequest, context: grpc.ServicerContext) -> pb.GetInfoResponse:
        return pb.GetInfoResponse(
            replica_id="planted",
            device="CPU",
            runtime="planted",
            limits=pb.Limits(
                max_texts=256,
                max_text_characters=100_000,
                max_queued_texts=4_096,
                max_queued_tokens=1_000_000,
                max_message_bytes=32 * 1024 * 1024,
            ),
            versions=[
                pb.VersionStatus(
                    version=version(number),
                    state=pb.VERSION_STATE_READY,
                    kind=MODEL_KIND_ENCODER,
                    dimension=DIMENSION,
                    dimensions=[DIMENSION, SMALL],
                    max_tokens=256,
                )
                for number in range(1, VERSIONS + 1)
            ],
            inference_threads=1,
        )


def moody_feedback() -> grpc.GenericRpcHandler:
    """A feedback service that takes every second batch of impressions."""
    calls = itertools.count()

    def record(
        request: feedback_pb2.RecordImpressionsRequest, context: grpc.ServicerContext
    ) -> feedback_pb2.RecordImpressionsResponse:
        if next(calls) % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not in the mood")
        return feedback_pb2.RecordImpressionsResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        record,
        feedback_pb2.RecordImpressionsRequest.FromString,
        feedback_pb2.RecordImpressionsResponse.SerializeToString,
    )
    name = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name
    return grpc.method_handlers_generic_handler(name, {"RecordImpressions": handler})


@dataclass(frozen=True)
class Surroundings:
    """Where the two listen."""

    embedder: PlantedEmbedder
    embedder_address: str
    feedback_address: str


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Run both for the time of the block."""
    servers = [grpc.server(futures.ThreadPoolExecutor(_THREADS)) for _ in range(2)]
    embedder = PlantedEmbedder()
    rpc.add_EmbedderServiceServicer_to_server(embedder, servers[0])
    servers[1].add_generic_rpc_handlers((moody_feedback(),))
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    for server in servers:
        server.start()
    try:
        yield Surroundings(embedder, *(f"127.0.0.1:{port}" for port in ports))
    finally:
        embedder.alarm.clear()
        for server in servers:
            server.stop(0).wait()


def _named(asked: VersionRef, context: grpc.ServicerContext) -> VersionRef:
    if not 1 <= asked.number <= VERSIONS or asked != version(asked.number):
        context.abort(grpc.StatusCode.NOT_FOUND, f"{asked} is not a planted version")
    return asked


def _content(number: int, texts: list[str], dimensions: int) -> bytes:
    rows = np.stack([vector(number, text) for text in texts]) if texts else np.empty((0, DIMENSION), np.float32)
    return vectors.to_bytes(vectors.truncated(rows, dimensions))


def _tokens(text: str) -> int:
    return len(text.split()) + 2

"""The client's calls of the embedder."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from diapason import vectors
from diapason.clients.calls import errors
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2, embedder_pb2_grpc


@dataclass(frozen=True)
class EmbeddedTexts:
    """A part of a stream: ``positions[i]`` is the place of ``rows[i]`` among all texts sent.

    ``failures`` says of the others why they have no vector, by their place.
    """

    positions: list[int]
    rows: vectors.Matrix
    failures: dict[int, str]


class EmbedderCalls:
    """What `diapason.client.Client` can have embedded, scored and split."""

    _timeout: float
    _embedder: embedder_pb2_grpc.EmbedderServiceStub

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
        with errors():
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
        with errors():
            for answer in self._embedder.EmbedStream(messages()):
                size = sizes.popleft()
                failures = {start + failure.index: failure.message for failure in answer.failures}
                positions = [i for i in range(start, start + size) if i not in failures]
                yield EmbeddedTexts(positions, vectors.from_bytes(answer.vectors, answer.dimensions), failures)
                start += size

    def rerank(self, version: VersionRef, query: str, texts: Sequence[str]) -> list[float]:
        """A score for each text, higher for more relevant, with exactly this version of a reranker."""
        request = embedder_pb2.RerankRequest(version=version, query=query, texts=texts)
        with errors():
            return list(self._embedder.Rerank(request, timeout=self._timeout).scores)

    def split(
        self, version: VersionRef, texts: Sequence[str], max_tokens: int = 0, overlap_tokens: int = 0
    ) -> list[list[tuple[int, int]]]:
        """Where to cut each text: passages of at most ``max_tokens`` (0: what the version reads), in order.

        Each is a start and an end, so that ``text[start:end]`` is the passage; neighbours share ``overlap_tokens``.
        """
        request = embedder_pb2.SplitRequest(
            version=version, texts=texts, max_tokens=max_tokens, overlap_tokens=overlap_tokens
        )
        with errors():
            found = self._embedder.Split(request, timeout=self._timeout).texts
        return [list(zip(text.starts, text.ends, strict=True)) for text in found]

    def embedder_info(self) -> embedder_pb2.GetInfoResponse:
        """Limits, device, and what is resident."""
        with errors():
            return self._embedder.GetInfo(embedder_pb2.GetInfoRequest(), timeout=self._timeout)

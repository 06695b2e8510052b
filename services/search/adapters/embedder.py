"""The embedder service, by gRPC."""

from collections.abc import AsyncIterator, Sequence

import grpc
import numpy as np

from diapason import vectors
from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER, ModelKind, VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from services.kit.context import call_options
from services.kit.errors import NotFound, ServiceError, Unavailable
from services.kit.status import from_rpc_error
from services.search.domain.model import Encoder, Span, Version
from services.search.ports import Embedded, EmbeddedDocuments, Scored

_QUERY_SECONDS = 5.0
_DOCUMENTS_SECONDS = 120.0
# Of one message of a stream.
_TEXTS, _CHARACTERS = 16, 400_000


class GrpcEmbedder:
    """Asks for exact versions only (I2)."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rpc.EmbedderServiceStub(channel)

    async def queries(self, version: Version, texts: Sequence[str]) -> Embedded:
        """Embed queries."""
        request = pb.EmbedRequest(version=ref_of(version), texts=texts, role=pb.ROLE_QUERY, lane=pb.LANE_INTERACTIVE)
        try:
            response = await self._stub.Embed(request, **call_options(_QUERY_SECONDS))
        except grpc.RpcError as error:
            raise _translate(error, request.version) from error
        return Embedded(
            version_of(response.version),
            vectors.from_bytes(response.vectors, response.dimensions),
            list(response.truncated),
        )

    async def documents(self, version: Version, texts: Sequence[str]) -> EmbeddedDocuments:
        """Embed documents, by a stream of their own: one that fails is named, the others are not held up."""
        config = pb.EmbedStreamConfig(version=ref_of(version), role=pb.ROLE_DOCUMENT, lane=pb.LANE_BULK)
        parts = list(_parts(texts))

        async def requests() -> AsyncIterator[pb.EmbedStreamRequest]:
            for number, part in enumerate(parts):
                yield pb.EmbedStreamRequest(config=None if number else config, texts=part)

        rows: list[vectors.Matrix] = []
        truncated: list[bool] = []
        failures: dict[int, str] = {}
        used, start = version, 0
        try:
            call = self._stub.EmbedStream(requests(), **call_options(_DOCUMENTS_SECONDS))
            sizes = iter(parts)
            async for answer in call:
                rows.append(vectors.from_bytes(answer.vectors, answer.dimensions))
                truncated += answer.truncated
                failures |= {start + failure.index: failure.message for failure in answer.failures}
                if (named := version_of(answer.version)).digest != version.digest:
                    used = named
                start += len(next(sizes))
        except grpc.RpcError as error:
            raise _translate(error, config.version) from error
        if start != len(texts):
            raise Unavailable("the embedder ended a stream early; trying again")
        return EmbeddedDocuments(used, np.concatenate(rows), truncated, failures)

    async def split(self, version: Version, texts: Sequence[str], max_tokens: int, overlap: int) -> list[list[Span]]:
        """Cut texts into passages."""
        found: list[list[Span]] = []
        for part in _parts(texts):
            request = pb.SplitRequest(
                version=ref_of(version), texts=part, max_tokens=max_tokens, overlap_tokens=overlap
            )
            try:
                response = await self._stub.Split(request, **call_options(_DOCUMENTS_SECONDS))
            except grpc.RpcError as error:
                raise _translate(error, request.version) from error
            found += [[Span(*ends) for ends in zip(t.starts, t.ends, strict=True)] for t in response.texts]
        return found

    async def rerank(self, version: Version, query: str, texts: Sequence[str], seconds: float) -> Scored:
        """Score texts for a query."""
        request = pb.RerankRequest(version=ref_of(version), query=query, texts=texts, lane=pb.LANE_INTERACTIVE)
        try:
            response = await self._stub.Rerank(request, **call_options(seconds))
        except grpc.RpcError as error:
            raise _translate(error, request.version) from error
        if response.version.digest != version.digest:
            raise ServiceError("the embedder used another version than asked for")
        if len(response.scores) != len(texts):
            raise ServiceError(f"the embedder gave {len(response.scores)} scores to {len(texts)} texts")
        return Scored(list(response.scores), response.first_stage_share)

    async def resolve(self, model: str, number: int, digest: str) -> Encoder:
        """Find a ready version by digest, by model and number, or the newest of a model."""
        best = await self._newest(MODEL_KIND_ENCODER, "encoder", model, number, digest)
        return Encoder(version_of(best.version), best.dimension, tuple(best.dimensions), best.max_tokens)

    async def resolve_reranker(self, model: str, number: int, digest: str) -> Version:
        """The same among rerankers."""
        return version_of((await self._newest(MODEL_KIND_RERANKER, "reranker", model, number, digest)).version)

    async def _newest(
        self, kind: ModelKind.ValueType, called: str, model: str, number: int, digest: str
    ) -> pb.VersionStatus:
        try:
            info = await self._stub.GetInfo(pb.GetInfoRequest(), **call_options(_QUERY_SECONDS))
        except grpc.RpcError as error:
            raise from_rpc_error(error, "embedder") from error
        held = [status for status in info.versions if status.kind == kind]
        found = [
            status
            for status in held
            if status.state == pb.VERSION_STATE_READY
            and (not digest or status.version.digest == digest)
            and (not model or status.version.model == model)
            and (not number or status.version.number == number)
        ]
        if not found:
            asked = "/".join(filter(None, [model, str(number or ""), digest]))
            names = ", ".join(sorted({s.version.model for s in held})) or "none"
            raise NotFound(f"{called} version", asked, f"the embedder holds these {called}s: {names}")
        return max(found, key=lambda status: status.version.number)


def _parts(texts: Sequence[str]) -> list[list[str]]:
    """Texts in messages of a bounded size."""
    parts: list[list[str]] = [[]]
    characters = 0
    for text in texts:
        if parts[-1] and (len(parts[-1]) == _TEXTS or characters + len(text) > _CHARACTERS):
            parts.append([])
            characters = 0
        parts[-1].append(text)
        characters += len(text)
    return parts


def _translate(error: grpc.RpcError, version: VersionRef) -> ServiceError:
    if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
        return Unavailable(
            f"the embedder does not hold version {version.number} of {version.model!r} yet; try again soon"
        )
    return from_rpc_error(error, "embedder")


def ref_of(version: Version) -> VersionRef:
    """The contract's form of a version."""
    return VersionRef(model=version.model, number=version.number, digest=version.digest)


def version_of(ref: VersionRef) -> Version:
    """A version from the contract's form."""
    return Version(ref.model, ref.number, ref.digest)

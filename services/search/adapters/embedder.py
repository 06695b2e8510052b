"""The embedder service, by gRPC."""

from collections.abc import Sequence

import grpc

from diapason import vectors
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from services.kit.context import call_options
from services.kit.errors import NotFound, ServiceError, Unavailable
from services.kit.status import from_rpc_error
from services.search.domain.model import Encoder, Version
from services.search.ports import Embedded

_QUERY_SECONDS = 5.0
_DOCUMENTS_SECONDS = 120.0


class GrpcEmbedder:
    """Asks for exact versions only (I2)."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rpc.EmbedderServiceStub(channel)

    async def query(self, version: Version, text: str, dimensions: int) -> Embedded:
        """Embed one query."""
        request = pb.EmbedRequest(
            version=ref_of(version),
            texts=[text],
            role=pb.ROLE_QUERY,
            lane=pb.LANE_INTERACTIVE,
            dimensions=dimensions,
        )
        return await self._embed(request, _QUERY_SECONDS)

    async def documents(self, version: Version, texts: Sequence[str]) -> Embedded:
        """Embed documents."""
        request = pb.EmbedRequest(version=ref_of(version), texts=texts, role=pb.ROLE_DOCUMENT, lane=pb.LANE_BULK)
        return await self._embed(request, _DOCUMENTS_SECONDS)

    async def resolve(self, model: str, number: int, digest: str) -> Encoder:
        """Find a ready version by digest, by model and number, or the newest of a model."""
        try:
            info = await self._stub.GetInfo(pb.GetInfoRequest(), **call_options(_QUERY_SECONDS))
        except grpc.RpcError as error:
            raise from_rpc_error(error, "embedder") from error
        found = [
            status
            for status in info.versions
            if status.state == pb.VERSION_STATE_READY
            and (not digest or status.version.digest == digest)
            and (not model or status.version.model == model)
            and (not number or status.version.number == number)
        ]
        if not found:
            asked = "/".join(filter(None, [model, str(number or ""), digest]))
            held = ", ".join(sorted({s.version.model for s in info.versions})) or "none"
            raise NotFound("encoder version", asked, f"the embedder holds these models: {held}")
        best = max(found, key=lambda status: status.version.number)
        return Encoder(version_of(best.version), best.dimension, tuple(best.dimensions))

    async def _embed(self, request: pb.EmbedRequest, seconds: float) -> Embedded:
        try:
            response = await self._stub.Embed(request, **call_options(seconds))
        except grpc.RpcError as error:
            raise _translate(error, request.version) from error
        return Embedded(
            version_of(response.version),
            vectors.from_bytes(response.vectors, response.dimensions),
            list(response.truncated),
        )


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

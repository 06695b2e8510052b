"""The contract, translated to and from `residents.py`."""

from collections.abc import Sequence

import grpc
from google.protobuf.duration_pb2 import Duration

from diapason import vectors
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from services.embedder import runtime
from services.embedder.domain.versions import State
from services.embedder.residents import Resident, Residents
from services.embedder.settings import EmbedderSettings
from services.kit.errors import InvalidArgument, Violation

Context = grpc.aio.ServicerContext[object, object]


class EmbedderServicer(rpc.EmbedderServiceServicer):
    """Embed and GetInfo."""

    def __init__(self, residents: Residents, settings: EmbedderSettings, replica_id: str) -> None:
        self._residents = residents
        self._limits = pb.Limits(
            max_texts=settings.max_texts,
            max_text_characters=settings.max_text_characters,
            max_queued_texts=settings.max_queued_texts,
        )
        self._replica_id = replica_id

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Embed a batch with exactly the version asked for."""
        self._check(request)
        asked = request.version
        resident = self._residents.find(asked.model, asked.number, asked.digest)
        _check_version(resident, request)
        prompts = resident.manifest.prompts
        prompt = prompts.query if request.role == pb.ROLE_QUERY else prompts.document
        assert resident.batcher is not None  # it is ready
        with resident.usage.held():
            answers = await resident.batcher.embed(
                [prompt + text for text in request.texts], request.lane == pb.LANE_BULK
            )
        full = resident.manifest.dimension
        rows = vectors.from_bytes(b"".join(answer.vector for answer in answers), full)
        return pb.EmbedResponse(
            version=ref_of(resident),
            dimensions=request.dimensions or full,
            vectors=vectors.to_bytes(vectors.truncated(rows, request.dimensions)),
            token_counts=[answer.tokens for answer in answers],
            truncated=[answer.truncated for answer in answers],
            timings=pb.Timings(
                queue=_duration(max(answer.queued for answer in answers)),
                inference=_duration(max(answer.inference for answer in answers)),
            ),
        )

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:
        """Limits, device and versions."""
        return pb.GetInfoResponse(
            replica_id=self._replica_id,
            device="CPU",
            runtime=runtime.describe(),
            limits=self._limits,
            versions=statuses(self._residents.all()),
        )

    def _check(self, request: pb.EmbedRequest) -> None:
        wrong: list[Violation] = []
        if not request.version.digest and not (request.version.model and request.version.number):
            wrong.append(Violation("version", "is missing; give a digest, or a model and a number"))
        if request.role not in (pb.ROLE_QUERY, pb.ROLE_DOCUMENT):
            wrong.append(Violation("role", f"is {request.role}; say ROLE_QUERY or ROLE_DOCUMENT"))
        if not 1 <= len(request.texts) <= self._limits.max_texts:
            wrong.append(Violation("texts", f"has {len(request.texts)} texts; send 1 to {self._limits.max_texts}"))
        for i, text in enumerate(request.texts):
            if not text.strip():
                wrong.append(Violation(f"texts[{i}]", "is empty; leave it out"))
            elif len(text) > self._limits.max_text_characters:
                wrong.append(
                    Violation(
                        f"texts[{i}]",
                        f"has {len(text)} characters; the most is {self._limits.max_text_characters}",
                    )
                )
        if wrong:
            raise InvalidArgument(*wrong)


def _check_version(resident: Resident, request: pb.EmbedRequest) -> None:
    known, asked = resident.desired, request.version
    wrong: list[Violation] = []
    if (asked.model and asked.model != known.model) or (asked.number and asked.number != known.number):
        wrong.append(
            Violation(
                "version",
                f"says {asked.model}/{asked.number}, but its digest is that of {known.model}/{known.number}",
            )
        )
    sizes = list(resident.manifest.dimensions)
    if request.dimensions and request.dimensions not in sizes:
        wrong.append(Violation("dimensions", f"is {request.dimensions}; this version has {sizes}"))
    if wrong:
        raise InvalidArgument(*wrong)


def ref_of(resident: Resident) -> VersionRef:
    """The full name of a version."""
    known = resident.desired
    return VersionRef(model=known.model, number=known.number, digest=known.digest)


def statuses(residents: Sequence[Resident]) -> list[pb.VersionStatus]:
    """What `GetInfo` and `Sync` say of the versions."""
    return [
        pb.VersionStatus(
            version=ref_of(resident),
            state=_STATES[resident.state],
            reason=resident.reason,
            kind=resident.manifest.kind,
            dimension=resident.manifest.dimension,
            dimensions=resident.manifest.dimensions,
            max_tokens=resident.manifest.max_tokens,
        )
        for resident in residents
    ]


_STATES = {state: pb.VersionState.Value(f"VERSION_STATE_{state.name}") for state in State}


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(max(0.0, seconds) * 1e9))
    return duration

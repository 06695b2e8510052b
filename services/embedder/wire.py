"""The contract's forms of what the embedder holds and answers."""

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from services.embedder.domain.batching import Lane
from services.embedder.domain.versions import State
from services.embedder.residents import Resident
from services.embedder.scheduler import Answer, Result
from services.embedder.worker.runtime import Passages

_STATES = {state: pb.VersionState.Value(f"VERSION_STATE_{state.name}") for state in State}
_LANES = {pb.LANE_INTERACTIVE: Lane.INTERACTIVE, pb.LANE_BULK: Lane.BULK}


def lane(asked: pb.Lane.ValueType, default: Lane) -> Lane:
    """The lane that a request says, or the default of its RPC."""
    return _LANES.get(asked, default)


def prompt(resident: Resident, role: pb.Role.ValueType) -> str:
    """What the model wants before a text of this role."""
    prompts = resident.manifest.prompts
    return prompts.query if role == pb.ROLE_QUERY else prompts.document


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
            raw=resident.manifest.raw,
            resident_bytes=resident.resident_bytes(),
        )
        for resident in residents
    ]


def passages(text: Passages) -> pb.TextPassages:
    """Of one text."""
    return pb.TextPassages(starts=[start for start, _ in text.spans], ends=[end for _, end in text.spans])


def timings(results: Sequence[Result]) -> pb.Timings:
    """Each the longest among the texts of a request."""
    answers = [result for result in results if isinstance(result, Answer)]
    return pb.Timings(
        queue=_duration(max((answer.queued for answer in answers), default=0.0)),
        tokenization=_duration(max((answer.tokenization for answer in answers), default=0.0)),
        inference=_duration(max((answer.inference for answer in answers), default=0.0)),
    )


def _duration(seconds: float) -> Duration:
    return Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds))

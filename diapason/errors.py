"""What a call can raise.

DiapasonError
├── InvalidArgument     the request breaks a rule; `violations` lists field and remedy
├── NotFound            it names something that does not exist
├── AlreadyExists       it would create what exists
├── FailedPrecondition  the state does not allow it now
├── Conflict            someone else changed it first
├── Overloaded          try again after `retry_after` seconds
├── Unavailable         the service does not answer
└── DeadlineExceeded    it did not answer in time
"""

from collections.abc import Sequence

import grpc
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status


class DiapasonError(Exception):
    """Base class, and what an internal error of a service becomes. ``request_id`` finds it in the logs."""

    def __init__(
        self,
        message: str,
        violations: Sequence[tuple[str, str]] = (),
        retry_after: float = 0.0,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidArgument(DiapasonError):
    """The request breaks a rule."""


class NotFound(DiapasonError):
    """It names something that does not exist."""


class AlreadyExists(DiapasonError):
    """It would create what exists."""


class FailedPrecondition(DiapasonError):
    """The state does not allow it now."""


class Conflict(DiapasonError):
    """Someone else changed it first."""


class Overloaded(DiapasonError):
    """Too much at once; ``retry_after`` says when to try again."""


class Unavailable(DiapasonError):
    """The service does not answer."""


class DeadlineExceeded(DiapasonError):
    """The service did not answer in time."""


_KINDS: dict[grpc.StatusCode, type[DiapasonError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def from_rpc_error(error: grpc.RpcError) -> DiapasonError:
    """The error that a failed call stands for, with its details."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    violations: list[tuple[str, str]] = []
    retry_after, request_id = 0.0, ""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for packed in status.details if status else ():
        for kind in (details.BadRequest(), details.RetryInfo(), details.RequestInfo()):
            if not packed.Unpack(kind):
                continue
            match kind:
                case details.BadRequest():
                    violations = [(v.field, v.description) for v in kind.field_violations]
                case details.RetryInfo():
                    retry_after = kind.retry_delay.ToNanoseconds() / 1e9
                case details.RequestInfo():
                    request_id = kind.request_id
    return _KINDS.get(code, DiapasonError)(message, violations, retry_after, request_id)

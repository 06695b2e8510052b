"""The one table between `errors.py` and gRPC statuses with google.rpc details, in both directions."""

from collections.abc import Sequence

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from grpc_status import rpc_status

from services.kit import errors

DOMAIN = "diapason"
# The message travels twice in headers of at most 8 KiB, beside the details.
_MOST_CHARACTERS = 1500

_CODES: dict[type[errors.ServiceError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def code_of(error: errors.ServiceError) -> grpc.StatusCode:
    """The status code under which the error travels."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.INTERNAL)


def to_status(error: errors.ServiceError, request_id: str) -> grpc.Status:
    """The rich status for a caller: code, message, details and the request id."""
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message[:_MOST_CHARACTERS])
    for detail in (*_details(error), details.RequestInfo(request_id=request_id)):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)


def internal(request_id: str) -> grpc.Status:
    """What a caller sees of a fault of ours: where to look, and nothing else."""
    return to_status(errors.ServiceError(f"internal error; the log has it under request {request_id}"), request_id)


def _details(error: errors.ServiceError) -> Sequence[Message]:
    match error:
        case errors.InvalidArgument(violations=violations):
            fields = [details.BadRequest.FieldViolation(field=v.field, description=v.description) for v in violations]
            return [details.BadRequest(field_violations=fields)]
        case errors.NotFound(kind=kind, name=name) | errors.AlreadyExists(kind=kind, name=name):
            return [details.ResourceInfo(resource_type=kind, resource_name=name, description=error.message)]
        case errors.FailedPrecondition(rule=rule, subject=subject):
            violation = details.PreconditionFailure.Violation(type=rule, subject=subject, description=error.message)
            return [details.PreconditionFailure(violations=[violation])]
        case errors.Conflict():
            return [details.ErrorInfo(reason="CONFLICT", domain=DOMAIN)]
        case errors.Overloaded(retry_after=seconds) | errors.Unavailable(retry_after=seconds):
            retry = details.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(seconds * 1e9))
            return [retry]
        case _:
            return []


def from_rpc_error(error: grpc.RpcError, service: str) -> errors.ServiceError:
    """What a failed call to another service means for our own caller.

    Overload, time-outs and absence pass through as what they are. Anything else is a
    fault between the two services, which a caller can't mend: it becomes a plain
    ``ServiceError`` (INTERNAL).
    """
    code, text = error.code(), error.details() or ""
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return errors.Unavailable(f"the {service} service does not answer; try again soon")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.Overloaded(f"the {service} service is overloaded: {text}")
        case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
            return errors.DeadlineExceeded(f"the {service} service did not answer in time")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return errors.InvalidArgument(errors.Violation(service, text))
        case grpc.StatusCode.NOT_FOUND:
            return errors.NotFound(service, "", text)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return errors.FailedPrecondition("DOWNSTREAM", service, text)
        case grpc.StatusCode.ABORTED:
            return errors.Conflict(text)
        case _:
            return errors.ServiceError(f"the {service} service answered {code.name}: {text}")

"""What a request carries with it through this process and on to the next: its id and its deadline."""

import math
import re
import time
import uuid
from contextvars import ContextVar
from typing import TypedDict

from services.kit import tracing

REQUEST_ID_KEY = "x-request-id"
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Kept back from a caller's deadline so that our own error reaches it before gRPC's.
_MARGIN_SECONDS = 0.05

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class CallOptions(TypedDict):
    """Keyword arguments of a stub's call."""

    timeout: float
    metadata: tuple[tuple[str, str], ...]


def request_id() -> str:
    """The id of the request being served, or an empty string outside of one."""
    return _request_id.get()


def begin(offered_id: str | None, seconds: float | None) -> str:
    """Start a request: take the caller's id if it is sane, else make one; note the deadline."""
    usable = offered_id is not None and _ACCEPTABLE_ID.fullmatch(offered_id)
    chosen = offered_id if offered_id is not None and usable else uuid.uuid4().hex
    _request_id.set(chosen)
    _deadline.set(None if seconds is None else time.monotonic() + seconds)
    return chosen


def deadline() -> float:
    """When the current request's time is over, on the monotonic clock; infinite without a limit."""
    found = _deadline.get()
    return math.inf if found is None else found


def remaining(at_most: float) -> float:
    """Seconds that a call to another service may take: the request's own, less a margin, capped."""
    deadline = _deadline.get()
    if deadline is None:
        return at_most
    return max(0.001, min(at_most, deadline - time.monotonic() - _MARGIN_SECONDS))


def call_options(at_most: float) -> CallOptions:
    """Time-out and metadata (request id, trace) for a call on behalf of the current request."""
    identity = request_id() or uuid.uuid4().hex
    return {"timeout": remaining(at_most), "metadata": ((REQUEST_ID_KEY, identity), *tracing.outgoing())}

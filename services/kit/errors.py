"""What can go wrong, in the services' own terms. `status.py` says how each looks on the wire.

ServiceError
├── InvalidArgument    the request breaks a rule, whatever the state
├── NotFound           it names something that does not exist
├── AlreadyExists      it would create what exists
├── FailedPrecondition the state does not allow it now
├── Conflict           someone else changed it first; read again, then decide
├── Overloaded         refused before any work; try again later
├── Unavailable        something needed does not answer
└── DeadlineExceeded   the time given was not enough
"""

from dataclasses import dataclass

_MOST_VIOLATIONS = 16


@dataclass(frozen=True)
class Violation:
    """One broken rule: the field's path in the request, and what is wrong with a remedy."""

    field: str
    description: str


class ServiceError(Exception):
    """Base of all errors that a caller may see. ``message`` is one sentence with the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(ServiceError):
    """The request breaks one or more rules; the first of those that were found are listed."""

    def __init__(self, *violations: Violation) -> None:
        # A status travels in headers, which hold a few kilobytes.
        shown = [f"{v.field}: {v.description}" for v in violations[:_MOST_VIOLATIONS]]
        more = [f"and {len(violations) - _MOST_VIOLATIONS} more"] if len(violations) > _MOST_VIOLATIONS else []
        super().__init__("; ".join([*shown, *more]))
        self.violations = violations[:_MOST_VIOLATIONS]


class NotFound(ServiceError):
    """The named resource does not exist."""

    def __init__(self, kind: str, name: str, remedy: str) -> None:
        super().__init__(f"there is no {kind} {name!r}; {remedy}")
        self.kind, self.name = kind, name


class AlreadyExists(ServiceError):
    """The resource to be created exists."""

    def __init__(self, kind: str, name: str, remedy: str) -> None:
        super().__init__(f"{kind} {name!r} exists already; {remedy}")
        self.kind, self.name = kind, name


class FailedPrecondition(ServiceError):
    """The state does not allow it. ``rule`` is a short upper-case name of what is not met."""

    def __init__(self, rule: str, subject: str, message: str) -> None:
        super().__init__(message)
        self.rule, self.subject = rule, subject


class Conflict(ServiceError):
    """A compare-and-set found another value than expected."""


class Overloaded(ServiceError):
    """Refused at once because a bound is reached. ``retry_after`` in seconds."""

    def __init__(self, message: str, retry_after: float = 0.5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(ServiceError):
    """A part that is needed does not answer. ``retry_after`` in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(ServiceError):
    """The time that the caller gave was not enough."""

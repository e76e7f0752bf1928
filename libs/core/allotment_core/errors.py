"""The error tree: what went wrong, in the caller's terms.

AllotmentError
+- InvalidArgument      the request can never succeed as it is
+- OutOfRange           past the end of something that may still grow
+- NotFound             no such resource, or it belongs to another tenant
+- AlreadyExists        the name is taken
+- FailedPrecondition   the resource's state does not allow it
+- Aborted              somebody else changed it first: read it again
+- Unauthenticated      no token, or not a valid one
+- PermissionDenied     the token's role does not allow it
+- ResourceExhausted    a quota, a disk, a size limit
+- Cancelled            the caller, or a drain, gave it up
+- Unavailable          try again soon
+- DeadlineExceeded     out of time
+- DataLoss             stored bytes are damaged
+- Unimplemented        this server does not serve it

Every error has a stable `reason` (UPPER_SNAKE_CASE) that programs may compare, and a message for
people that says what, which, the limit and what to do. One place in `allotment_core.rpc` maps them
to the wire and back.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

ECHO_LIMIT = 80
"""Characters of a caller's value that any error repeats."""


class ErrorKind(enum.Enum):
    """What a caller can do about an error; the values are the names of gRPC's status codes."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    CANCELLED = "CANCELLED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    DATA_LOSS = "DATA_LOSS"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request and what is wrong with it."""

    field: str
    description: str


class AllotmentError(Exception):
    """The root. Raised as itself only by clients, for a server's internal error."""

    kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason: str = reason or self.default_reason
        self.violations: tuple[FieldViolation, ...] = tuple(violations)
        self.retry_after_s = retry_after_s
        self.metadata: Mapping[str, str] = metadata

    def __str__(self) -> str:
        return self.message


class InvalidArgument(AllotmentError):
    kind = ErrorKind.INVALID_ARGUMENT
    default_reason = "INVALID_ARGUMENT"


class NotFound(AllotmentError):
    kind = ErrorKind.NOT_FOUND
    default_reason = "NOT_FOUND"


class AlreadyExists(AllotmentError):
    kind = ErrorKind.ALREADY_EXISTS
    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(AllotmentError):
    kind = ErrorKind.FAILED_PRECONDITION
    default_reason = "FAILED_PRECONDITION"


class Aborted(AllotmentError):
    kind = ErrorKind.ABORTED
    default_reason = "ABORTED"


class OutOfRange(AllotmentError):
    kind = ErrorKind.OUT_OF_RANGE
    default_reason = "OUT_OF_RANGE"


class Unauthenticated(AllotmentError):
    kind = ErrorKind.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(AllotmentError):
    kind = ErrorKind.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class ResourceExhausted(AllotmentError):
    kind = ErrorKind.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"


class Cancelled(AllotmentError):
    kind = ErrorKind.CANCELLED
    default_reason = "CANCELLED"


class Unavailable(AllotmentError):
    kind = ErrorKind.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(AllotmentError):
    kind = ErrorKind.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class DataLoss(AllotmentError):
    kind = ErrorKind.DATA_LOSS
    default_reason = "DATA_LOSS"


class Unimplemented(AllotmentError):
    kind = ErrorKind.UNIMPLEMENTED
    default_reason = "UNIMPLEMENTED"


CLASS_OF_KIND: Mapping[ErrorKind, type[AllotmentError]] = {
    error_class.kind: error_class
    for error_class in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unauthenticated,
        PermissionDenied,
        ResourceExhausted,
        Cancelled,
        Unavailable,
        DeadlineExceeded,
        DataLoss,
        Unimplemented,
        AllotmentError,
    )
}
"""The class that stands for a kind; INTERNAL is the root itself."""


def not_found(name: object) -> NotFound:
    """The one answer for a resource that is not there and for one that is another tenant's."""
    return NotFound(f"{clip(name)} does not exist, or this token may not see it")


def clip(value: object, limit: int = ECHO_LIMIT) -> str:
    """The value's text, printable and cut at `limit` characters: how errors repeat values."""
    text = str(value)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)

"""The error tree on the wire: google.rpc.Status with ErrorInfo, BadRequest, RetryInfo; and back."""

from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from allotment_core.errors import (
    CLASS_OF_KIND,
    AllotmentError,
    ErrorKind,
    FieldViolation,
    Unavailable,
)

DOMAIN = "allotment"
STATUS_KEY = "grpc-status-details-bin"
_SEND_RACE = "Internal error from Core"
"""What grpc.aio's client says (as INTERNAL, once in a thousand) when it sends a message just as
the server's refusal arrives: the refusal itself is lost."""
# A peer takes 8 KiB of metadata, and the text travels twice: percent-encoded and in the status.
_LONGEST_MESSAGE_BYTES = 1000
_LONGEST_VIOLATION_BYTES = 200
_MOST_VIOLATIONS = 10
_MOST_METADATA = 10


def to_code(error: AllotmentError) -> grpc.StatusCode:
    """The status code of an error."""
    return grpc.StatusCode[error.kind.value]


def to_text(error: AllotmentError) -> str:
    """The error's message, short enough to travel."""
    return _cut(error.message, _LONGEST_MESSAGE_BYTES)


def to_metadata(error: AllotmentError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries what a status code and a text can't."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in list(error.metadata.items())[:_MOST_METADATA]:
        info.metadata[_cut(key, 60)] = _cut(str(value), _LONGEST_VIOLATION_BYTES)
    details: list[Message] = [info]
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations[:_MOST_VIOLATIONS]:
            bad.field_violations.add(
                field=_cut(violation.field, 80),
                description=_cut(violation.description, _LONGEST_VIOLATION_BYTES),
            )
        details.append(bad)
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    status = status_pb2.Status(code=to_code(error).value[0], message=to_text(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return ((STATUS_KEY, status.SerializeToString()),)


def from_rpc_error(raised: grpc.RpcError) -> AllotmentError:
    """The error that a call's `grpc.RpcError` stands for. Never raises.

    An internal error of the server is an AllotmentError itself.
    """
    code: grpc.StatusCode = _ask(raised, "code") or grpc.StatusCode.UNKNOWN
    text = str(_ask(raised, "details") or "")
    status = _status(_ask(raised, "trailing_metadata") or ())
    kind = ErrorKind.__members__.get(code.name, ErrorKind.INTERNAL)
    error_class = CLASS_OF_KIND[kind]
    if status is None and text == _SEND_RACE:
        return Unavailable(
            "the server ended the call while it was being sent; try again", reason="CALL_ENDED"
        )
    if status is None:
        return error_class(_transport_text(kind, text))
    reason, metadata = None, {}
    violations: list[FieldViolation] = []
    retry_after_s = None
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(bad):
            violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif packed.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    error = error_class(text, reason=reason, violations=violations, retry_after_s=retry_after_s)
    error.metadata = metadata
    return error


def is_send_race(raised: grpc.RpcError) -> bool:
    """Whether a refusal was lost because it came while a message was being sent."""
    return bool(_ask(raised, "details") == _SEND_RACE)


def has_status(call_metadata: Iterable[Any] | None) -> bool:
    """Whether a failed call was answered by a server of ours, and not by the network."""
    return _status(call_metadata or ()) is not None


def _status(metadata: Iterable[Any]) -> status_pb2.Status | None:
    for key, value in metadata:
        if key == STATUS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _transport_text(kind: ErrorKind, text: str) -> str:
    if kind is ErrorKind.UNAVAILABLE:
        return f"the server can't be reached: {text}"
    if kind is ErrorKind.DEADLINE_EXCEEDED:
        return "the server did not answer in time"
    return text or kind.name


def _ask(raised: grpc.RpcError, name: str) -> Any:
    method = getattr(raised, name, None)
    return method() if callable(method) else None


def _cut(text: str, limit_bytes: int) -> str:
    """The text, valid UTF-8 and at most `limit_bytes` once percent-encoded as gRPC does."""
    clean = text.encode("utf-8", "replace").decode()
    size = 0
    for i, c in enumerate(clean):
        size += 1 if " " <= c <= "~" and c != "%" else 3 * len(c.encode())
        if size > limit_bytes:
            return clean[: max(i - 3, 0)] + "..."
    return clean

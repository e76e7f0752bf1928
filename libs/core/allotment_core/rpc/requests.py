"""Requests as they come off the wire: decoded and checked before a handler sees them."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError, Message

from allotment_core.calls import Call
from allotment_core.errors import (
    AllotmentError,
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    clip,
)
from allotment_core.paging import page_size
from allotment_core.rpc.access import authorise, resource_text
from allotment_core.rpc.methods import Method

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
REQUEST_ID_RULE = "1 to 64 of letters, digits, '_', '-'"


async def single(method: Method, raw: AsyncIterator[bytes]) -> bytes:
    """The one message that a unary method gets. Raises: InvalidArgument (NO_REQUEST)."""
    async for message in raw:
        return message
    raise InvalidArgument(f"{method.path} takes one message, none came", reason="NO_REQUEST")


def decode(method: Method, raw: bytes) -> Message:
    """The request in these bytes. Raises: InvalidArgument (UNDECODABLE)."""
    try:
        return method.request_class.FromString(raw)
    except DecodeError:
        raise InvalidArgument(
            f"the {len(raw)} bytes are not a {method.request_class.DESCRIPTOR.full_name}; "
            "is the client made for this version of the API?",
            reason="UNDECODABLE",
        ) from None


def check(method: Method, request: Any) -> None:
    """Raises: InvalidArgument for a request_id or a page_size that no method takes."""
    if method.takes_request_id and not _REQUEST_ID.fullmatch(request.request_id):
        said = f"is {clip(request.request_id)!r}" if request.request_id else "is missing"
        raise InvalidArgument(
            f"request_id {said}; it has to be {REQUEST_ID_RULE} (a UUID, say), new for each "
            "request and the same when the request is repeated",
            reason="INVALID_REQUEST_ID",
            violations=(FieldViolation("request_id", f"has to be {REQUEST_ID_RULE}"),),
        )
    if method.takes_page_size:
        page_size(request.page_size)


def admit(method: Method, request: Message, call: Call, *, first: bool = True) -> None:
    """Checks a request and lets its caller pass. Raises: AllotmentError."""
    check(method, request)
    if call.principal is None:
        return
    text = resource_text(method.rule, request) if method.rule.resource_field else ""
    if first or text:
        authorise(method.rule, text, call.principal)


def remember(method: Method, request: Any, call: Call) -> None:
    """Notes on the call what makes a repeated one the same."""
    if not method.takes_request_id:
        return
    call.request_id = request.request_id
    call.response_class = method.response_class
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    call.body_hash = hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


class CheckedRequests:
    """A stream of requests: each one decoded, checked and let pass before the handler has it."""

    def __init__(
        self,
        method: Method,
        raw: AsyncIterator[bytes],
        call: Call,
        idle_s: float | None,
    ) -> None:
        self._method = method
        self._raw = aiter(raw)
        self._call = call
        self._idle_s = idle_s
        self._first = True
        self.error: AllotmentError | None = None
        """What ended the stream: the call ends with it even if its handler looked away."""

    def __aiter__(self) -> "CheckedRequests":
        return self

    async def __anext__(self) -> Message:
        try:
            return await self._next()
        except AllotmentError as e:
            self.error = e
            raise

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self._idle_s):
                raw = await anext(self._raw)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no message for {self._idle_s:g} s; open the stream again and go on where it was",
                reason="STREAM_IDLE",
            ) from None
        request = decode(self._method, raw)
        admit(self._method, request, self._call, first=self._first)
        self._first = False
        return request

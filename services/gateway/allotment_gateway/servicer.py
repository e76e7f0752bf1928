"""Passes calls on as they are: bytes, metadata, deadline, cancellation and pace, both ways."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio

from allotment_core.errors import AllotmentError, Unavailable
from allotment_core.rpc import status

# What belongs to one connection, not to the call.
_HOP = frozenset({"user-agent", "host", "te", "content-type", "connection", "grpc-trace-bin"})
MOST_ATTEMPTS = 5
_LONGEST_S = 10 * 365 * 24 * 3600.0
"""What gRPC says of a call without a deadline is far beyond it."""


class _Requests:
    """What the caller sends. The first message can be had again, until there is a second one."""

    def __init__(self, incoming: AsyncIterator[bytes]) -> None:
        self._incoming = aiter(incoming)
        self._reading: asyncio.Future[bytes] | None = None
        self._first: bytes | None = None
        self._count = 0
        self.is_answered = False

    @property
    def can_repeat(self) -> bool:
        return self._count <= 1 and not self.is_answered

    async def pass_on(self, call: Any) -> None:
        """Sends all of them. How the call ended is read where its answers are."""
        with contextlib.suppress(
            grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError
        ):
            if self._first is not None:
                await call.write(self._first)
            while (message := await self._next()) is not None:
                self._count += 1
                self._first = message if self._count == 1 else None
                await call.write(message)
            await call.done_writing()

    async def _next(self) -> bytes | None:
        """None at the end."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._incoming))
        try:
            # Whoever waits may be cancelled; gRPC allows one read at a time, so it goes on.
            message = await asyncio.shield(self._reading)
        except StopAsyncIteration:
            return None
        self._reading = None
        return message

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


async def forward(
    path: str, service: str, channel: grpc.aio.Channel, requests: AsyncIterator[bytes], context: Any
) -> None:
    """Serves one call of any kind by the `service` behind the channel. A unary one is a stream of
    one message on the wire.

    Raises: grpc.aio.AbortError, with the service's own answer.
    """
    sent = _Requests(requests)
    try:
        for _ in range(MOST_ATTEMPTS):
            raised = await _attempt(path, channel, sent, context)
            if raised is None:
                return
            # The service refused the call before it had a message: the refusal is had once more.
            if not (status.is_send_race(raised) and sent.can_repeat):
                break
    finally:
        await sent.close()
    if raised is not None:
        await _abort(raised, service, context)


async def _attempt(
    path: str, channel: grpc.aio.Channel, sent: _Requests, context: Any
) -> grpc.aio.AioRpcError | None:
    """Makes the call; how it failed."""
    left_s = context.time_remaining()
    call: Any = channel.stream_stream(path)(
        metadata=_passed_on(context.invocation_metadata() or ()),
        timeout=left_s if left_s is not None and left_s < _LONGEST_S else None,
    )
    sending = asyncio.create_task(sent.pass_on(call))
    try:
        initial = await call.initial_metadata()
        if not call.done():
            sent.is_answered = True
            await context.send_initial_metadata(_passed_on(initial or ()))
        while (message := await call.read()) is not grpc.aio.EOF:
            await context.write(message)
        context.set_trailing_metadata(_passed_on(await call.trailing_metadata() or ()))
        return None
    except grpc.aio.AioRpcError as e:
        return e
    finally:
        sending.cancel()
        call.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _abort(raised: grpc.aio.AioRpcError, service: str, context: Any) -> None:
    error = status.from_rpc_error(raised)
    trailing = raised.trailing_metadata() or ()
    if not status.has_status(trailing) and isinstance(error, Unavailable):
        away = Unavailable(
            f"the {service} service can't be reached ({error.message}); try again in a moment",
            reason="SERVICE_AWAY",
            retry_after_s=0.5,
        )
        await abort(away, context)
    await context.abort(raised.code(), raised.details() or "", _passed_on(trailing))


async def abort(error: AllotmentError, context: Any) -> None:
    """Ends a call with an error of the gateway itself. Raises: grpc.aio.AbortError."""
    await context.abort(status.to_code(error), status.to_text(error), status.to_metadata(error))


def _passed_on(metadata: Iterable[Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (key, value)
        for key, value in metadata
        if key == status.STATUS_KEY or not (key in _HOP or key.startswith(("grpc-", ":")))
    )

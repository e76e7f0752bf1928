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
_LONGEST_S = 10 * 365 * 24 * 3600.0
"""What gRPC says of a call without a deadline is far beyond it."""


async def forward(
    path: str, service: str, channel: grpc.aio.Channel, requests: AsyncIterator[bytes], context: Any
) -> None:
    """Serves one call of any kind by the `service` behind the channel. A unary one is a stream of
    one message on the wire.

    Raises: grpc.aio.AbortError, with the service's own answer.
    """
    left_s = context.time_remaining()
    call: Any = channel.stream_stream(path)(
        metadata=_passed_on(context.invocation_metadata() or ()),
        timeout=left_s if left_s is not None and left_s < _LONGEST_S else None,
    )
    sending = asyncio.create_task(_send(requests, call))
    try:
        await context.send_initial_metadata(_passed_on(await call.initial_metadata() or ()))
        while (message := await call.read()) is not grpc.aio.EOF:
            await context.write(message)
        context.set_trailing_metadata(_passed_on(await call.trailing_metadata() or ()))
        return
    except grpc.aio.AioRpcError as e:
        raised = e
    finally:
        sending.cancel()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
    await _abort(raised, service, context)


async def _send(requests: AsyncIterator[bytes], call: Any) -> None:
    # How the call ended is read where its answers are.
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        async for message in requests:
            await call.write(message)
        await call.done_writing()


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

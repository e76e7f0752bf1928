"""The way of a call: id, metrics, log > errors > token > deadline > decode > checks > access >
stored response > handler. The same for all four kinds.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from allotment_core.calls import Call, current_call
from allotment_core.errors import (
    AllotmentError,
    DeadlineExceeded,
    ErrorKind,
    ResourceExhausted,
    Unavailable,
)
from allotment_core.events import request_id_var
from allotment_core.rpc import status
from allotment_core.rpc.access import Verifier, authenticate
from allotment_core.rpc.methods import PUBLIC, Method
from allotment_core.rpc.metrics import RpcMetrics
from allotment_core.rpc.peers import Peers
from allotment_core.rpc.requests import CheckedRequests, admit, decode, remember, single

log = logging.getLogger(__name__)

MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one server puts up with."""

    unary_s: float = 10.0
    """A unary call is answered, or ended, within this time whatever its caller allows."""
    upload_idle_s: float = 60.0
    """A stream of requests to a single response ends when no message comes for this long."""
    taken_idle_s: float = 60.0
    """A stream of responses ends when its caller takes nothing for this long: what it holds open is
    wanted by others."""
    streams_per_tenant: int = 1000
    calls: int = 4096
    """Calls at once, streams included."""


class Chain:
    """Makes gRPC handlers out of methods."""

    def __init__(
        self, *, verifier: Verifier, peers: Peers, metrics: RpcMetrics, limits: Limits
    ) -> None:
        self._verifier = verifier
        self._peers = peers
        self._metrics = metrics
        self._limits = limits
        self._draining = False
        self._running: dict[asyncio.Task[Any], bool] = {}
        self._streams: Counter[str] = Counter()

    def handler(self, method: Method) -> "grpc.RpcMethodHandler[Any, Any]":
        """The method's handler, on bytes: gRPC neither decodes nor encodes."""
        make: dict[tuple[bool, bool], tuple[Any, Any]] = {
            # As streams: grpc.aio itself never answers a call whose single request does not come.
            (False, False): (grpc.stream_unary_rpc_method_handler, self._unary_unary),
            (False, True): (grpc.stream_stream_rpc_method_handler, self._unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._stream_stream),
        }
        wrap, serve = make[method.client_streams, method.server_streams]
        handler: grpc.RpcMethodHandler[Any, Any] = wrap(serve(method))
        return handler

    def end_streams(self) -> None:
        """Ends calls that stream responses with UNAVAILABLE: their clients open them elsewhere."""
        self._draining = True
        for task, server_streams in list(self._running.items()):
            if server_streams:
                task.cancel()

    def end_calls(self) -> None:
        """Ends every call that is still running with UNAVAILABLE."""
        self._draining = True
        for task in list(self._running):
            task.cancel()

    def _unary_unary(
        self, method: Method
    ) -> Callable[[AsyncIterator[bytes], Any], Awaitable[bytes | None]]:
        async def serve(raw: AsyncIterator[bytes], context: Any) -> bytes | None:
            async def answer(call: Call) -> bytes:
                async with self._deadline(method):
                    request = decode(method, await single(method, raw))
                    admit(method, request, call)
                    remember(method, request, call)
                    response = await _stored(method, call)
                    if response is None:
                        response = await method.behaviour(request, context)
                    return encode(method, response)

            raw_response: bytes | None = await self._run(method, context, answer)
            return raw_response

        return serve

    def _unary_stream(
        self, method: Method
    ) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
        async def serve(raw: AsyncIterator[bytes], context: Any) -> None:
            async def answer(call: Call) -> None:
                async with self._deadline(method):
                    request = decode(method, await single(method, raw))
                admit(method, request, call)
                with self._one_stream(call):
                    # The caller of a watch that has nothing to say yet learns that it is heard.
                    await context.send_initial_metadata(())
                    await self._send(method, method.behaviour(request, context), context)

            await self._run(method, context, answer)

        return serve

    def _stream_unary(
        self, method: Method
    ) -> Callable[[AsyncIterator[bytes], Any], Awaitable[bytes | None]]:
        async def serve(raw: AsyncIterator[bytes], context: Any) -> bytes | None:
            async def answer(call: Call) -> bytes:
                requests = CheckedRequests(method, raw, call, self._limits.upload_idle_s)
                with self._one_stream(call):
                    response = await method.behaviour(requests, context)
                if requests.error is not None:
                    raise requests.error
                return encode(method, response)

            raw_response: bytes | None = await self._run(method, context, answer)
            return raw_response

        return serve

    def _stream_stream(
        self, method: Method
    ) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
        async def serve(raw: AsyncIterator[bytes], context: Any) -> None:
            async def answer(call: Call) -> None:
                requests = CheckedRequests(method, raw, call, None)
                with self._one_stream(call):
                    await self._send(method, method.behaviour(requests, context), context)
                if requests.error is not None:
                    raise requests.error

            await self._run(method, context, answer)

        return serve

    async def _run(
        self, method: Method, context: Any, answer: Callable[[Call], Awaitable[Any]]
    ) -> Any:
        """The outermost stages: everything that a call can end with is counted, logged, mapped."""
        call = Call(rpc=method.path, call_id=secrets.token_hex(6))
        current_call.set(call)
        request_id_var.set(call.call_id)
        task = asyncio.current_task()
        began = time.perf_counter()
        error: AllotmentError | None = None
        code = grpc.StatusCode.CANCELLED
        self._metrics.began(method.path)
        if task is not None:
            self._running[task] = method.server_streams
        try:
            if self._draining and method.server_streams:
                raise _shutting_down()
            if method.rule is not PUBLIC:
                metadata = context.invocation_metadata() or ()
                call.principal = await authenticate(
                    metadata, self._verifier, lambda: self._peers.principal(context)
                )
            result = await answer(call)
            code = grpc.StatusCode.OK
            return result
        except asyncio.CancelledError:
            if not self._draining:
                raise
            error = _shutting_down()
        except Exception as e:  # noqa: BLE001 (the server's edge)
            error = _seen_by_caller(e, call)
        finally:
            if task is not None:
                del self._running[task]
            code = status.to_code(error) if error is not None else code
            seconds = time.perf_counter() - began
            streams = method.client_streams or method.server_streams
            self._metrics.ended(method.path, code.name, None if streams else seconds)
            _log_end(call, code, error, seconds)
        await context.abort(status.to_code(error), status.to_text(error), status.to_metadata(error))

    @contextlib.asynccontextmanager
    async def _deadline(self, method: Method) -> AsyncIterator[None]:
        """The server's own limit. A caller's deadline ends the call by itself, in gRPC."""
        limit_s = self._limits.unary_s
        scope = asyncio.timeout(limit_s)
        try:
            async with scope:
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded(
                f"{method.path} took more than {limit_s:.1f} s and was ended; repeat it",
                reason="DEADLINE_EXCEEDED",
                retry_after_s=1.0,
            ) from None

    async def _send(self, method: Method, responses: Any, context: Any) -> None:
        async with contextlib.aclosing(responses):
            async for response in responses:
                raw = encode(method, response)
                try:
                    async with asyncio.timeout(self._limits.taken_idle_s):
                        await context.write(raw)
                except TimeoutError:
                    raise Unavailable(
                        f"nothing was taken from the stream for {self._limits.taken_idle_s:g} s; "
                        "open it again and go on where it was",
                        reason="SLOW_READER",
                    ) from None

    @contextlib.contextmanager
    def _one_stream(self, call: Call) -> Any:
        tenant = str(call.principal.tenant) if call.principal else ""
        if self._streams[tenant] >= self._limits.streams_per_tenant:
            raise ResourceExhausted(
                f"{tenant or 'callers without a token'} may hold "
                f"{self._limits.streams_per_tenant} streams at once; close some first",
                reason="TOO_MANY_STREAMS",
                retry_after_s=5.0,
            )
        self._streams[tenant] += 1
        try:
            yield
        finally:
            self._streams[tenant] -= 1
            if not self._streams[tenant]:
                del self._streams[tenant]


async def _stored(method: Method, call: Call) -> Message | None:
    if not call.request_id or method.database is None:
        return None
    return await method.database.stored_response(call)


def encode(method: Method, response: Message) -> bytes:
    """The response's bytes. Raises: ResourceExhausted when a client could not take them."""
    raw = response.SerializeToString()
    if len(raw) > MESSAGE_LIMIT_BYTES:
        raise ResourceExhausted(
            f"the response of {method.path} has {len(raw)} bytes, more than the limit of "
            f"{MESSAGE_LIMIT_BYTES}; ask for less, with a smaller page_size where there is one",
            reason="RESPONSE_TOO_LARGE",
        )
    return raw


def _seen_by_caller(raised: Exception, call: Call) -> AllotmentError:
    """What the caller is told.

    Domain errors as they are, of anything else only that it happened.
    """
    error = raised
    if isinstance(raised, grpc.aio.AioRpcError):
        error = status.from_rpc_error(raised)
    if isinstance(error, AllotmentError) and error.kind is not ErrorKind.INTERNAL:
        return error
    log.error("internal error", exc_info=raised, extra={"rpc": call.rpc})
    return AllotmentError(
        f"internal error (request id {call.call_id}); "
        "the server's log has the details under this id",
        call=call.call_id,
    )


def _shutting_down() -> Unavailable:
    return Unavailable(
        "the server is going down; try again in a moment", reason="SHUTTING_DOWN", retry_after_s=0.5
    )


def _log_end(
    call: Call, code: grpc.StatusCode, error: AllotmentError | None, seconds: float
) -> None:
    level = logging.DEBUG if error is None else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields: dict[str, object] = {
        "rpc": call.rpc,
        "code": code.name,
        "duration_ms": round(seconds * 1e3, 2),
    }
    if call.principal is not None:
        fields |= {"tenant": str(call.principal.tenant), "subject": call.principal.subject}
    if error is not None:
        fields |= {"reason": error.reason, "error": error.message}
    log.log(level, "call ended", extra=fields)

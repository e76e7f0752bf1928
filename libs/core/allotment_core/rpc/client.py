"""The client's end: a channel with our limits, deadlines, token and patience.

Needs the base install alone.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from allotment_core.rpc.addresses import is_loopback
from allotment_core.rpc.balancing import balanced_options, target
from allotment_core.rpc.status import from_rpc_error, has_status
from allotment_core.rpc.tls import TlsFiles, WatchedAuthority, WatchedFiles, caller_credentials

__all__ = ["OPTIONS", "channel", "from_rpc_error", "is_loopback", "request_id"]

DEFAULT_TIMEOUT_S = 15.0
"""Of one attempt of a unary call whose caller names none; servers end it after 10 s."""
RETRY_S = 60.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
LOOK_AT_FILES_S = 10.0
"""How often a channel looks whether its TLS files have changed."""
OLD_CHANNEL_S = 60.0
"""How long calls may go on over the connection that the old files made."""

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    # Also the time that an attempt to connect has: not less than a busy machine needs.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Channels share no connection: one that waits to reconnect does not hold up a new one.
    ("grpc.use_local_subchannel_pool", 1),
)


def request_id() -> str:
    """A new id for a mutating request; the same one repeats it."""
    return uuid.uuid4().hex


def channel(
    address: str,
    *,
    token: str | None = None,
    token_source: Callable[[], str] | None = None,
    ca: bytes | str | Path | None = None,
    tls: TlsFiles | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retry_s: float = RETRY_S,
    on_outage: Callable[[float], None] | None = None,
    service: str | None = None,
) -> grpc.aio.Channel:
    """A channel for the generated stubs, to be used in one asyncio loop.

    `token_source` is asked at each call. `ca` is a PEM file or its bytes: TLS, as for every address
    that is not loopback (then with the system's authorities). `tls`: the channel shows a
    certificate of its own, as services do. Replaced files are used without a new channel.
    Unary calls without a timeout have `timeout_s`, and are repeated (the same request, so with the
    same request_id) for up to `retry_s` while the server can't be reached; `on_outage` is told
    before each repetition for how many seconds it has been away. A call with a timeout is repeated
    within that. `service`: what calls are for, where several processes may stand behind the address
    (or the addresses, of IPv4, with commas between): they go to those that serve it.
    Calls raise grpc.aio.AioRpcError: `from_rpc_error` makes it an AllotmentError.
    """
    if token_source is None and token is not None:
        fixed = token

        def token_source() -> str:
            return fixed

    place, options = _where(address, service)
    interceptors = [_Retries(timeout_s, retry_s, on_outage)]

    def secure(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            place, credentials, options=options, interceptors=interceptors
        )

    if tls is not None:
        files = WatchedFiles(tls)

        def renewed() -> grpc.aio.Channel | None:
            pems = files.changed()
            return None if pems is None else secure(caller_credentials(pems))

        first = secure(caller_credentials(files.pems))
        return _TokenChannel(_Watched(first, renewed), token_source)
    if ca is not None and not isinstance(ca, bytes):
        authority = WatchedAuthority(Path(ca))

        def trusting() -> grpc.aio.Channel | None:
            pem = authority.changed()
            return None if pem is None else secure(grpc.ssl_channel_credentials(pem))

        first = secure(grpc.ssl_channel_credentials(authority.pem))
        return _TokenChannel(_Watched(first, trusting), token_source)
    if ca is None and is_loopback(address):
        inner = grpc.aio.insecure_channel(place, options=options, interceptors=interceptors)
    else:
        inner = secure(grpc.ssl_channel_credentials(root_certificates=ca))
    return _TokenChannel(lambda: inner, token_source)


def _where(address: str, service: str | None) -> tuple[str, tuple[tuple[str, str | int], ...]]:
    """gRPC's target and options."""
    place, named = target(address)
    balanced = () if service is None else balanced_options(service)
    return place, (*OPTIONS, *named, *balanced)


class _Watched:
    """The channel of the moment: another one once its TLS files have changed."""

    def __init__(
        self, first: grpc.aio.Channel, renewed: Callable[[], grpc.aio.Channel | None]
    ) -> None:
        """`renewed` makes it; None while the files are the same."""
        self._channel = first
        self._renewed = renewed
        self._look_at = time.monotonic() + LOOK_AT_FILES_S
        self._closing: set[asyncio.Task[None]] = set()

    def __call__(self) -> grpc.aio.Channel:
        now = time.monotonic()
        if now < self._look_at:
            return self._channel
        self._look_at = now + LOOK_AT_FILES_S
        renewed = self._renewed()
        if renewed is not None:
            closing = asyncio.ensure_future(self._channel.close(OLD_CHANNEL_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._channel = renewed
        return self._channel


class _TokenChannel(grpc.aio.Channel):
    """Adds the token to every call of a channel.

    An interceptor could, but those of grpc.aio stand between a stream and its flow control.
    """

    def __init__(
        self, inner: Callable[[], grpc.aio.Channel], token_source: Callable[[], str] | None
    ) -> None:
        self._channel = inner
        self._token_source = token_source

    @property
    def _inner(self) -> grpc.aio.Channel:
        return self._channel()

    def _with_token(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        made: tuple[grpc.aio.Channel, Any] | None = None

        def make(*call_args: Any, metadata: Any = None, **call_kwargs: Any) -> Any:
            nonlocal made
            inner = self._channel()
            if made is None or made[0] is not inner:
                made = inner, getattr(inner, kind)(*args, **kwargs)
            if self._token_source is not None:
                authorization = ("authorization", f"Bearer {self._token_source()}")
                metadata = (*(metadata or ()), authorization)
            return made[1](*call_args, metadata=metadata, **call_kwargs)

        return make

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_token("unary_unary", *args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_token("unary_stream", *args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_token("stream_unary", *args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_token("stream_stream", *args, **kwargs)

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def __aenter__(self) -> "_TokenChannel":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


class _Retries(grpc.aio.UnaryUnaryClientInterceptor):
    """Repeats unary calls while the server can't be reached."""

    def __init__(
        self, timeout_s: float, retry_s: float, on_outage: Callable[[float], None] | None
    ) -> None:
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._on_outage = on_outage

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        asked_s = client_call_details.timeout
        began = time.monotonic()
        patience_s = self._retry_s if asked_s is None else min(asked_s, self._retry_s)
        pause_s = FIRST_PAUSE_S
        while True:
            attempt_s = self._timeout_s
            if asked_s is not None:
                attempt_s = max(asked_s - (time.monotonic() - began), 0.001)
            call = await continuation(_with_timeout(client_call_details, attempt_s), request)
            if not await _lost(call, ours=asked_s is None):
                return call
            away_s = time.monotonic() - began
            pause = pause_s * random.uniform(0.5, 1.0)
            if away_s + pause >= patience_s:
                return call
            if self._on_outage is not None:
                self._on_outage(away_s)
            await asyncio.sleep(pause)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _with_timeout(details: Any, timeout_s: float) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        details.method, timeout_s, details.metadata, details.credentials, details.wait_for_ready
    )


async def _lost(call: Any, *, ours: bool) -> bool:
    """Whether a call failed because there was no server, or (with our own deadline) no answer."""
    code = await call.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        return True
    if code is not grpc.StatusCode.DEADLINE_EXCEEDED or not ours:
        return False
    return not has_status(await call.trailing_metadata())

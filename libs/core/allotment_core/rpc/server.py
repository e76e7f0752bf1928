"""The server: every service of a process, on one address for clients, one for services, and one
for health alone.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from allotment_core.auth.principal import Role
from allotment_core.clock import Clock
from allotment_core.errors import (
    AllotmentError,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    Unimplemented,
    clip,
)
from allotment_core.rpc import health, reflection, status
from allotment_core.rpc.access import LateVerifier, Verifier
from allotment_core.rpc.addresses import is_loopback
from allotment_core.rpc.balancing import aging_options
from allotment_core.rpc.chain import MESSAGE_LIMIT_BYTES, Chain, Limits
from allotment_core.rpc.health import Health
from allotment_core.rpc.methods import Method, methods_of
from allotment_core.rpc.metrics import RpcMetrics
from allotment_core.rpc.peers import Peers
from allotment_core.rpc.reflection import Reflection
from allotment_core.rpc.service import Service
from allotment_core.rpc.tls import TlsFiles, listener_credentials

log = logging.getLogger(__name__)

OPTIONS = (
    # Two servers on one port must not share it in silence.
    ("grpc.so_reuseport", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", -1),
    # Above 1,000 waiting calls gRPC drops some at random; too many are refused by Limits.calls.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # Peers that vanished without a word are noticed; clients may ask as often as we do.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


_SHORTEST_NOTICE_S = 0.02
"""Lets those who watch the health read NOT_SERVING before their stream ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicesListener:
    """A second address, for services: it takes nobody without a certificate.

    A listener of its own, since gRPC can't ask for certificates without requiring them.
    """

    address: str
    tls: TlsFiles
    """With the authority of the callers' certificates."""
    callers: Mapping[str, Role]
    """The services that need no token here, by their names, and what they may do."""


class _Methods(grpc.GenericRpcHandler):
    """Finds a method by its path; others are refused, whatever their kind."""

    def __init__(self, chain: Chain, methods: Iterable[Method] = ()) -> None:
        self._chain = chain
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self.stands_by = False
        self.add(methods)

    def add(self, methods: Iterable[Method]) -> None:
        self._handlers |= {method.path: self._chain.handler(method) for method in methods}

    def service(self, details: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        found = self._handlers.get(details.method)
        if found is not None:
            return found
        error = _standing_by() if self.stands_by else _unknown(details.method)
        return grpc.stream_stream_rpc_method_handler(_refusal(error))


def unknown_method(path: str) -> Any:
    """A behaviour of any kind that says UNIMPLEMENTED."""
    return _refusal(_unknown(path))


def _unknown(path: str) -> Unimplemented:
    return Unimplemented(
        f"this server does not serve {clip(path)}; compare its version with the client's",
        reason="UNKNOWN_METHOD",
    )


def _standing_by() -> Unavailable:
    return Unavailable(
        "this process stands by while another one leads, or is starting; try again in a moment",
        reason="STANDBY",
        retry_after_s=0.5,
    )


def _refusal(error: AllotmentError) -> Any:
    async def refuse(_requests: Any, context: Any) -> None:
        await context.abort(status.to_code(error), status.to_text(error), status.to_metadata(error))

    return refuse


class RpcServer:
    """Serves services until it is stopped. Used from one asyncio loop."""

    def __init__(
        self,
        services: Sequence[Service],
        verifier: Verifier,
        clock: Clock,
        address: str,
        *,
        tls: TlsFiles | None = None,
        for_services: ServicesListener | None = None,
        health_address: str | None = None,
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
        limits: Limits | None = None,
        drain_notice_s: float = 0.0,
        connection_age_s: float | None = None,
        connection_grace_s: float = 0.0,
    ) -> None:
        """`address` is "host:port"; port 0 picks one. Without `tls` the host has to be loopback.

        `health_address`: answers health alone, in plaintext: for probes that speak no TLS.
        `metrics_port`: of http://`metrics_host`/metrics; None is off, 0 picks one.
        `drain_notice_s`: how long health says NOT_SERVING before calls are refused.
        `connection_age_s`, `connection_grace_s`: as in `balancing.aging_options`.
        Raises: ValueError for a method that may not be served (no access rule, no implementation);
            InvalidArgument (INSECURE_ADDRESS).
        """
        _check_address(address, tls)
        self.metrics = RpcMetrics()
        self.metrics_port: int | None = None
        self._wanted_metrics_port = metrics_port
        self._metrics_host = metrics_host
        self._for_services = for_services
        self.services_port: int | None = None
        self._health_address = health_address
        self.health_port: int | None = None
        self._services: list[Service] = []
        self._verifier = verifier
        self._clock = clock
        self._address = address
        self._tls = tls
        self._drain_notice_s = drain_notice_s
        self._aging = aging_options(connection_age_s, connection_grace_s)
        self._limits = limits or Limits()
        self._chain = Chain(
            verifier=verifier,
            peers=Peers(for_services.callers if for_services else {}),
            metrics=self.metrics,
            limits=self._limits,
        )
        self._health = Health(())
        self._names: set[str] = set()
        self._methods = _Methods(self._chain, self._health.methods())
        self._add(services)
        self._is_acting = True
        self._server: grpc.aio.Server | None = None
        self._health_server: grpc.aio.Server | None = None
        self._started: list[Service] = []
        self._stopped = False
        self._announced = False
        self.port = 0
        self._announcing: asyncio.Task[None] | None = None

    def _add(self, services: Sequence[Service]) -> None:
        methods = [method for service in services for method in methods_of(service)]
        self._services += services
        self._names |= {service.name for service in services}
        protos = {method.path.split("/")[1] for method in methods}
        self._names |= protos
        self._health.set_serving(False, *self._names)
        self._methods.add(methods)
        told = self._names - {service.name for service in self._services}
        reflected = Reflection(told | {health.SERVICE, *reflection.SERVICES})
        self._methods.add(reflected.methods())

    async def start(self) -> int:
        """Listens, starts the services in their order, then says SERVING, once tokens can be
        verified. Returns the port.

        Raises: FailedPrecondition (ADDRESS_IN_USE), what a service's start raises; then nothing
        runs.
        """
        try:
            port = await self._listen()
            await self._begin(self._services)
        except BaseException:
            await self.stop(0)
            raise
        self._announce("")
        return port

    async def stand_by(self, names: Collection[str]) -> int:
        """Listens for services that are to come. Returns the port.

        Health says SERVING of the process and NOT_SERVING of `names`; all other calls are refused
        (STANDBY) until `lead`. Raises: FailedPrecondition (ADDRESS_IN_USE).
        """
        self._methods.stands_by = True
        self._health.set_serving(False, *names)
        try:
            port = await self._listen()
        except BaseException:
            await self.stop(0)
            raise
        self._health.set_serving(True, "")
        return port

    async def lead(self, services: Sequence[Service]) -> None:
        """Starts services and serves them. Raises: what their start raises."""
        self._add(services)
        await self._begin(services)
        self._methods.stands_by = False
        self._announce()

    def set_ready(self) -> None:
        """A process that stands by would serve if it had to."""
        self._health.set_serving(True, health.READY)

    def set_acting(self, acting: bool) -> None:
        """Whether the services may act at the moment; while not, others shall be called."""
        if acting != self._is_acting:
            self._is_acting = acting
            log.warning("acting again" if acting else "not acting")
            if self._announced and not self._stopped:
                self._health.set_serving(acting, *self._names)

    async def _listen(self) -> int:
        self._server = self._make_server(self._methods)
        self.port = listen(self._server, self._address, self._tls, mutual=False)
        if self._for_services is not None:
            self.services_port = listen(
                self._server, self._for_services.address, self._for_services.tls, mutual=True
            )
        await self._server.start()
        await self._serve_health()
        if self._wanted_metrics_port is not None:
            self.metrics_port = self.metrics.serve(self._wanted_metrics_port, self._metrics_host)
        return self.port

    async def _begin(self, services: Sequence[Service]) -> None:
        for service in services:
            await service.start()
            self._started.append(service)

    def _announce(self, *names: str) -> None:
        """Says SERVING, also of these names: at once, or when tokens can be verified."""
        if isinstance(self._verifier, LateVerifier) and not self._verifier.ready.is_set():
            self._announcing = asyncio.create_task(self._say_serving_late(self._verifier, names))
        else:
            self._say_serving(names)

    async def _say_serving_late(self, verifier: LateVerifier, names: Sequence[str]) -> None:
        await verifier.ready.wait()
        self._say_serving(names)

    def _say_serving(self, names: Sequence[str]) -> None:
        self._announced = True
        self._health.set_serving(True, health.READY, *names)
        self._health.set_serving(self._is_acting, *self._names)
        log.info("serving", extra={"address": self._address, "port": self.port})

    def _make_server(self, methods: _Methods) -> grpc.aio.Server:
        server = grpc.aio.server(
            options=(*OPTIONS, *self._aging), maximum_concurrent_rpcs=self._limits.calls
        )
        server.add_generic_rpc_handlers((methods,))
        return server

    async def _serve_health(self) -> None:
        if self._health_address is None:
            return
        # A server of its own: nothing else can be reached there.
        self._health_server = self._make_server(_Methods(self._chain, self._health.methods()))
        self.health_port = listen(self._health_server, self._health_address, None, mutual=False)
        await self._health_server.start()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Drains: NOT_SERVING, streams end, services stop, unary calls have `grace_s` to end,
        databases close. The second call does nothing.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._announcing is not None:
            self._announcing.cancel()
        self._health.set_serving(False)
        await asyncio.sleep(max(self._drain_notice_s, _SHORTEST_NOTICE_S))
        self._chain.end_streams()
        for service in reversed(self._started):
            try:
                await service.stop()
            except Exception:
                log.exception("a service did not stop cleanly", extra={"service": service.name})
        if self._server is not None:
            await self._end_calls(self._server, grace_s)
        if self._health_server is not None:
            await self._health_server.stop(0)
        self.metrics.close()
        for service in self._services:
            if service.database is not None:
                await service.database.close()

    async def _end_calls(self, server: grpc.aio.Server, grace_s: float) -> None:
        stopping = asyncio.ensure_future(server.stop(grace_s + 1.0))
        await asyncio.wait([stopping], timeout=grace_s)
        self._chain.end_calls()
        await stopping

    async def wait(self) -> None:
        """Until the server has stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()


def _check_address(address: str, tls: TlsFiles | None) -> None:
    """Raises: InvalidArgument (INSECURE_ADDRESS) for plaintext beyond loopback."""
    if tls is None and not is_loopback(address):
        raise InvalidArgument(
            f"{clip(address)} is not a loopback address: serve on 127.0.0.1, or give a "
            "certificate and a key",
            reason="INSECURE_ADDRESS",
        )


def listen(server: grpc.aio.Server, address: str, tls: TlsFiles | None, *, mutual: bool) -> int:
    """Adds a listener; its port. Raises: FailedPrecondition (ADDRESS_IN_USE, INVALID_TLS_FILES)."""
    credentials = listener_credentials(tls, mutual=mutual) if tls else None
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as e:
        raise FailedPrecondition(
            f"can't listen on {clip(address)}: the address is in use or not this machine's; stop "
            "the server that has it or choose another port",
            reason="ADDRESS_IN_USE",
        ) from e

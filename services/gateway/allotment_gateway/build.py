"""The gateway's server: forwarding, health, metrics, and its drain."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from allotment_core.auth.principal import Principal
from allotment_core.errors import Unauthenticated, Unavailable
from allotment_core.rpc.balancing import aging_options
from allotment_core.rpc.chain import Chain, Limits
from allotment_core.rpc.health import READY, Health
from allotment_core.rpc.metrics import RpcMetrics
from allotment_core.rpc.peers import Peers
from allotment_core.rpc.server import OPTIONS, listen, unknown_method
from allotment_gateway.adapters.upstreams import Upstream, Upstreams
from allotment_gateway.config import GatewayConfig, GatewayServer
from allotment_gateway.domain.routes import owner_of_method, owner_of_service
from allotment_gateway.servicer import abort, forward

log = logging.getLogger(__name__)

SHORTEST_NOTICE_S = 0.02


class _Nobody:
    """Health needs no token, and the gateway serves nothing else itself."""

    def verify(self, _token: str) -> Principal:
        raise Unauthenticated("the gateway verifies no tokens", reason="INVALID_TOKEN")


class Gateway(grpc.GenericRpcHandler):
    """One address before all services. Used from one asyncio loop."""

    def __init__(self, config: GatewayConfig, server: GatewayServer) -> None:
        self._config = config
        self._listener = server
        self._metrics = RpcMetrics()
        self._upstreams = Upstreams(config.addresses, config.services_ca_file, self._note_health)
        self._health = Health(
            config.addresses, known_as=lambda name: owner_of_service(name) or name
        )
        chain = Chain(verifier=_Nobody(), peers=Peers({}), metrics=self._metrics, limits=Limits())
        self._own = {m.path: chain.handler(m) for m in self._health.methods()}
        self._chain = chain
        self._servers: list[grpc.aio.Server] = []
        self._running: set[asyncio.Task[Any]] = set()
        self._draining = False
        self.health_port: int | None = None
        self.metrics_port: int | None = None

    def service(self, details: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        """gRPC asks for each call who serves it."""
        path = details.method
        if path in self._own:
            return self._own[path]
        owner = owner_of_method(path)
        if owner is None:
            return grpc.stream_stream_rpc_method_handler(unknown_method(path))
        upstream = self._upstreams.by_name[owner]
        return grpc.stream_stream_rpc_method_handler(functools.partial(self._serve, path, upstream))

    async def _serve(
        self, path: str, upstream: Upstream, requests: AsyncIterator[bytes], context: Any
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        # By service: callers may make up as many paths as they like.
        label = f"/{upstream.name}/*"
        self._metrics.began(label)
        code = "UNKNOWN"
        try:
            await forward(path, upstream.name, upstream.pick(), requests, context)
            code = "OK"
        except asyncio.CancelledError:
            code = "CANCELLED"
            if not self._draining:
                raise
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        finally:
            self._running.discard(task)
            self._metrics.ended(label, code, None)
        if code == "CANCELLED":
            await abort(_shutting_down(), context)

    def _note_health(self) -> None:
        for name, upstream in self._upstreams.by_name.items():
            self._health.set_serving(upstream.serving and not self._draining, name)

    async def start(self) -> int:
        """Listens; the port. Raises: AllotmentError when it can't."""
        tls = self._listener.tls
        try:
            port = await self._open((self,), self._listener.address, tls)
            if self._listener.health_address is not None:
                self.health_port = await self._open(
                    (_HealthAlone(self._own),), self._listener.health_address, None
                )
            if self._listener.metrics_port is not None:
                self.metrics_port = self._metrics.serve(
                    self._listener.metrics_port, self._listener.metrics_host
                )
        except BaseException:
            await self.stop(0)
            raise
        self._upstreams.start()
        self._health.set_serving(True, "", READY)
        log.info("serving", extra={"address": self._listener.address, "port": port})
        return port

    async def _open(
        self, handlers: tuple[grpc.GenericRpcHandler, ...], address: str, tls: Any
    ) -> int:
        aging = aging_options(self._listener.connection_age_s, self._listener.connection_grace_s)
        server = grpc.aio.server(options=(*OPTIONS, *aging), maximum_concurrent_rpcs=Limits().calls)
        server.add_generic_rpc_handlers(handlers)
        port = listen(server, address, tls, mutual=False)
        self._servers.append(server)
        await server.start()
        return port

    async def stop(self, grace_s: float | None = None) -> None:
        """Drains: NOT_SERVING, no new calls, what runs may end, then it is ended."""
        self._draining = True
        self._health.set_serving(False)
        await asyncio.sleep(max(self._config.drain_notice_s, SHORTEST_NOTICE_S))
        self._chain.end_streams()
        grace_s = self._config.drain_s if grace_s is None else grace_s
        stopping = [asyncio.ensure_future(each.stop(grace_s + 1.0)) for each in self._servers]
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*stopping)
        await self._upstreams.close()
        self._metrics.close()


class _HealthAlone(grpc.GenericRpcHandler):
    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, details: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        found = self._handlers.get(details.method)
        return found or grpc.stream_stream_rpc_method_handler(unknown_method(details.method))


def _shutting_down() -> Unavailable:
    return Unavailable(
        "the gateway is going down; try again in a moment",
        reason="SHUTTING_DOWN",
        retry_after_s=0.5,
    )


def build(config: GatewayConfig, server: GatewayServer) -> Gateway:
    """The gateway, not yet listening."""
    return Gateway(config, server)

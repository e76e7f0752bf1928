"""One service in a process of its own: settings in, SERVING, drain on SIGTERM or SIGINT."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Protocol, TypeVar

import grpc.aio

from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import Clock
from allotment_core.config import load
from allotment_core.errors import AllotmentError, InvalidArgument, clip
from allotment_core.events import configure_logging
from allotment_core.rpc.access import Verifier
from allotment_core.rpc.addresses import is_loopback
from allotment_core.rpc.client import channel
from allotment_core.rpc.fetched_keys import FetchedKeys
from allotment_core.rpc.server import RpcServer, ServicesListener
from allotment_core.rpc.service import Service
from allotment_core.rpc.tls import TlsFiles

C = TypeVar("C")
S = TypeVar("S", bound="ListenerConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """Where a process listens: ALLOTMENT_SERVE_<NAME>."""

    address: str
    """host:port for clients and trainers, with TLS and tokens; port 0 picks one. Plaintext is
    allowed on loopback alone.
    """
    health_address: str | None = None
    """host:port that answers health alone, in plaintext, for probes; empty: none."""
    metrics_port: int | None = None
    """Of http://<metrics_host>/metrics; empty: none."""
    metrics_host: str = "127.0.0.1"
    """Where metrics are served; they need no token."""
    certificate_file: Path | None = None
    """PEM; a service's has the URI spiffe://allotment/service/<name>, for its calls to other
    services. Read again when it changes, as key and authority are.
    """
    private_key_file: Path | None = None
    """PEM; the certificate's."""
    ca_file: Path | None = None
    """PEM; the authority of the other services' certificates."""
    connection_age_s: float = 120.0
    """A connection takes no new calls after this time: its caller opens another one, and finds
    processes that were started since.
    """
    connection_grace_s: float = 3600.0
    """How long calls and streams on it may go on after that."""

    @property
    def tls(self) -> TlsFiles | None:
        """None: plaintext.

        Raises: InvalidArgument (INVALID_CONFIG) for half of a pair, and for no certificate on an
            address that is not loopback.
        """
        certificate, key = self.certificate_file, self.private_key_file
        if (certificate is None) != (key is None):
            raise _bad("CERTIFICATE_FILE and PRIVATE_KEY_FILE are set together or not at all")
        if certificate is not None and key is not None:
            return TlsFiles(certificate=certificate, key=key, ca=self.ca_file)
        if not is_loopback(self.address):
            raise _bad(
                f"ADDRESS {clip(self.address)} is not loopback: set CERTIFICATE_FILE and "
                "PRIVATE_KEY_FILE, or serve on 127.0.0.1"
            )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(ListenerConfig):
    """What serving one service alone needs besides its own: ALLOTMENT_SERVE_<NAME>."""

    services_address: str | None = None
    """host:port for the other services, which show certificates; empty: none."""
    token_file: Path | None = None
    """Holds the token for its calls to other services, where certificates don't do."""
    public_key_file: Path | None = None
    """PEM; verifies callers' tokens. Empty: the allocator is asked for its keys, at
    `allocator_address`.
    """
    allocator_address: str = "127.0.0.1:50053"
    """Where the allocator serves services: a name and its port, or several addresses of IPv4 with
    commas between. The same goes for the addresses of other services.
    """

    def server(
        self,
        services: Collection[Service],
        verifier: Verifier,
        clock: Clock,
        callers: Mapping[str, Role] = MappingProxyType({}),
    ) -> RpcServer:
        """The server as configured. `callers`: the services that call it with certificates."""
        tls = self.tls
        for_services = None
        if self.services_address is not None:
            if tls is None or tls.ca is None:
                raise _bad("SERVICES_ADDRESS needs CERTIFICATE_FILE, PRIVATE_KEY_FILE and CA_FILE")
            for_services = ServicesListener(address=self.services_address, tls=tls, callers=callers)
        return RpcServer(
            tuple(services),
            verifier,
            clock,
            self.address,
            tls=tls,
            for_services=for_services,
            health_address=self.health_address,
            metrics_port=self.metrics_port,
            metrics_host=self.metrics_host,
            connection_age_s=self.connection_age_s,
            connection_grace_s=self.connection_grace_s,
        )

    def channel_to(self, service: str, address: str) -> grpc.aio.Channel:
        """A channel to those of a service's processes that serve: with the certificate, or with
        the token on loopback.
        """
        token_file = self.token_file
        # A rotated token is read again at the next call.
        source = None if token_file is None else lambda: token_file.read_text().strip()
        tls = self.tls
        if tls is not None and tls.ca is not None:
            return channel(address, token_source=source, tls=tls, service=service)
        if source is None:
            raise _bad(
                "calls to other services need TOKEN_FILE, or CERTIFICATE_FILE, PRIVATE_KEY_FILE "
                "and CA_FILE"
            )
        return channel(address, token_source=source, ca=self.ca_file, service=service)

    def verifier(self, clock: Clock) -> Verifier:
        """Checks callers' tokens. Called in the loop that serves."""
        if self.public_key_file is not None:
            return TokenVerifier(self.public_key_file.read_bytes(), clock)
        return FetchedKeys(self.channel_to("allocator", self.allocator_address), clock)


def _bad(message: str) -> InvalidArgument:
    return InvalidArgument(f"ALLOTMENT_SERVE_*: {message}", reason="INVALID_CONFIG")


class Servable(Protocol):
    """A server of this process."""

    async def start(self) -> int: ...
    async def stop(self) -> None: ...


async def serve_until_signal(server: Servable) -> None:
    """Starts the server, and drains it at the first SIGTERM or SIGINT."""
    ended = asyncio.create_task(until_signal())
    await asyncio.sleep(0)  # a signal during the start counts
    await server.start()
    await ended
    await server.stop()


async def until_signal() -> None:
    """Until the first SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()


def run_alone(
    service: str,
    config: type[C],
    server_config: type[S],
    serve: Callable[[C, S], Awaitable[None]],
) -> int:
    """Serves with settings from ALLOTMENT_<SERVICE>_* and ALLOTMENT_SERVE_*.

    The exit status: 0 after a drain, 2 for settings that can't be used, files they name included,
    3 for what another start may mend: the leadership was lost.
    """

    async def serve_loaded() -> None:
        own = load(config, os.environ, f"ALLOTMENT_{service.upper()}_")
        await serve(own, load(server_config, os.environ, "ALLOTMENT_SERVE_"))

    # Until the server takes signals itself: as a container's first process it gets none otherwise.
    signal.signal(signal.SIGTERM, _leave)
    try:
        configure_logging(service, os.environ.get("ALLOTMENT_LOG_LEVEL", "INFO"))
        asyncio.run(serve_loaded())
    except AllotmentError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if error.retry_after_s is None else 3
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"{error.filename} can't be used: {error.strerror}\n")
        return 2
    return 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    """At once: nothing is served yet, and a thread may be waiting for the database."""
    os._exit(0)

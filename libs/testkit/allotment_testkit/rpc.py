"""Real servers on 127.0.0.1 for tests, and a network between that can be broken."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc
import grpc.aio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner, TokenVerifier
from allotment_core.clock import Clock, SystemClock
from allotment_core.names import LeaseName, TenantName
from allotment_core.rpc import RpcServer, Service
from allotment_core.rpc.access import Verifier
from allotment_core.rpc.chain import Limits
from allotment_core.rpc.client import channel


def new_signer() -> TokenSigner:
    """A signer with a key of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    return TokenSigner(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class Served:
    """A running server, and channels to it that are closed with it."""

    def __init__(self, server: RpcServer, port: int, signer: TokenSigner, clock: Clock) -> None:
        self.server = server
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.signer = signer
        self._clock = clock
        self._channels: list[grpc.aio.Channel] = []

    def token(
        self,
        role: Role = Role.EDITOR,
        tenant: str = "tenants/local",
        *,
        ttl_s: int = 3600,
        lease: str | None = None,
        lease_epoch: int | None = None,
    ) -> str:
        """A token that the server accepts; a trainer's needs its lease and epoch."""
        return self.signer.issue(
            f"test-{role.value}",
            TenantName.parse(tenant),
            role,
            ttl_s,
            self._clock.now(),
            LeaseName.parse(lease) if lease else None,
            lease_epoch,
        )

    def channel(
        self, token: str | None = None, *, address: str | None = None, **options: Any
    ) -> grpc.aio.Channel:
        """A channel as clients have it: an editor's of tenants/local unless a token is given.

        "" is no token.
        """
        given = self.token() if token is None else token or None
        options.setdefault("retry_s", 0.0)
        opened = channel(address or self.address, token=given, **options)
        self._channels.append(opened)
        return opened

    def raw_channel(self) -> Any:
        """A channel of gRPC alone, for what no client of ours would send."""
        options = (("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1))
        opened = grpc.aio.insecure_channel(self.address, options=options)
        self._channels.append(opened)
        return opened

    async def close(self) -> None:
        for each in self._channels:
            await each.close()


@asynccontextmanager
async def serving(
    *services: Service,
    clock: Clock | None = None,
    signer: TokenSigner | None = None,
    limits: Limits | None = None,
    grace_s: float = 0.5,
    verifier: Verifier | None = None,
) -> AsyncIterator[Served]:
    """Serves until the block ends; the services' databases are closed with it. Tokens are the
    signer's, unless another verifier is given.
    """
    clock = clock or SystemClock()
    signer = signer or new_signer()
    verifier = verifier or TokenVerifier(signer.public_key_pem, clock)
    server = RpcServer(services, verifier, clock, "127.0.0.1:0", limits=limits)
    port = await server.start()
    served = Served(server, port, signer, clock)
    try:
        yield served
    finally:
        await served.close()
        await server.stop(grace_s)


def bearer(token: str) -> Sequence[tuple[str, str]]:
    """The metadata that carries a token."""
    return (("authorization", f"Bearer {token}"),)


class Network:
    """A TCP proxy before a server: `async with Network(port) as network:` then `network.port`."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.deaf = False
        """While true, what the server answers is thrown away."""
        self._server_port = server_port
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.down()

    async def down(self) -> None:
        """Takes the server off the network: connections are cut, new ones refused."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.cut()
        await asyncio.sleep(0)

    async def up(self) -> None:
        """Brings it back on the same port."""
        await self.__aenter__()

    def cut(self) -> None:
        """Ends all connections at once."""
        for writer in list(self._open):
            writer.transport.abort()
        self._open.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        await asyncio.gather(
            self._pump(reader, far_writer, answers=False),
            self._pump(far_reader, writer, answers=True),
        )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 * 1024):
                if not (answers and self.deaf):
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
        self._open.discard(writer)

"""Builds every service on one state folder and serves them on one address."""

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import (
    MAX_TTL_S,
    TokenSigner,
    TokenVerifier,
    load_or_create_key,
)
from allotment_core.clock import Clock, SystemClock
from allotment_core.errors import FailedPrecondition, Unauthenticated
from allotment_core.events import configure_logging
from allotment_core.names import TenantName
from allotment_core.rpc import RpcServer
from allotment_core.rpc.client import channel
from allotment_embedded.services import build_services, close_databases
from allotment_embedded.state import StateFolder, locked

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
LOCAL = TenantName("local")
RENEW_TOKEN_S = 30 * 24 * 3600
"""A stored token that ends sooner is replaced at the next start."""
STOP_GRACE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why the server ends: a signal."""

    number: signal.Signals

    @property
    def status(self) -> int:
        return 130 if self.number is signal.SIGINT else 0


async def serve(folder: Path, *, port: int, metrics_port: int | None, private: bool) -> int:
    """Serves until SIGTERM (exit status 0) or Ctrl-C (130).

    Raises: AllotmentError when the folder, the port or a database can't be used.
    """
    configure_logging("embedded", os.environ.get("ALLOTMENT_LOG_LEVEL", "WARNING"))
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[Stop] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, stop, Stop(number=number))
    with locked(folder) as state:
        clock = SystemClock()
        signer = TokenSigner(load_or_create_key(state.key))
        verifier = TokenVerifier(signer.public_key_pem, clock)
        token = _lasting_token(state, signer, verifier, clock)
        address = f"{HOST}:{_usable_port(port)}"
        channels = Channels(address, InternalToken(signer, clock))
        services = await build_services(state, address, signer, channels.open, clock)
        try:
            server = RpcServer(services, verifier, clock, address, metrics_port=metrics_port)
            await server.start()
        except BaseException:
            await close_databases(services)
            raise
        try:
            state.write("address", address)
            _announce(state, address, token, server.metrics_port, private)
            ended = await stop
        finally:
            await server.stop(STOP_GRACE_S)
            await channels.close()
    return ended.status


def _end(stop: "asyncio.Future[Stop]", why: Stop) -> None:
    if not stop.done():
        stop.set_result(why)


def _announce(
    state: StateFolder, address: str, token: str, metrics_port: int | None, private: bool
) -> None:
    if private:
        ready = {"address": address, "token": token, "pid": os.getpid()}
        print(json.dumps({"ready": ready}), flush=True)
        return
    print(f"allotment serves on {address}, state in {state.path}")
    if metrics_port:
        print(f"metrics on http://{HOST}:{metrics_port}/metrics")
    print(f'export ALLOTMENT_SERVER={address} ALLOTMENT_TOKEN="$(cat {state.token})"')
    print("Ctrl-C stops it.", flush=True)


class Channels:
    """The services' own channels to this server; closed together."""

    def __init__(self, address: str, token_source: Callable[[], str]) -> None:
        self._address = address
        self._token_source = token_source
        self._open: list[grpc.aio.Channel] = []

    def open(self) -> grpc.aio.Channel:
        opened = channel(self._address, token_source=self._token_source)
        self._open.append(opened)
        return opened

    async def close(self) -> None:
        for opened in self._open:
            await opened.close()


class InternalToken:
    """An admin's token for the services' own calls, renewed at half of its life."""

    TTL_S = 24 * 3600

    def __init__(self, signer: TokenSigner, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock
        self._token = ""
        self._renew_at = 0.0

    def __call__(self) -> str:
        if not self._token or self._clock.monotonic() >= self._renew_at:
            now = self._clock.now()
            self._token = self._signer.issue("embedded", LOCAL, Role.ADMIN, self.TTL_S, now)
            self._renew_at = self._clock.monotonic() + self.TTL_S / 2
        return self._token


def _lasting_token(
    state: StateFolder, signer: TokenSigner, verifier: TokenVerifier, clock: Clock
) -> str:
    """The admin's token of this folder, the same after each start until it nears its end."""
    token = state.read_token()
    try:
        ends = verifier.verify(token).expires_at
    except Unauthenticated:
        ends = clock.now()
    if (ends - clock.now()).total_seconds() < RENEW_TOKEN_S:
        token = signer.issue("local-admin", LOCAL, Role.ADMIN, MAX_TTL_S, clock.now())
        state.write("token", token)
    return token


def _usable_port(port: int) -> int:
    """The port, or a free one for 0. Raises: FailedPrecondition (PORT_IN_USE)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as e:
            raise FailedPrecondition(
                f"port {port} of {HOST} can't be used ({e.strerror}); stop the server that has it, "
                "or choose another --port",
                reason="PORT_IN_USE",
            ) from e
        return int(probe.getsockname()[1])

"""Builds every service on one state folder and serves them on one address."""

import asyncio
import json
import os
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from allotment_core.auth.tokens import TokenSigner, TokenVerifier, load_or_create_key
from allotment_core.clock import SystemClock
from allotment_core.errors import FailedPrecondition
from allotment_core.events import configure_logging
from allotment_core.rpc import RpcServer
from allotment_core.rpc.client import channel
from allotment_embedded.services import build_services, close_databases
from allotment_embedded.state import StateFolder, locked
from allotment_embedded.tokens import InternalToken, lasting_token

HOST = "127.0.0.1"
STOP_GRACE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why the server ends: a signal."""

    number: signal.Signals

    @property
    def status(self) -> int:
        return 130 if self.number is signal.SIGINT else 0


async def serve(
    folder: Path,
    *,
    port: int,
    metrics_port: int | None,
    private: bool,
    trainer_host: Process | None = None,
) -> int:
    """Serves until SIGTERM (exit status 0) or Ctrl-C (130).

    `trainer_host`: one that was started ahead; the caller ends it when this raises.

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
        token = lasting_token(state, signer, verifier, clock)
        address = f"{HOST}:{_usable_port(port)}"
        channels = Channels(address, InternalToken(signer, clock))
        services = await build_services(state, address, signer, channels.open, clock, trainer_host)
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

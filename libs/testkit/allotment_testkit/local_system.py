"""The whole system as a user starts it: `allotment up` in a process of its own.

`services_system` has the other form, with the same interface.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

import allotment

ALLOTMENT = str(Path(sys.executable).with_name("allotment"))
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
START_LIMIT_S = 20.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of_group(group: int) -> list[int]:
    """Ids of the live (not zombie) processes of a process group. Linux alone."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


class LocalSystem:
    """One `allotment up` on a folder; it can be killed and started again there."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The admin's token of the local tenant."""
        return (self.folder / "token").read_text(encoding="utf-8").strip()

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs."""
        return {"ALLOTMENT_SERVER": self.address, "ALLOTMENT_TOKEN": self.token}

    def client(self, address: str = "", token: str = "", **options: Any) -> allotment.Client:
        """The admin's unless a token is given, to this system or a wire before it."""
        return allotment.Client(address or self.address, token=token or self.token, **options)

    def channel(self) -> grpc.Channel:
        """Without a token, for raw calls."""
        return grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)

    @property
    def log(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text(encoding="utf-8")

    @property
    def process_ids(self) -> list[int]:
        """Every live process of the system, the server first."""
        assert self._process is not None
        pid = self._process.pid
        return sorted(processes_of_group(pid), key=lambda each: each != pid)

    def start(self) -> None:
        """Returns once the server is SERVING."""
        command = [ALLOTMENT, "up", "--port", str(self.port), "--dir", str(self.folder)]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        with self.channel() as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            while True:
                if self._process.poll() is not None:
                    raise RuntimeError(f"allotment up ended: {self.log[-2000:]}")
                try:
                    answer = check(health_pb2.HealthCheckRequest(), timeout=1)
                except grpc.RpcError:
                    answer = None
                if answer and answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"allotment up does not serve: {self.log[-2000:]}")
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to the server process alone; its children have to notice by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=30)

    def close(self) -> None:
        """Nothing is left after it, whatever state the system is in."""
        if self._process is not None:
            for pid in processes_of_group(self._process.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._process.wait()


@contextmanager
def local_system(folder: Path, *arguments: str) -> Iterator[LocalSystem]:
    """A started system that is gone at the end of the block."""
    system = LocalSystem(folder, *arguments)
    try:
        system.start()
        yield system
    finally:
        system.close()

"""The whole system as services that run apart: `make services` in a process of its own.

Has the interface of `LocalSystem`; `running_system` chooses between them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2

import allotment
from allotment_testkit.local_system import CHANNEL_OPTIONS, LocalSystem, local_system
from allotment_testkit.services.layout import STARTED, service_of

FORM = "ALLOTMENT_TEST_FORM"
"""In the environment: "services" has tests use that form, anything else the embedded one."""
START_LIMIT_S = 120.0
STOP_LIMIT_S = 40.0


class ServicesSystem:
    """Five services, their stores and trainers. Stopped, it has nothing left."""

    def __init__(self, folder: Path, *settings: str, replicas: int = 1) -> None:
        """`settings`: SERVICE.VARIABLE=VALUE, in the environment of that service. `replicas`: of
        allocator and controller, of which one leads.
        """
        self.folder = folder
        self._replicas = replicas
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return (self.folder / "address").read_text(encoding="ascii")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def token(self) -> str:
        """The admin's token of the local tenant."""
        return (self.folder / "token").read_text(encoding="ascii")

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs."""
        return {
            "ALLOTMENT_SERVER": self.address,
            "ALLOTMENT_TOKEN": self.token,
            "ALLOTMENT_CA": str(self.ca),
        }

    def client(self, address: str = "", token: str = "", **options: Any) -> allotment.Client:
        """The admin's unless a token is given, to this system or a wire before it."""
        return allotment.Client(
            address or self.address, token=token or self.token, ca=self.ca, **options
        )

    def channel(self) -> grpc.Channel:
        """Without a token, for raw calls."""
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.secure_channel(self.address, credentials, options=CHANNEL_OPTIONS)

    @property
    def said(self) -> str:
        """What the keeper of the processes printed."""
        return self._said.read_text(encoding="utf-8")

    @property
    def _said(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.log"

    @property
    def log(self) -> str:
        """The ends of all logs."""
        logs = sorted((self.folder / "logs").glob("*.log"))
        tails = [f"== {each.name}\n{each.read_text(errors='replace')[-2000:]}" for each in logs]
        return "\n".join([self.said, *tails])

    @property
    def services(self) -> dict[str, int]:
        """The process ids of the services that run at the moment."""
        told: dict[str, int | None] = json.loads((self.folder / "processes.json").read_text())
        return {name: pid for name, pid in told.items() if pid and psutil.pid_exists(pid)}

    def leader(self, service: str) -> str:
        """The process that serves it, "controller-2"; waits until there is one."""
        return self._until_one_says(service, service)[0]

    def wait_for_others(self, service: str) -> None:
        """Until every process of it serves or stands by."""
        count = sum(service_of(process) == service for process in self._health)
        while len(self._until_one_says(service, "ready")) < count:
            time.sleep(0.02)

    def _until_one_says(self, service: str, name: str) -> list[str]:
        """The processes of a service that say SERVING of the name, once there are any."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if saying := [
                process
                for process, address in self._health.items()
                if service_of(process) == service and _serves(address, name)
            ]:
                return saying
            time.sleep(0.02)
        raise TimeoutError(f"no {service} says {name}: {self.log}")

    @property
    def _health(self) -> dict[str, str]:
        addresses: dict[str, str] = json.loads((self.folder / "health.json").read_text())
        return addresses

    @property
    def trainers(self) -> list[int]:
        """The process ids of everything below the allocator: host, trainers, trials."""
        try:
            above = [pid for name, pid in self.services.items() if service_of(name) == "allocator"]
            below = [psutil.Process(pid).children(recursive=True) for pid in above]
        except psutil.NoSuchProcess:
            return []
        return [each.pid for several in below for each in several]

    @property
    def process_ids(self) -> list[int]:
        """Every live process of the system, the keeper first."""
        return [process.pid for process in self._processes()]

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            keeper = psutil.Process(self._process.pid)
            return [keeper, *keeper.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def start(self) -> None:
        """Returns once every service is SERVING."""
        command = [sys.executable, "-m", "allotment_testkit.services", "--until-stdin-ends"]
        command += [argument for setting in self._settings for argument in ("--set", setting)]
        command += ["--replicas", str(self._replicas)]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*command, "--dir", str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while "export " not in self.said:
            if self._process.poll() is not None:
                raise RuntimeError(f"the services ended: {self.log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the services do not serve: {self.log}")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """SIGKILL to one service; it is started again."""
        os.kill(self.services[name], signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.terminate()
        self._process.stdin.close()
        return self._process.wait(timeout=STOP_LIMIT_S)

    def close(self) -> None:
        """Nothing is left after it, whatever state the system is in."""
        if self._process is None:
            return
        left = self._processes()
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            left = self._processes()
            self._process.kill()
            self._process.wait()
        for process in left:
            # Not one that has its id by now: psutil compares when they were started.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _serves(address: str, service: str) -> bool:
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=0.5)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def services_system(folder: Path, *settings: str, replicas: int = 1) -> Iterator[ServicesSystem]:
    """A started system that is gone at the end of the block."""
    system = ServicesSystem(folder, *settings, replicas=replicas)
    try:
        system.start()
        yield system
    finally:
        system.close()


System = LocalSystem | ServicesSystem


@contextmanager
def any_system(folder: Path) -> Iterator[System]:
    """A started system of the form that the environment asks for."""
    if os.environ.get(FORM) == "services":
        with services_system(folder) as system:
            yield system
        return
    with local_system(folder) as local:
        yield local


__all__ = ["FORM", "STARTED", "ServicesSystem", "System", "any_system", "services_system"]

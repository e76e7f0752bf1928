"""Two processes of one service over a real PostgreSQL: what they say of themselves, who answers,
and what becomes of them when the other one ends or the database goes away.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc as wire
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner, load_or_create_key
from allotment_core.clock import SystemClock
from allotment_core.errors import AllotmentError
from allotment_core.names import TenantName
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.local_system import CHANNEL_OPTIONS, free_port
from allotment_testkit.postgres import (
    PostgresServer,
    fresh_database,
    own_server,
    why_unavailable,
)

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is one"),
]

FAKE_HOST = Path(__file__).with_name("allocator_fake_host.py")
SERVICE = "allotment_api.allocator.v1.LeaseService"
LIMIT_S = 60.0
TENANT = "tenants/team"


class Process:
    """`python -m allotment_allocator`."""

    def __init__(self, folder: Path, name: str, url: str) -> None:
        self.folder = folder / name
        (self.folder / "control").mkdir(parents=True)
        self._key = folder / "key.pem"
        self._signer = TokenSigner(load_or_create_key(self._key))
        self._url = url
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        settings = {
            "FAKE_CONTROL": self.folder / "control",
            "ALLOTMENT_ALLOCATOR_DATABASE_URL": self._url,
            "ALLOTMENT_ALLOCATOR_WORK_DIR": self.folder / "work",
            "ALLOTMENT_ALLOCATOR_CACHE_DIR": self.folder / "cache",
            "ALLOTMENT_ALLOCATOR_HOST_COMMAND": f"{sys.executable},-I,{FAKE_HOST}",
            "ALLOTMENT_SERVE_KEY_FILE": self._key,
            "ALLOTMENT_SERVE_ADDRESS": f"127.0.0.1:{self._port}",
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "allotment_allocator"],
                env={**os.environ, **{name: str(value) for name, value in settings.items()}},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.until(lambda: self.says(""))

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def status(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def until(self, condition: Callable[[], bool]) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < LIMIT_S, self.log
            time.sleep(0.02)
        return time.monotonic() - began

    def says(self, *names: str) -> bool:
        """Whether health says SERVING of all of them."""
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=CHANNEL_OPTIONS) as opened:
            check = opened.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answers = [
                    check(health_pb2.HealthCheckRequest(service=n), timeout=5) for n in names
                ]
            except grpc.RpcError:
                return False
        return all(a.status == health_pb2.HealthCheckResponse.SERVING for a in answers)

    def create_tenant(self) -> None:
        self._call("CreateTenant", pb.CreateTenantRequest(request_id="r", tenant_id="team"))

    def has_tenant(self) -> bool:
        return bool(self._call("GetTenant", pb.GetTenantRequest(name=TENANT)).tenant.name)

    def refusal(self) -> AllotmentError:
        with pytest.raises(grpc.RpcError) as caught:
            self.has_tenant()
        return from_rpc_error(caught.value)

    def _call(self, method: str, request: object) -> pb.GetTenantResponse:
        now = SystemClock().now()
        token = self._signer.issue("t", TenantName("local"), Role.ADMIN, 600, now)
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=CHANNEL_OPTIONS) as opened:
            call = getattr(wire.TenantServiceStub(opened), method)
            metadata = (("authorization", f"Bearer {token}"),)
            answer: pb.GetTenantResponse = call(request, metadata=metadata, timeout=15)
            return answer

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(LIMIT_S)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with own_server() as running:
        yield running


@pytest.fixture
def pair(server: PostgresServer, tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    """One that leads and one that stands by."""
    with fresh_database(server.tcp_url) as url:
        one, two = Process(tmp_path, "one", url), Process(tmp_path, "two", url)
        try:
            one.start()
            one.until(lambda: one.says("allocator"))
            two.start()
            two.until(lambda: two.says("ready"))
            yield one, two
        finally:
            one.close()
            two.close()


def test_one_serves_and_the_other_one_stands_by_until_it_may(pair: tuple[Process, Process]) -> None:
    one, two = pair
    assert one.says("", "ready", "allocator", SERVICE)
    assert two.says("", "ready")
    assert not two.says("allocator")
    assert not two.says(SERVICE)
    refused = two.refusal()
    assert refused.reason == "STANDBY"
    assert refused.retry_after_s
    one.create_tenant()
    one.send(signal.SIGTERM)
    assert one.wait() == 0
    two.until(lambda: two.says("allocator", SERVICE))
    assert two.has_tenant()
    one.start()
    one.until(lambda: one.says("ready"))
    assert not one.says("allocator")


def test_a_leader_that_is_deposed_ends_and_its_next_start_stands_by(
    pair: tuple[Process, Process],
) -> None:
    one, two = pair
    one.send(signal.SIGSTOP)
    two.until(lambda: two.says("allocator"))
    two.create_tenant()
    one.send(signal.SIGCONT)
    assert one.wait() == 3
    assert "leadership lost" in one.log
    one.start()
    one.until(lambda: one.says("ready"))
    assert one.refusal().reason == "STANDBY"


def test_an_outage_of_the_database_ends_no_process(
    pair: tuple[Process, Process], server: PostgresServer
) -> None:
    one, two = pair
    server.stop()
    try:
        one.until(lambda: not one.says("allocator"))
        time.sleep(4.0)  # the leadership runs out
        assert one.refusal().reason == "STANDBY"
        assert one.says("")
        assert two.says("")
    finally:
        server.start()
    one.until(lambda: one.says("allocator"))
    assert (one.status, two.status) == (None, None)


def test_a_start_waits_for_the_database(server: PostgresServer, tmp_path: Path) -> None:
    with fresh_database(server.tcp_url) as url:
        one = Process(tmp_path, "one", url)
        server.stop()
        try:
            one.start()
            one.until(lambda: "database not open yet" in one.log)
            assert one.status is None
            assert not one.says("ready")
            assert one.refusal().reason == "STANDBY"
        finally:
            server.start()
        one.until(lambda: one.says("ready", "allocator"))
        one.close()

"""The allocator as a process of its own: how it starts, and what is left when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc as wire
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner
from allotment_core.clock import SystemClock
from allotment_core.names import TenantName
from allotment_testkit.local_system import CHANNEL_OPTIONS, free_port, processes_of_group

FAKE_HOST = Path(__file__).with_name("allocator_fake_host.py")
HEAVY = {"torch", "sklearn", "lightgbm", "onnxruntime", "onnx", "pyarrow", "numpy", "pandas"}


class Standalone:
    """`python -m allotment_allocator` on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        (folder / "control").mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it is SERVING."""
        env = {
            **os.environ,
            "FAKE_CONTROL": str(self.folder / "control"),
            "ALLOTMENT_ALLOCATOR_DATABASE_URL": f"sqlite:///{self.folder}/allocator.db",
            "ALLOTMENT_ALLOCATOR_WORK_DIR": str(self.folder / "work"),
            "ALLOTMENT_ALLOCATOR_CACHE_DIR": str(self.folder / "cache"),
            "ALLOTMENT_ALLOCATOR_SLOTS": "2",
            "ALLOTMENT_ALLOCATOR_HOST_COMMAND": f"{sys.executable},-I,{FAKE_HOST}",
            "ALLOTMENT_SERVE_KEY_FILE": str(self.folder / "key.pem"),
            "ALLOTMENT_SERVE_ADDRESS": f"127.0.0.1:{self.port}",
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "allotment_allocator"],
                env=env,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 15
        with self.channel() as calls:
            check = calls.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            while True:
                try:
                    asked = health_pb2.HealthCheckRequest(service="allocator")
                    if check(asked, timeout=1).status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError:
                    pass
                log_text = (self.folder / "log").read_text()
                assert self.process.poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.02)

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=CHANNEL_OPTIONS)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        signer = TokenSigner((self.folder / "key.pem").read_bytes())
        token = signer.issue("t", TenantName("local"), Role.ADMIN, 600, SystemClock().now())
        return (("authorization", f"Bearer {token}"),)

    def starts(self) -> list[dict[str, object]]:
        file = self.folder / "control" / "orders"
        lines = file.read_text().splitlines() if file.exists() else []
        orders = [json.loads(line) for line in lines]
        return [order["start"] for order in orders if "start" in order]

    def wait_for_starts(self, count: int) -> list[dict[str, object]]:
        deadline = time.monotonic() + 10
        while len(self.starts()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.starts()

    def close(self) -> None:
        assert self.process is not None
        for pid in processes_of_group(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[Standalone]:
    site = Standalone(tmp_path)
    site.start()
    yield site
    site.close()


def create_lease(site: Standalone) -> pb.Lease:
    with site.channel() as calls:
        request = pb.CreateLeaseRequest(
            request_id="r", parent="tenants/local", holder="tenants/local/experiments/x"
        )
        answer = wire.LeaseServiceStub(calls).CreateLease(
            request, metadata=site.metadata(), timeout=5
        )
        return answer.lease


def test_killed_it_leaves_no_process_and_started_again_goes_on_with_the_next_epoch(
    standalone: Standalone,
) -> None:
    lease = create_lease(standalone)
    standalone.wait_for_starts(1)
    assert standalone.process is not None
    group = standalone.process.pid
    assert len(processes_of_group(group)) == 3
    standalone.process.kill()
    standalone.process.wait()
    deadline = time.monotonic() + 5
    while processes_of_group(group):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    standalone.start()
    assert create_lease(standalone) == lease
    again = standalone.wait_for_starts(2)[1]
    assert (again["lease"], again["epoch"]) == (lease.name, 2)


def test_sigterm_ends_it_with_status_0_and_all_its_processes(standalone: Standalone) -> None:
    create_lease(standalone)
    standalone.wait_for_starts(1)
    assert standalone.process is not None
    group = standalone.process.pid
    standalone.process.terminate()
    assert standalone.process.wait(timeout=15) == 0
    assert processes_of_group(group) == []


def test_it_imports_no_learning_library() -> None:
    code = "import sys, allotment_allocator.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not HEAVY & {module.partition(".")[0] for module in loaded}

"""An allocator as a process of its own whose trainers are Jobs of the cluster of $KUBECONFIG.

Fake nodes have no trainers: `Controller` renews leases by the RPC that a controller uses.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import psutil
from grpc_health.v1 import health_pb2

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc as wire
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner
from allotment_core.clock import SystemClock
from allotment_core.names import TenantName
from allotment_core.rpc.client import channel, request_id
from allotment_testkit.authority import Authority
from allotment_testkit.local_system import CHANNEL_OPTIONS, free_port

Json = dict[str, Any]
HELD, REVOKING = pb.LEASE_STATE_HELD, pb.LEASE_STATE_REVOKING
ENDED = (pb.LEASE_STATE_RELEASED, pb.LEASE_STATE_EXPIRED)
INSTANCE = "app.kubernetes.io/instance"
_START_LIMIT_S = 20.0


def why_no_cluster() -> str:
    """Empty: there is a cluster that can be used."""
    if not os.environ.get("KUBECONFIG"):
        return "no cluster: KUBECONFIG is not set"
    if shutil.which("kubectl") is None:
        return "kubectl is not on the PATH"
    asked = subprocess.run(
        ["kubectl", "get", "--raw=/readyz", "--request-timeout=10s"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if asked.returncode == 0 else f"the cluster does not answer: {asked.stderr[-300:]}"


def api_server_port() -> int:
    """Of an API server on 127.0.0.1; 0: it is elsewhere."""
    server = urlsplit(_kubeconfig()["clusters"][0]["cluster"]["server"])
    return server.port or 0 if server.hostname == "127.0.0.1" else 0


def kubeconfig_through(port: int, file: Path) -> str:
    """A copy of the kubeconfig that reaches the API server at another port of 127.0.0.1."""
    config = _kubeconfig()
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    file.write_text(json.dumps(config), encoding="utf-8")
    return str(file)


def _kubeconfig() -> Json:
    config: Json = json.loads(Kube().run("config", "view", "--raw", "--minify", "-o", "json"))
    return config


class Kube:
    """The cluster as an administrator sees it, by kubectl."""

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What it printed. Raises: AssertionError when it failed (and `check`)."""
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> list[Json]:
        """The items of `kubectl get`."""
        answer = json.loads(self.run("get", *arguments, "-o", "json"))
        items: list[Json] = answer.get("items", [answer])
        return items

    def apply(self, *objects: Json) -> None:
        self.run(
            "apply", "--server-side", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects))
        )

    def jobs(self, release: str) -> list[Json]:
        """The release's Jobs, in all namespaces."""
        return self.get("jobs", "-A", "-l", f"{INSTANCE}={release}")

    def pods(self, release: str, phase: str = "") -> list[Json]:
        """The release's pods, in all namespaces."""
        chosen = ["--field-selector", f"status.phase={phase}"] if phase else []
        return self.get("pods", "-A", "-l", f"{INSTANCE}={release}", *chosen)

    def fake_node(self, name: str, pool: str, gpus: int = 8, **labels: str) -> None:
        """A node of kwok: pods that land on it are Running at once."""
        self.apply(fake_node(name, pool, gpus, labels))
        self.run("wait", f"node/{name}", "--for=condition=Ready", "--timeout=30s")

    def fake_nodes(self, names: Sequence[str], pool: str, gpus: int = 8) -> None:
        """Many of them."""
        self.apply(*(fake_node(name, pool, gpus) for name in names))
        chosen = ("nodes", "-l", f"allotment.dev/pool={pool}")
        self.run("wait", *chosen, "--for=condition=Ready", "--timeout=120s")

    def delete_node(self, name: str) -> None:
        self.run("delete", "node", name, "--ignore-not-found")


def fake_node(name: str, pool: str, gpus: int, labels: Mapping[str, str] | None = None) -> Json:
    """A GPU node of kwok with Allotment's pool label and the usual taint; 0 GPUs: a CPU node."""
    amounts = {"cpu": "96", "memory": "768Gi", "ephemeral-storage": "2Ti", "pods": "250"}
    marks = {
        "type": "kwok",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "allotment.dev/pool": pool,
        **(labels or {}),
    }
    spec: Json = {}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
        marks = {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": pool, **marks}
        spec["taints"] = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": marks,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": spec,
        "status": {"capacity": amounts, "allocatable": amounts},
    }


class AllocatorProcess:
    """`python -m allotment_allocator` on a folder; it can be killed and started again there."""

    def __init__(self, folder: Path, release: str, settings: Mapping[str, str]) -> None:
        """`settings`: environment variables that differ from those of a small cluster."""
        self.folder = folder
        self.release = release
        self.address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = settings
        authority = folder / "ca.crt"
        if not authority.exists():
            authority.write_bytes(Authority().pem)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8")

    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(
                ("ALLOTMENT_CLUSTER_", "ALLOTMENT_ALLOCATOR_", "ALLOTMENT_SERVE_")
            )
        }
        return {
            **inherited,
            "ALLOTMENT_ALLOCATOR_DATABASE_URL": f"sqlite:///{self.folder}/allocator.db",
            "ALLOTMENT_SERVE_KEY_FILE": str(self.folder / "key.pem"),
            "ALLOTMENT_SERVE_ADDRESS": self.address,
            "ALLOTMENT_CLUSTER_RELEASE": self.release,
            "ALLOTMENT_CLUSTER_NAMESPACE": "default",
            "ALLOTMENT_CLUSTER_ACCOUNT": "default",
            "ALLOTMENT_CLUSTER_TENANT_ROLE": "view",
            "ALLOTMENT_CLUSTER_KUBECONFIG": os.environ["KUBECONFIG"],
            "ALLOTMENT_CLUSTER_TRAINER_IMAGE": "allotment/trainer:test",
            "ALLOTMENT_CLUSTER_CONTROLLER_ADDRESS": f"{self.release}-controller.default:8443",
            "ALLOTMENT_CLUSTER_DATASET_ADDRESS": f"{self.release}-dataset.default:8443",
            "ALLOTMENT_CLUSTER_CA_FILE": str(self.folder / "ca.crt"),
            **self._settings,
        }

    def start(self) -> None:
        """Returns once it is SERVING."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "allotment_allocator"],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_LIMIT_S
        with grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS) as calls:
            check = calls.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            while True:
                try:
                    answer = check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError:
                    pass
                assert self.process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)

    def kill(self) -> None:
        """As `kill -9`."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As a pod is stopped; it drains."""
        self._end(signal.SIGTERM)

    def usage(self) -> tuple[float, int]:
        """CPU seconds and resident bytes of the process."""
        assert self.process is not None
        process = psutil.Process(self.process.pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss

    def token(self, tenant: str = "default", role: Role = Role.ADMIN) -> str:
        signer = TokenSigner((self.folder / "key.pem").read_bytes())
        return signer.issue("test", TenantName(tenant), role, 24 * 3600, SystemClock().now())

    def channel(self) -> grpc.aio.Channel:
        """With an admin's token."""
        return channel(self.address, token=self.token())

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)


class Controller:
    """Asks for leases and renews what is granted, as the controller does.

    `leases` has every lease as it was last seen, ended ones too; it survives the allocator's
    absence, and goes on when it is back.
    """

    def __init__(self, calls: grpc.aio.Channel, renew_every_s: float = 5.0) -> None:
        self.tenants = wire.TenantServiceStub(calls)
        self.pools = wire.PoolServiceStub(calls)
        self.service = wire.LeaseServiceStub(calls)
        self.leases: dict[str, pb.Lease] = {}
        self.history: list[pb.Lease] = []
        """Every change that was seen, in order."""
        self.renewing = True
        self._renew_every_s = renew_every_s
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    async def create_tenant(self, tenant_id: str, **terms: Any) -> str:
        tenant = pb.Tenant(**terms)
        request = pb.CreateTenantRequest(
            request_id=request_id(), tenant_id=tenant_id, tenant=tenant
        )
        return (await self.tenants.CreateTenant(request)).tenant.name

    async def ask(
        self,
        tenant: str,
        experiment: str = "x",
        slots: int = 1,
        count: int = 1,
        shape: pb.Shape | None = None,
    ) -> list[str]:
        """Names of new leases. `tenant`: its id; `shape`: CPU slots by default."""
        parent = f"tenants/{tenant}"
        requests = [
            pb.CreateLeaseRequest(
                request_id=request_id(),
                parent=parent,
                holder=f"{parent}/experiments/{experiment}",
                slot_count=slots,
                shape=shape,
            )
            for _ in range(count)
        ]
        names = []
        for start in range(0, count, 32):
            answers = await asyncio.gather(
                *(self.service.CreateLease(each) for each in requests[start : start + 32])
            )
            names += [answer.lease.name for answer in answers]
            for answer in answers:
                self._note(answer.lease)
        return names

    async def release(self, *names: str) -> None:
        for name in names:
            await self.service.ReleaseLease(
                pb.ReleaseLeaseRequest(request_id=request_id(), name=name)
            )

    def held(self, tenant: str = "", pool: str = "") -> list[pb.Lease]:
        """Granted leases, of one tenant or pool if named by id."""
        return [
            lease
            for lease in self.leases.values()
            if lease.state in (HELD, REVOKING)
            and (not tenant or lease.name.startswith(f"tenants/{tenant}/"))
            and (not pool or lease.pool == f"pools/{pool}")
        ]

    async def until(self, fact: Callable[[], bool], limit_s: float = 30.0) -> None:
        """Waits for changes of leases until the fact holds, and looks ten times a second."""
        deadline = time.monotonic() + limit_s
        while not fact():
            assert time.monotonic() < deadline, "\n".join(map(str, [*self.leases.values()][:5]))
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), 0.1)
            except TimeoutError:
                continue

    async def __aenter__(self) -> "Controller":
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._renew())]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _note(self, lease: pb.Lease) -> None:
        known = self.leases.get(lease.name)
        if known is None or known.state not in ENDED:
            self.leases[lease.name] = lease
            self.history.append(lease)
            self._changed.set()

    async def _watch(self) -> None:
        while True:
            there: set[str] | None = set()
            try:
                request = pb.WatchLeasesRequest(parent="tenants/-")
                async for seen in self.service.WatchLeases(request):
                    if seen.snapshot_end:
                        await self._look_up(set(self.leases) - (there or set()))
                        there = None
                        continue
                    if there is not None:
                        there.add(seen.lease.name)
                    self._note(seen.lease)
            except grpc.RpcError:
                await asyncio.sleep(0.1)

    async def _look_up(self, absent: set[str]) -> None:
        """Leases that ended while nobody watched."""
        for name in absent:
            if self.leases[name].state not in ENDED:
                answer = await self.service.GetLease(pb.GetLeaseRequest(name=name))
                self._note(answer.lease)

    async def _renew(self) -> None:
        while True:
            renewals = [
                pb.LeaseRenewal(name=lease.name, epoch=lease.epoch)
                for lease in self.leases.values()
                if lease.state in (HELD, REVOKING)
            ]
            for start in range(0, len(renewals) if self.renewing else 0, 1000):
                request = pb.RenewLeasesRequest(
                    request_id=request_id(), renewals=renewals[start : start + 1000]
                )
                try:
                    await self.service.RenewLeases(request, timeout=10)
                except grpc.RpcError:
                    break
            await asyncio.sleep(self._renew_every_s)


async def until(fact: Callable[[], bool | Awaitable[bool]], limit_s: float = 30.0) -> None:
    """Asks five times a second until the fact holds."""
    deadline = time.monotonic() + limit_s
    while True:
        answer = fact()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        await asyncio.sleep(0.2)


@contextmanager
def allocator(folder: Path, **settings: str) -> Iterator[AllocatorProcess]:
    """A running allocator of a release of its own; what it made goes with it."""
    release = f"t{uuid.uuid4().hex[:8]}"
    running = AllocatorProcess(folder, release, settings)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        kube = Kube()
        chosen = ("-l", f"{INSTANCE}={release}", "--ignore-not-found", "--wait=false")
        for kind in ("jobs", "pods"):
            kube.run("delete", kind, "-A", *chosen, check=False)
        kube.run("delete", "namespaces", *chosen, check=False)


@asynccontextmanager
async def controller_of(
    running: AllocatorProcess, renew_every_s: float = 5.0
) -> AsyncIterator[Controller]:
    """A controller that is connected, once the allocator knows the cluster."""
    async with running.channel() as calls, Controller(calls, renew_every_s) as controller:
        # Repeated while the allocator does not know the cluster yet.
        await controller.pools.ListPools(pb.ListPoolsRequest())
        yield controller

"""Trouble for an allocator on a cluster, and what must not come of it.

Its trainers are pods of fake nodes, which are gone at once when they are deleted.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import grpc
import psutil

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import (
    HELD,
    REVOKING,
    AllocatorProcess,
    Controller,
    Json,
    Kube,
    api_server_port,
)

LEASE, EPOCH = "allotment.dev/lease", "allotment.dev/epoch"
_GPU = "nvidia.com/gpu"
ORPHANS_GONE_S = 30.0
_SETTLED_S = 300.0


@dataclass(slots=True)
class Findings:
    """What went wrong, in words, and how long each return took."""

    doubled: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.doubled or self.orphans or self.lost)


async def all_leases(controller: Controller) -> list[pb.Lease]:
    """Those that have not ended, as the allocator has stored them."""
    leases: list[pb.Lease] = []
    token = ""
    while True:
        answer = await controller.service.ListLeases(
            pb.ListLeasesRequest(parent="tenants/-", page_size=1000, page_token=token)
        )
        leases += answer.leases
        token = answer.next_page_token
        if not token:
            return leases


def over_capacity(leases: Iterable[pb.Lease], gpus_of_node: Mapping[str, int]) -> list[str]:
    """Nodes of which more is granted than they have."""
    granted: Counter[str] = Counter()
    for lease in leases:
        if lease.state in (HELD, REVOKING):
            granted[lease.node] += lease.slot_count
    return [
        f"{node}: {slots} GPUs are granted of {gpus_of_node.get(node, 0)}"
        for node, slots in granted.items()
        if slots > gpus_of_node.get(node, 0)
    ]


def doubled_pods(pods: Sequence[Json], gpus_of_node: Mapping[str, int]) -> list[str]:
    """Leases with two pods that run, and nodes with more GPUs in use than they have."""
    alive = [
        pod
        for pod in pods
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]
    by_lease = Counter(pod["metadata"]["labels"][LEASE] for pod in alive)
    used: Counter[str] = Counter()
    for pod in alive:
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        used[pod["spec"]["nodeName"]] += int(limits.get(_GPU, 0))
    return [
        *(f"{lease} has {count} pods" for lease, count in by_lease.items() if count > 1),
        *(
            f"{node}: {count} GPUs are in use"
            for node, count in used.items()
            if count > gpus_of_node.get(node, 0)
        ),
    ]


def orphan_jobs(jobs: Iterable[Json], leases: Iterable[pb.Lease]) -> list[str]:
    """Jobs that have not ended and are of no granted lease at its epoch."""
    wanted = {
        (lease.name.rpartition("/")[2], str(lease.epoch))
        for lease in leases
        if lease.state in (HELD, REVOKING)
    }
    return [
        f"{job['metadata']['namespace']}/{job['metadata']['name']}"
        for job in jobs
        if "deletionTimestamp" not in job["metadata"]
        and not any(
            c["type"] in ("Complete", "Failed") and c["status"] == "True"
            for c in job["status"].get("conditions") or ()
        )
        and (job["metadata"]["labels"][LEASE], job["metadata"]["labels"][EPOCH]) not in wanted
    ]


def gpus_of_nodes(kube: Kube) -> dict[str, int]:
    return {
        node["metadata"]["name"]: int(node["status"]["allocatable"].get(_GPU, 0))
        for node in kube.get("nodes")
    }


@contextmanager
def _busy(task: "asyncio.Task[None]") -> Iterator[None]:
    try:
        yield
    finally:
        task.cancel()


async def churn(
    controller: Controller, tenants: Sequence[str], wanted: int, shape: pb.Shape, rng: random.Random
) -> None:
    """Keeps about so many leases, and changes some of them all the time. Until cancelled."""
    while True:
        with suppress(grpc.RpcError, KeyError):
            held = controller.held()
            for lease in rng.sample(held, min(len(held), rng.randrange(1, 6))):
                await controller.release(lease.name)
            live = [
                lease
                for lease in controller.leases.values()
                if lease.state in (pb.LEASE_STATE_QUEUED, HELD)
            ]
            missing = min(8, wanted - len(live))
            if missing > 0:
                await controller.ask(rng.choice(tenants), count=missing, shape=shape)
        await asyncio.sleep(rng.uniform(0.02, 0.2))


async def kill_often(
    kube: Kube,
    running: AllocatorProcess,
    controller: Controller,
    *,
    kills: int,
    leases: int,
    shape: pb.Shape,
    seed: int = 0,
) -> Findings:
    """kill -9 of the allocator at random moments, while leases come and go."""
    rng, findings, gpus = random.Random(seed), Findings(), gpus_of_nodes(kube)
    tenants = ["acme", "beta", "ceres"]
    for tenant in tenants:
        await controller.create_tenant(tenant)
    for tenant in tenants:
        await controller.ask(tenant, count=leases // 3, shape=shape)
    await controller.until(lambda: _at_work(controller) >= leases // 3 * 3, limit_s=_SETTLED_S)
    with _busy(asyncio.create_task(churn(controller, tenants, leases, shape, rng))):
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(0.1, 3.0))
            findings.back_s.append(await killed(running, controller))
            findings.doubled += over_capacity(await all_leases(controller), gpus)
    await _settle(kube, running, controller, findings)
    return findings


def _at_work(controller: Controller) -> int:
    """Granted leases whose trainer runs."""
    return sum(not lease.HasField("wait") for lease in controller.held())


async def killed(running: AllocatorProcess, controller: Controller) -> float:
    """Seconds from its start until it knows the cluster and answers again."""
    running.kill()
    began = time.monotonic()
    await asyncio.to_thread(running.start)
    while True:
        try:
            await controller.pools.ListPools(pb.ListPoolsRequest(), timeout=5)
            break
        except grpc.RpcError:
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def _settle(
    kube: Kube, running: AllocatorProcess, controller: Controller, findings: Findings
) -> None:
    """Every Job is that of a lease soon, and every lease has its one pod in the end."""
    gpus, since = gpus_of_nodes(kube), time.monotonic()
    while True:
        jobs = await asyncio.to_thread(kube.jobs, running.release)
        orphans = orphan_jobs(jobs, await all_leases(controller))
        if not orphans:
            break
        if time.monotonic() - since > ORPHANS_GONE_S:
            findings.orphans += orphans
            break
        await asyncio.sleep(1)
    while True:
        leases = await all_leases(controller)
        pods = await asyncio.to_thread(kube.pods, running.release)
        findings.doubled += over_capacity(leases, gpus) + doubled_pods(pods, gpus)
        alive = {
            pod["metadata"]["labels"][LEASE] for pod in pods if pod["status"]["phase"] == "Running"
        }
        without = {lease.name for lease in leases if lease.state == HELD} - {
            lease.name for lease in leases if lease.name.rpartition("/")[2] in alive
        }
        if not without or findings.doubled:
            return
        if time.monotonic() - since > _SETTLED_S:
            findings.lost += sorted(without)
            return
        await asyncio.sleep(2)


def api_server() -> psutil.Process | None:
    """The process of the API server, where it is one of this machine's."""
    port = api_server_port()
    if not port:
        return None
    for connection in psutil.net_connections("tcp"):
        listening = connection.status == psutil.CONN_LISTEN
        if listening and connection.laddr and connection.laddr.port == port:
            return None if connection.pid is None else psutil.Process(connection.pid)
    return None


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """It holds its connections and answers nothing."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


async def outage(
    kube: Kube,
    running: AllocatorProcess,
    controller: Controller,
    server: psutil.Process,
    *,
    leases: int,
    seconds: float,
    shape: pb.Shape,
) -> Findings:
    """The API server is stopped for a while; some leases end then, and others are asked for."""
    findings, gpus = Findings(), gpus_of_nodes(kube)
    await controller.create_tenant("acme")
    names = await controller.ask("acme", count=leases, shape=shape)
    await controller.until(
        lambda: all(
            controller.leases[n].state == HELD and not controller.leases[n].HasField("wait")
            for n in names
        ),
        limit_s=_SETTLED_S,
    )
    ending, staying = names[: leases // 8], names[leases // 8 :]
    with stopped(server):
        until_s = time.monotonic() + seconds
        await controller.release(*ending)
        await controller.ask("acme", count=leases // 4, shape=shape)
        while time.monotonic() < until_s:
            findings.doubled += over_capacity(await all_leases(controller), gpus)
            await asyncio.sleep(1)
    began = time.monotonic()
    await _settle(kube, running, controller, findings)
    findings.back_s.append(time.monotonic() - began)
    for name in staying:
        lease = controller.leases[name]
        if lease.state != HELD or lease.epoch != 1:
            findings.lost.append(f"{name} is {lease.state} at epoch {lease.epoch}")
    return findings

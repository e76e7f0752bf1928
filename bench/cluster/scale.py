"""Thousands of leases at once: from the first demand to the last pod Running.

Both arms put as many one-GPU pods of the same shape on the cluster of $KUBECONFIG, which has to be
empty, and look once a second. The bare one is a single `kubectl create` of a file of Jobs.
"""

import argparse
import asyncio
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from allotment_allocator.adapters.kube.jobs import JobRules, make_job
from allotment_allocator.domain.pool import GPU, Place
from allotment_allocator.domain.ports import TrainerOrder
from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_core.names import LeaseName, PoolName, TenantName
from allotment_testkit.cluster_allocator import (
    INSTANCE,
    AllocatorProcess,
    Controller,
    Kube,
    allocator,
    controller_of,
    why_no_cluster,
)
from bench.cluster.pods import Climb, PodCounter, climb

LIMIT = 1.1
RENEWED_EVERY_S = 15.0
"""As the controller does: a quarter of the time to live."""
_LONGEST_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """The allocator's arm."""

    climb: Climb
    asked_s: float
    """Until the last CreateLease was answered."""
    cpu_s: float
    resident_bytes: int


def bare(folder: Path, pods: int, experiments: int) -> float:
    """Jobs from one kubectl, in as many namespaces as there are experiments. Seconds."""
    kube, release = Kube(), f"bare-{time.time():.0f}"
    namespaces = [f"{release}-{n}" for n in range(experiments)]
    labels = {INSTANCE: release}
    for name in namespaces:
        metadata = {"name": name, "labels": labels}
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        account = {"name": "allotment-trainer", "namespace": name}
        kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    jobs = folder / "jobs.json"
    items = [_bare_job(n, namespaces[n % experiments], release) for n in range(pods)]
    jobs.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    since = time.monotonic()
    with (folder / "kubectl.log").open("wb") as log:
        kubectl = subprocess.Popen(["kubectl", "create", "-f", str(jobs)], stdout=log, stderr=log)

    def watch() -> None:
        if kubectl.poll():
            raise RuntimeError((folder / "kubectl.log").read_text()[-500:])

    try:
        climbed = climb(f"{INSTANCE}={release}", pods, since, _LONGEST_S, watch)
        _report("bare", climbed)
        return climbed.seconds
    finally:
        kubectl.kill()
        kubectl.wait()
        for name in namespaces:
            collection = f"/apis/batch/v1/namespaces/{name}/jobs?propagationPolicy=Background"
            kube.run("delete", "--raw", collection)
        _until_gone(f"{INSTANCE}={release}")
        for name in namespaces:
            kube.run("delete", "namespace", name, "--wait=false")


def _bare_job(number: int, namespace: str, release: str) -> dict[str, object]:
    """What the allocator makes, on any node of the pool."""
    order = TrainerOrder(
        trainer_id=f"t-{number:010d}",
        lease=LeaseName(TenantName("bare"), f"l-{number:010d}"),
        epoch=1,
        slot_count=1,
        place=Place(PoolName("h100"), "+1"),
        resource=GPU,
        server="",
        token="",
        threads=4,
        memory_bytes=16 << 30,
        cache_dir=Path("/"),
    )
    rules = JobRules(release=release, home="default", image="allotment/trainer:test")
    job = make_job(order, rules, GPU)
    job["metadata"]["namespace"] = namespace
    return job


def _until_gone(selector: str) -> None:
    counter, deadline = PodCounter(), time.monotonic() + _LONGEST_S
    while counter.count(selector):
        if time.monotonic() > deadline:
            raise RuntimeError("pods of the last arm are still there")
        time.sleep(2)
    time.sleep(5)


async def _ask(controller: Controller, experiments: int, each: int, pool: str) -> None:
    shape = pb.Shape(resource="gpu", pool=f"pools/{pool}" if pool else "")
    await asyncio.gather(
        *(controller.ask(f"tenant-{n}", "x", count=each, shape=shape) for n in range(experiments))
    )


async def _ours(running: AllocatorProcess, pods: int, experiments: int, pool: str) -> Ours:
    async with controller_of(running, RENEWED_EVERY_S) as controller:
        for n in range(experiments):
            await controller.create_tenant(f"tenant-{n}")
        cpu_before, _ = running.usage()
        since = time.monotonic()
        asking = asyncio.create_task(_ask(controller, experiments, pods // experiments, pool))
        selector = f"{INSTANCE}={running.release}"
        climbing = asyncio.to_thread(
            climb, selector, pods, since, _LONGEST_S, lambda: _still_asking(asking)
        )
        climbing_task = asyncio.ensure_future(climbing)
        await asking
        asked_s = time.monotonic() - since
        climbed = await climbing_task
        cpu_s, resident_bytes = running.usage()
    return Ours(
        climb=climbed, asked_s=asked_s, cpu_s=cpu_s - cpu_before, resident_bytes=resident_bytes
    )


def _still_asking(asking: "asyncio.Task[None]") -> None:
    if asking.done() and asking.exception() is not None:
        raise RuntimeError("asking for leases failed") from asking.exception()


def ours(folder: Path, pods: int, experiments: int, pool: str) -> float:
    """Leases of an allocator in a process of its own. Seconds."""
    with allocator(folder) as running:
        release = running.release
        found = asyncio.run(_ours(running, pods, experiments, pool))
        _report(
            "ours",
            found.climb,
            f"; asked for in {found.asked_s:.1f} s, the allocator took {found.cpu_s:.1f} s of CPU "
            f"and {found.resident_bytes / 1e6:.0f} MB",
        )
    _until_gone(f"{INSTANCE}={release}")
    return found.climb.seconds


def _report(arm: str, climbed: Climb, more: str = "") -> None:
    pods = climbed.counts[-1][1]
    print(
        f"{arm}: {pods} pods Running after {climbed.seconds:.1f} s (half of them after "
        f"{climbed.reached(pods // 2):.1f} s){more}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=3600, help="of all experiments together")
    parser.add_argument("--experiments", type=int, default=3)
    parser.add_argument("--pool", default="", help="the one pool that leases are asked for in")
    parser.add_argument("--rounds", type=int, default=1, help="of both arms, in turn")
    parser.add_argument("--only", choices=("ours", "bare"))
    chosen = parser.parse_args()
    if reason := why_no_cluster():
        raise SystemExit(reason)
    fastest = {"bare": float("inf"), "ours": float("inf")}
    for number in range(chosen.rounds):
        order = ("bare", "ours") if number % 2 == 0 else ("ours", "bare")
        for arm in order:
            if chosen.only not in (None, arm):
                continue
            with tempfile.TemporaryDirectory() as folder:
                if arm == "bare":
                    seconds = bare(Path(folder), chosen.pods, chosen.experiments)
                else:
                    seconds = ours(Path(folder), chosen.pods, chosen.experiments, chosen.pool)
            fastest[arm] = min(fastest[arm], seconds)
    if chosen.only is None:
        ratio = fastest["ours"] / fastest["bare"]
        print(f"ratio {ratio:.2f} (limit {LIMIT})")
        if ratio > LIMIT:
            raise SystemExit(1)


if __name__ == "__main__":
    main()

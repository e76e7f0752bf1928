"""The pools of a cluster, while it speaks and while it is silent."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from allotment_allocator.adapters.kube.supply import ClusterPools
from allotment_allocator.domain.cluster import PoolRules
from allotment_allocator.domain.pool import NodeState

Json = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)


class ShiftedClock:
    """The real one, moved by hand: it is compared with when something was heard."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


class ApiServer:
    """Nodes and pods as they are listed; `events` has what watches tell."""

    def __init__(self, nodes: list[Json], pods: list[Json]) -> None:
        self.heard_at = time.monotonic()
        self.lists = {"/api/v1/nodes": nodes, "/api/v1/pods": pods}
        self.events: dict[str, asyncio.Queue[Json]] = {p: asyncio.Queue() for p in self.lists}

    async def get(self, path: str, **_params: str) -> Json:
        return {"items": self.lists[path], "metadata": {"resourceVersion": "1"}}

    async def watch(
        self, path: str, _silence_s: float, on_open: Callable[[], None], **_params: str
    ) -> AsyncIterator[Json]:
        on_open()
        while True:
            yield await self.events[path].get()


def node(name: str, ready: bool = True, **labels: str) -> Json:
    condition = {
        "type": "Ready",
        "status": "True" if ready else "Unknown",
        "lastTransitionTime": START.isoformat(),
    }
    return {
        "metadata": {"name": name, "labels": labels, "resourceVersion": "2"},
        "status": {
            "allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110"},
            "conditions": [condition],
        },
    }


def pod(name: str, cpu: str, phase: str = "Running", **labels: str) -> Json:
    return {
        "metadata": {
            "name": name,
            "namespace": "x",
            "uid": name,
            "labels": labels,
            "resourceVersion": "2",
        },
        "spec": {
            "nodeName": "a",
            "containers": [{"resources": {"requests": {"cpu": cpu}}}],
        },
        "status": {"phase": phase},
    }


@asynccontextmanager
async def followed(api: Any, clock: ShiftedClock) -> AsyncIterator[ClusterPools]:
    pools = ClusterPools(api, "r", "h", PoolRules(), clock)
    tasks = [asyncio.create_task(each.run()) for each in (pools.nodes, pools.pods)]
    await pools.nodes.synced.wait()
    await pools.pods.synced.wait()
    await settled()
    try:
        yield pools
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def slots(pools: ClusterPools) -> dict[str, int]:
    pools.look()
    return {n.name: n.slot_count for pool in pools.pools or () for n in pool.nodes}


def states(pools: ClusterPools) -> dict[str, NodeState]:
    pools.look()
    return {n.name: n.state for pool in pools.pools or () for n in pool.nodes}


async def test_what_others_use_is_followed_and_our_trainers_are_not_counted() -> None:
    ours = {"app.kubernetes.io/instance": "r", "allotment.dev/home": "h"}
    trainer = pod("t", "4", **ours, **{"allotment.dev/lease": "l"})
    api = ApiServer([node("a")], [pod("p", "2"), trainer])
    async with followed(api, ShiftedClock()) as pools:
        assert pools.pools is None
        assert slots(pools) == {"a": 6}
        events = api.events["/api/v1/pods"]
        events.put_nowait({"type": "ADDED", "object": pod("q", "3")})
        await settled()
        assert slots(pools) == {"a": 3}
        events.put_nowait({"type": "MODIFIED", "object": pod("q", "3", "Succeeded")})
        events.put_nowait({"type": "DELETED", "object": pod("p", "2")})
        await settled()
        assert slots(pools) == {"a": 8}


async def test_a_node_that_is_not_understood_is_left_out() -> None:
    odd = node("odd")
    odd["status"]["allocatable"]["cpu"] = "many"
    async with followed(ApiServer([node("a"), odd], []), ShiftedClock()) as pools:
        assert slots(pools) == {"a": 8}


async def test_in_silence_nothing_is_lost_and_nothing_new_is_granted() -> None:
    clock = ShiftedClock()
    nodes = [node("a", pool="p"), node("b", ready=False), node("c"), node("d")]
    api = ApiServer(nodes, [])
    async with followed(api, clock) as pools:
        assert states(pools)["b"] is NodeState.AWAY
        clock.ahead_s = 60
        assert set(states(pools).values()) == {NodeState.AWAY}
        assert pools.silent
        api.heard_at = clock.monotonic()
        after = states(pools)
        assert (after["a"], after["b"]) == (NodeState.OPEN, NodeState.LOST)
        assert not pools.silent

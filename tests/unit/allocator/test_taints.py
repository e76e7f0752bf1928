"""Marks of nodes that tenants have alone."""

from copy import deepcopy
from typing import Any

import pytest

from allotment_allocator.adapters.kube.nodes import trim_node
from allotment_allocator.adapters.kube.taints import NodeMarks, nodes_alone
from allotment_allocator.domain.lease import Lease
from allotment_allocator.domain.pool import Place
from allotment_allocator.domain.ports import Trainer, TrainerState
from allotment_core.errors import Aborted, FailedPrecondition, NotFound
from allotment_core.names import ExperimentName, LeaseName, PoolName, TenantName
from allotment_testkit.pool_market import START

ACME, BETA = TenantName("acme"), TenantName("beta")
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


class Nodes:
    """An API server with nodes, and the informer that follows it."""

    def __init__(self, *names: str) -> None:
        self.there = {
            name: {
                "metadata": {
                    "name": name,
                    "resourceVersion": "1",
                    "labels": {"zone": "z"},
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                },
                "spec": {"taints": [GPU_TAINT]},
            }
            for name in names
        }
        self.conflicts = 0
        self.patches = 0

    @property
    def objects(self) -> dict[str, Any]:
        return {name: trim_node(node) for name, node in self.there.items()}

    async def get(self, path: str) -> dict[str, Any]:
        name = path.rpartition("/")[2]
        if name not in self.there:
            raise NotFound(name)
        return deepcopy(self.there[name])

    async def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.patches += 1
        node: dict[str, Any] = self.there[path.rpartition("/")[2]]
        metadata = node["metadata"]
        if self.conflicts or body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            self.conflicts -= 1
            raise Aborted("changed meanwhile")
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        for key, value in body["metadata"]["labels"].items():
            if value is None:
                metadata["labels"].pop(key, None)
            else:
                metadata["labels"][key] = value
        node["spec"]["taints"] = body["spec"]["taints"] or []
        return node

    def mark(self, name: str) -> tuple[list[str], str | None]:
        node: dict[str, Any] = self.there[name]
        taints = [f"{t['key']}={t['value']}:{t['effect']}" for t in node["spec"]["taints"]]
        return taints, node["metadata"]["labels"].get("allotment.dev/dedicated")


PLAIN = (["nvidia.com/gpu=present:NoSchedule"], None)
MARKED = ([*PLAIN[0], "allotment.dev/dedicated=r.acme:NoSchedule"], "r.acme")


def marks(nodes: Nodes, wanted: dict[str, TenantName], home: str = "ns") -> NodeMarks:
    return NodeMarks(nodes, "r", home, nodes, lambda: wanted)  # type: ignore[arg-type]


async def test_a_node_is_marked_while_it_is_wanted_and_exactly_then() -> None:
    nodes, wanted = Nodes("a", "b"), {"a": ACME}
    keeping = marks(nodes, wanted)
    await keeping.look()
    assert (nodes.mark("a"), nodes.mark("b")) == (MARKED, PLAIN)
    await keeping.look()
    assert nodes.patches == 1
    wanted.clear()
    await keeping.look()
    assert nodes.mark("a") == PLAIN
    assert nodes.there["a"]["metadata"]["labels"] == {"zone": "z"}  # type: ignore[index]


async def test_what_an_earlier_allocator_left_is_put_right() -> None:
    nodes = Nodes("a", "b")
    await marks(nodes, {"a": ACME, "b": BETA}).look()
    await marks(nodes, {"b": ACME}).look()
    assert (nodes.mark("a"), nodes.mark("b")) == (PLAIN, MARKED)


async def test_half_a_mark_is_made_whole() -> None:
    nodes = Nodes("a")
    await marks(nodes, {"a": ACME}).look()
    nodes.there["a"]["spec"]["taints"] = []  # type: ignore[index]
    await marks(nodes, {"a": ACME}).look()
    assert nodes.mark("a")[0] == ["allotment.dev/dedicated=r.acme:NoSchedule"]


async def test_marks_of_another_release_are_left_alone() -> None:
    nodes = Nodes("a")
    await marks(nodes, {"a": ACME}, home="elsewhere").look()
    ours = marks(nodes, {})
    await ours.look()
    assert nodes.mark("a") == MARKED
    with pytest.raises(FailedPrecondition, match="another release"):
        await ours.ensure("a", BETA)
    assert nodes.mark("a") == MARKED


async def test_a_node_that_somebody_else_changes_meanwhile_is_read_again() -> None:
    nodes = Nodes("a")
    nodes.conflicts = 2
    await marks(nodes, {}).ensure("a", ACME)
    assert nodes.mark("a") == MARKED
    await marks(nodes, {}).ensure("gone", ACME)


def lease(tenant: TenantName, node: str, *, alone: bool) -> Lease:
    made = Lease(
        name=LeaseName(tenant, f"l-{node}"),
        holder=ExperimentName(tenant, "x"),
        slot_count=1,
        create_time=START,
    ).granted_at(Place(PoolName("p"), node), START, 60)
    return made.charged(8, START) if alone else made


def trainer(tenant: TenantName, node: str, *, alone: bool) -> Trainer:
    return Trainer(
        trainer_id="t",
        tenant=tenant,
        slot_count=1,
        place=Place(PoolName("p"), node),
        lease=LeaseName(tenant, "l-old"),
        epoch=1,
        state=TrainerState.LEAVING,
        since_s=0.0,
        alone=alone,
    )


def test_a_node_is_a_tenants_while_its_leases_or_its_trainers_are_there() -> None:
    leases = [lease(ACME, "a", alone=True), lease(BETA, "b", alone=False)]
    assert nodes_alone(leases, [trainer(ACME, "c", alone=True)]) == {"a": ACME, "c": ACME}


def test_a_node_that_others_are_still_on_is_nobodys() -> None:
    leases = [lease(ACME, "a", alone=True)]
    assert nodes_alone(leases, [trainer(BETA, "a", alone=False)]) == {}

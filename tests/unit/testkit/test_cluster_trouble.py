"""What the tests on a cluster take for a fault."""

from typing import Any

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_trouble import doubled_pods, orphan_jobs, over_capacity

HELD, ENDED = pb.LEASE_STATE_HELD, pb.LEASE_STATE_RELEASED
Json = dict[str, Any]


def lease(lease_id: str, *, node: str = "n", slots: int = 1, state: int = HELD) -> pb.Lease:
    return pb.Lease(
        name=f"tenants/a/leases/{lease_id}",
        node=node,
        slot_count=slots,
        epoch=1,
        state=state,  # type: ignore[arg-type]
    )


def pod(lease_id: str, *, node: str = "n", gpus: int = 1, leaving: bool = False) -> Json:
    metadata: Json = {"labels": {"allotment.dev/lease": lease_id}}
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    limits = {"nvidia.com/gpu": str(gpus)}
    spec = {"nodeName": node, "containers": [{"resources": {"limits": limits}}]}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}


def job(lease_id: str, epoch: int = 1, ended: bool = False) -> Json:
    labels = {"allotment.dev/lease": lease_id, "allotment.dev/epoch": str(epoch)}
    conditions = [{"type": "Complete", "status": "True"}] if ended else []
    return {
        "metadata": {"namespace": "x", "name": f"{lease_id}-{epoch}", "labels": labels},
        "status": {"conditions": conditions},
    }


def test_more_slots_than_a_node_has_are_a_fault() -> None:
    leases = [lease("l1", slots=3), lease("l2", slots=2), lease("l3", state=ENDED)]
    assert over_capacity(leases, {"n": 5}) == []
    assert over_capacity(leases, {"n": 4}) == ["n: 5 GPUs are granted of 4"]


def test_two_pods_of_a_lease_are_a_fault_unless_one_is_leaving() -> None:
    assert doubled_pods([pod("l1"), pod("l1", leaving=True)], {"n": 2}) == []
    assert doubled_pods([pod("l1"), pod("l1")], {"n": 2}) == ["l1 has 2 pods"]
    assert doubled_pods([pod("l1", gpus=2), pod("l2")], {"n": 2}) == ["n: 3 GPUs are in use"]


def test_a_job_of_no_lease_or_of_an_older_epoch_is_an_orphan() -> None:
    leases = [lease("l1"), lease("l2", state=ENDED)]
    jobs = [job("l1"), job("l1", epoch=2), job("l2"), job("l3", ended=True)]
    assert orphan_jobs(jobs, leases) == ["x/l1-2", "x/l2-1"]

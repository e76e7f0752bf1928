"""Tenants whose trainers a queue of the cluster admits."""

from dataclasses import replace
from datetime import timedelta

import pytest

from allotment_allocator.domain.apart import divide
from allotment_allocator.domain.lease import Lease, LeaseState
from allotment_allocator.domain.pool import (
    ANYWHERE,
    GPU,
    Node,
    NodeState,
    Place,
    Pool,
    PoolKind,
    Wanted,
)
from allotment_allocator.domain.ports import Trainer, TrainerState
from allotment_allocator.domain.queueing import Queueing, submit, without_queued
from allotment_allocator.domain.snapshot import Claim, Decision, Holding, Snapshot
from allotment_allocator.domain.staffing import Scene, Setback, Staffing, StaffRules, plan
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import PoolName
from allotment_testkit.pool_market import START, experiment, lease_name, tenant

ANY = Wanted(resource=GPU)
A, B, C = tenant("a"), tenant("b"), tenant("c")
P = PoolName("p")
SOMEWHERE = Place(P, ANYWHERE)
QUEUES = Queueing(by_tenant={"a": "team-a", "b": "team-b"}, pending_limit=2)


def claim(number: int, holder: str, slots: int = 1) -> Claim:
    who = experiment(holder)
    return Claim(
        lease=lease_name(number, who),
        holder=who,
        slot_count=slots,
        create_time=START + timedelta(seconds=number),
        waited_s=0.0,
        wanted=ANY,
    )


def holding(number: int, holder: str, place: Place = SOMEWHERE) -> Holding:
    who = experiment(holder)
    return Holding(
        lease=lease_name(number, who),
        holder=who,
        slot_count=1,
        held_s=100.0,
        place=place,
        by_queue=True,
        wanted=ANY,
    )


def decided(
    queued: list[Claim], held: list[Holding] | None = None, *nodes: Node, **terms: Terms
) -> Decision:
    pool = Pool(
        name=P,
        nodes=nodes or (Node(name="n0", slot_count=1),),
        kind=PoolKind.NODES,
        resource=GPU,
    )
    snapshot = Snapshot(
        pools=(pool,),
        terms={tenant(name): value for name, value in terms.items()},
        queued=tuple(queued),
        held=tuple(held or ()),
    )
    return submit(snapshot, divide(without_queued(snapshot, QUEUES)), QUEUES)


def test_what_a_queue_admits_is_submitted_in_our_order_up_to_its_limit() -> None:
    decision = decided([claim(n, "a/x") for n in range(1, 4)])
    assert decision.grants == {}
    assert list(decision.submissions) == [lease_name(n, experiment("a/x")) for n in (1, 2)]
    assert set(decision.submissions.values()) == {SOMEWHERE}
    [wait] = decision.waits.values()
    assert wait.reason == "QUEUE_LIMIT"


def test_what_waits_in_a_queue_already_counts() -> None:
    decision = decided([claim(5, "a/x"), claim(6, "b/x")], [holding(1, "a/x"), holding(2, "a/x")])
    assert list(decision.submissions) == [lease_name(6, experiment("b/x"))]


def test_a_tenants_quota_binds_in_a_queue_too() -> None:
    decision = decided([claim(5, "a/x")], [holding(1, "a/x")], a=Terms(quota_slots=1))
    assert [wait.reason for wait in decision.waits.values()] == ["QUOTA"]


def test_tenants_without_a_queue_are_divided_as_ever() -> None:
    decision = decided([claim(1, "c/x"), claim(2, "a/x")])
    assert list(decision.grants) == [lease_name(1, experiment("c/x"))]
    assert list(decision.submissions) == [lease_name(2, experiment("a/x"))]


def test_a_lease_that_no_node_is_large_enough_for_is_not_submitted() -> None:
    decision = decided([claim(1, "a/x", slots=2)])
    assert decision.submissions == {}
    assert [wait.reason for wait in decision.waits.values()] == ["NO_POOL"]


def test_what_waits_in_a_queue_is_neither_moved_nor_taken_back() -> None:
    decision = decided([], [holding(1, "a/x")])
    assert (decision.moves, decision.revocations) == ({}, ())


def test_what_a_queue_has_admitted_is_taken_back_when_its_node_is_gone() -> None:
    gone = Node(name="n0", slot_count=1, state=NodeState.LOST)
    held = [holding(1, "a/x", Place(P, "n0"))]
    decision = decided([], held, gone, Node(name="n1", slot_count=1))
    assert decision.moves == {}
    assert [r.lease for r in decision.revocations] == [held[0].lease]


# The life of a lease


def waiting() -> Lease:
    who = experiment("a/x")
    lease = Lease(name=lease_name(1, who), holder=who, slot_count=2, create_time=START, wanted=ANY)
    return lease.submitted_at(SOMEWHERE, START, alone=False)


def test_a_lease_is_queued_until_it_is_admitted_and_costs_nothing_till_then() -> None:
    lease = waiting()
    assert (lease.state, lease.epoch, lease.granted) == (LeaseState.QUEUED, 1, False)
    assert not lease.overdue(START + timedelta(days=1))
    assert lease.slot_seconds(START + timedelta(seconds=50)) == 0.0
    held = lease.admitted(START + timedelta(seconds=50), 60.0)
    assert (held.state, held.epoch) == (LeaseState.HELD, 1)
    assert held.slot_seconds(START + timedelta(seconds=60)) == 20.0


def test_who_is_to_be_alone_pays_from_its_admission_on() -> None:
    who = experiment("a/x")
    lease = Lease(name=lease_name(1, who), holder=who, slot_count=2, create_time=START)
    held = lease.submitted_at(SOMEWHERE, START, alone=True).admitted(
        START + timedelta(seconds=50), 60.0
    )
    assert held.alone
    assert held.slot_seconds(START + timedelta(seconds=60)) == 20.0


def trainer(lease: Lease, **more: object) -> Trainer:
    made = Trainer(
        trainer_id="t",
        tenant=lease.tenant,
        slot_count=lease.slot_count,
        place=SOMEWHERE,
        lease=lease.name,
        epoch=lease.epoch,
        state=TrainerState.STARTING,
        since_s=0.0,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def planned(lease: Lease, *trainers: Trainer, spent: bool = True) -> Staffing:
    scene = Scene(
        leases=[lease],
        ended={},
        trainers=trainers,
        spent={lease.name: lease.epoch} if spent else {},
        setbacks={lease.name: Setback(count=1, retry_at_s=0.0, cause="gone", log_tail="")},
        capacity={Place(P, "n0"): 1},
        obstacle="",
        resident_bytes=lambda _: 0,
        now_s=100.0,
    )
    return plan(scene, StaffRules(start_limit_s=1e9))


def test_a_lease_that_is_submitted_gets_its_job_and_is_held_once_that_may_run() -> None:
    lease = waiting()
    assert planned(lease, spent=False).starts == [lease]
    assert planned(lease, trainer(lease, suspended=True)).admitted == []
    assert planned(lease, trainer(lease)).admitted == [lease]


def test_a_job_that_is_lost_before_it_was_admitted_is_made_again() -> None:
    assert planned(waiting()).new_epochs == [waiting()]


@pytest.mark.parametrize("state", [TrainerState.RUNNING, TrainerState.LEAVING])
def test_a_job_that_is_suspended_again_is_a_revocation(state: TrainerState) -> None:
    lease = waiting().admitted(START, 60.0)
    todo = planned(lease, trainer(lease, suspended=True, state=state))
    assert todo.evicted[0] == (lease, "the cluster's queue has suspended its Job")
    assert todo.new_epochs == []


def test_a_trainer_that_is_lost_has_to_be_admitted_anew() -> None:
    lease = waiting().admitted(START, 60.0)
    todo = planned(lease)
    assert [each for each, _ in todo.evicted] == [lease]
    assert todo.new_epochs == []


def test_a_lease_is_where_its_trainer_has_come_to() -> None:
    lease = waiting().admitted(START, 60.0)
    here = Place(P, "n0")
    assert planned(lease, trainer(lease, place=here)).found == [(lease, here)]
    assert planned(lease.found(here), trainer(lease, place=here)).found == []

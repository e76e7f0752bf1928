"""What the cluster is told of leases and nodes."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from allotment_allocator.adapters.kube.chronicle import Chronicle
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.lease import Lease, LeaseState, Problem
from allotment_allocator.domain.pool import GPU, Node, NodeState, Place, Pool
from allotment_core.names import ExperimentName, LeaseName, PoolName, TenantName

ACME = TenantName("acme")
JOB = {"name": "l-1-1", "uid": "u"}
LEASE = Lease(
    name=LeaseName(ACME, "l-1"),
    holder=ExperimentName(ACME, "x"),
    slot_count=1,
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
    state=LeaseState.HELD,
    epoch=1,
    place=Place(PoolName("h100"), "n1"),
)


class Heard:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def tell(self, about: Mapping[str, str], kind: str, reason: str, note: str) -> None:
        self.events.append((about["name"], reason, note))


def chronicle_of(heard: Heard, board: Board | None = None) -> Chronicle:
    return Chronicle(
        heard, board or Board(), lambda lease, _epoch: JOB if lease == LEASE.name else None
    )


def pools(**states: NodeState) -> tuple[Pool, ...]:
    nodes = tuple(Node(name=name, slot_count=8, state=state) for name, state in states.items())
    return (Pool(name=PoolName("h100"), nodes=nodes, resource=GPU),)


def test_a_revocation_is_told_once_on_its_job() -> None:
    heard = Heard()
    chronicle = chronicle_of(heard)
    problem = Problem("REVOKED_NODE_LOST", "it is taken back")
    revoked = replace(LEASE, state=LeaseState.REVOKING, problem=problem)
    for lease in (LEASE, revoked, revoked):
        chronicle.lease_changed(lease)
    assert heard.events == [("l-1-1", "Revoked", "it is taken back")]


def test_a_node_is_told_of_when_its_state_changes_and_not_when_it_is_first_seen() -> None:
    heard, board = Heard(), Board()
    board.publish([LEASE], 0.0)
    chronicle = chronicle_of(heard, board)
    chronicle.pools_changed(pools(n1=NodeState.OPEN, n2=NodeState.CORDONED))
    assert heard.events == []
    chronicle.pools_changed(pools(n1=NodeState.LOST, n2=NodeState.CORDONED, n3=NodeState.AWAY))
    [(name, reason, note)] = heard.events
    assert (name, reason) == ("n1", "NodeLost")
    assert "1 leases are taken back" in note

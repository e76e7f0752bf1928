"""Tenants that have nodes alone."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allotment_allocator.domain.apart import divide
from allotment_allocator.domain.charging import charges
from allotment_allocator.domain.division import decide
from allotment_allocator.domain.lease import Lease
from allotment_allocator.domain.pool import GPU, Node, NodeState, Place, Pool, PoolKind, Wanted
from allotment_allocator.domain.snapshot import (
    Claim,
    Decision,
    Holding,
    Policy,
    RevocationReason,
    Snapshot,
)
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import LeaseName, PoolName, TenantName
from allotment_testkit.pool_market import START, experiment, gpu_holding, lease_name, tenant
from allotment_testkit.pool_market import gpu_claim as claim

ANY = Wanted(resource=GPU)
A, B, D, E = tenant("a"), tenant("b"), tenant("d"), tenant("e")
P = PoolName("p")


def pool(*nodes: Node) -> Pool:
    return Pool(name=P, nodes=nodes, kind=PoolKind.NODES, resource=GPU, product="A100")


def node(name: str, slots: int = 4, **more: object) -> Node:
    return replace(Node(name=name, slot_count=slots), **more)  # type: ignore[arg-type]


def holding(number: int, holder: str, where: str, slots: int = 1, **more: object) -> Holding:
    return gpu_holding(number, holder, Place(P, where), slots, **more)


def snapshot(
    nodes: list[Node],
    queued: list[Claim],
    held: list[Holding] | None = None,
    dedicated: tuple[TenantName, ...] = (D,),
    **more: object,
) -> Snapshot:
    made = Snapshot(
        pools=(pool(*nodes),),
        terms={},
        queued=tuple(queued),
        held=tuple(held or ()),
        dedicated=frozenset(dedicated),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def places(decision: Decision) -> dict[str, str]:
    return {name.lease_id: place.node for name, place in decision.grants.items()}


def test_a_tenant_that_is_alone_takes_an_empty_node_and_fills_it() -> None:
    held = [holding(1, "a/x", "n0")]
    queued = [claim(10 + n, "d/x", 2) for n in range(2)]
    decision = divide(snapshot([node("n0"), node("n1")], queued, held))
    assert set(places(decision).values()) == {"n1"}
    assert len(decision.grants) == 2


def test_nobody_else_is_put_beside_it_although_there_is_room() -> None:
    decision = divide(snapshot([node("n0")], [claim(9, "a/x")], [holding(1, "d/x", "n0")]))
    assert decision.grants == {}
    assert decision.waits[lease_name(9, experiment("a/x"))].reason == "POOL_FULL"


def test_its_own_leases_go_where_it_is_already() -> None:
    held = [holding(1, "d/x", "n1")]
    decision = divide(snapshot([node("n0"), node("n1")], [claim(9, "d/y", 3)], held))
    assert set(places(decision).values()) == {"n1"}


def test_a_node_where_pods_of_others_work_is_not_taken() -> None:
    decision = divide(snapshot([node("n0", in_use_by_others=True)], [claim(9, "d/x")]))
    assert decision.grants == {}
    assert "could have alone" in decision.waits[lease_name(9, experiment("d/x"))].message


def test_a_node_is_taken_only_when_trainers_on_it_are_gone() -> None:
    waiting = snapshot([node("n0")], [claim(9, "d/x")], leaving={Place(P, "n0"): 1})
    assert divide(waiting).grants == {}
    of_another_kind = snapshot([node("n0")], [claim(9, "d/x")], departing={"n0": {A}})
    assert divide(of_another_kind).grants == {}


def test_a_node_stays_its_own_until_its_last_trainer_is_gone() -> None:
    leaving = snapshot(
        [node("n0")],
        [claim(9, "a/x")],
        leaving={Place(P, "n0"): 1},
        departing={"n0": {D}},
    )
    assert divide(leaving).grants == {}


def test_leases_of_another_resource_count_as_neighbours() -> None:
    assert divide(snapshot([node("n0")], [claim(9, "d/x")], neighbours={"n0": {A}})).grants == {}
    assert divide(snapshot([node("n0")], [claim(9, "a/x")], neighbours={"n0": {D}})).grants == {}
    assert divide(snapshot([node("n0")], [claim(9, "d/x")], neighbours={"n0": {D}})).grants


def test_others_are_drained_off_a_node_by_the_rules_of_fairness() -> None:
    held = [holding(n, "a/x", f"n{n // 4}") for n in range(8)]
    decision = divide(snapshot([node("n0"), node("n1")], [claim(20, "d/x")], held))
    assert decision.grants == {}
    taken = {r.lease for r in decision.revocations}
    assert len({h.place for h in held if h.lease in taken}) == 1
    assert len(taken) == 4


def test_a_tenant_that_becomes_alone_leaves_the_nodes_that_it_shares() -> None:
    held = [holding(1, "a/x", "n0"), holding(2, "d/x", "n0"), holding(3, "d/x", "n1")]
    decision = divide(snapshot([node("n0"), node("n1")], [], held))
    assert [(r.lease, r.reason) for r in decision.revocations] == [
        (held[1].lease, RevocationReason.NODE_SHARED)
    ]


def test_a_cordoned_node_is_left_for_another_whole_one() -> None:
    held = [holding(1, "d/x", "n0"), holding(2, "d/x", "n0")]
    cordoned = node("n0", state=NodeState.CORDONED)
    assert divide(snapshot([cordoned], [], held)).revocations == ()
    shared = [holding(3, "a/x", "n1")]
    assert divide(snapshot([cordoned, node("n1")], [], held + shared)).revocations == ()
    decision = divide(snapshot([cordoned, node("n1")], [], held))
    assert {r.reason for r in decision.revocations} == {RevocationReason.NODE_DRAINED}
    assert len(decision.revocations) == 2


def test_quotas_count_whole_nodes() -> None:
    queued = [claim(9, "d/x", 4), claim(10, "d/x", 4)]
    limited = snapshot(
        [node("n0"), node("n1")], queued, terms={D: Terms(quota_slots=4, weight=1.0)}
    )
    decision = divide(limited)
    assert len(decision.grants) == 1
    assert decision.waits[queued[1].lease].reason == "QUOTA"


def test_without_such_tenants_nothing_is_different() -> None:
    plain = snapshot([node("n0")], [claim(9, "a/x")], [holding(1, "b/x", "n0")], dedicated=())
    assert divide(plain) == decide(plain)


@pytest.mark.parametrize(
    ("node_slots", "asked", "charged"),
    [(8, [1, 1, 1], [3, 3, 2]), (8, [4, 2], [6, 2]), (4, [4], [4]), (0, [1, 1], [1, 1])],
)
def test_a_node_is_charged_as_a_whole(
    node_slots: int, asked: list[int], charged: list[int]
) -> None:
    leases = [
        Lease(
            name=LeaseName(D, f"l{n}"),
            holder=experiment("d/x"),
            slot_count=slots,
            create_time=START,
        )
        for n, slots in enumerate(asked)
    ]
    parts = [slots for _, slots in charges(node_slots, leases)]
    assert sum(parts) == max(node_slots, sum(asked))
    assert parts == charged


# Over time


@dataclass
class _Live:
    name: LeaseName
    holder: str
    slots: int
    created: float
    place: Place | None = None
    granted: float = 0.0
    gone: float | None = None


@dataclass
class Cluster:
    """Nodes in virtual time; experiments keep `demand` leases, which end only when taken back."""

    nodes: list[Node]
    dedicated: tuple[TenantName, ...]
    demand: dict[str, tuple[int, int]]
    """Leases, and slots of each, by experiment."""
    terms: dict[TenantName, Terms] = field(default_factory=dict)
    turn_s: float = 1e9
    now: float = 0.0
    live: list[_Live] = field(default_factory=list)
    count: int = 0
    taken: list[float] = field(default_factory=list)
    had: Counter[TenantName] = field(default_factory=Counter)

    def step(self) -> None:
        self.live = [x for x in self.live if x.gone is None or x.gone > self.now]
        for holder, (wanted, slots) in self.demand.items():
            present = sum(x.holder == holder and x.gone is None for x in self.live)
            for _ in range(wanted - present):
                self.count += 1
                name = lease_name(self.count, experiment(holder))
                self.live.append(_Live(name, holder, slots, self.now))
        decision = divide(self.snapshot())
        for each in self.live:
            if each.name in decision.grants:
                each.place, each.granted = decision.grants[each.name], self.now
            if each.name in {r.lease for r in decision.revocations}:
                each.gone = self.now + 2.0
                self.taken.append(self.now)
        self.check()
        for each in self.live:
            if each.place is not None:
                self.had[each.name.tenant] += each.slots
        self.now += 1.0

    def snapshot(self) -> Snapshot:
        return replace(
            snapshot(
                self.nodes,
                [
                    replace(
                        claim(int(x.name.lease_id[1:]), x.holder, x.slots),
                        waited_s=self.now - x.created,
                    )
                    for x in self.live
                    if x.place is None
                ],
                [
                    holding(
                        int(x.name.lease_id[1:]),
                        x.holder,
                        x.place.node,
                        x.slots,
                        held_s=self.now - x.granted,
                        revoking=x.gone is not None,
                    )
                    for x in self.live
                    if x.place is not None
                ],
                self.dedicated,
            ),
            terms=self.terms,
            policy=Policy(turn_s=self.turn_s),
            attained={t: float(s) for t, s in self.had.items()} if self.turn_s < 1e9 else {},
        )

    def check(self) -> None:
        on: dict[Place, set[TenantName]] = defaultdict(set)
        used: Counter[Place] = Counter()
        for each in self.live:
            if each.place is not None:
                on[each.place].add(each.name.tenant)
                used[each.place] += each.slots
        for place, there in on.items():
            assert len(there) == 1 or not there & set(self.dedicated), (self.now, place, there)
        for one in self.nodes:
            assert used[Place(P, one.name)] <= one.slot_count


DEMAND = st.dictionaries(
    st.sampled_from(["a/x", "a/y", "b/x", "d/x", "d/y", "e/x"]),
    st.tuples(st.integers(1, 6), st.integers(1, 3)),
    min_size=2,
)


@given(
    DEMAND,
    st.lists(st.integers(3, 6), min_size=1, max_size=4),
    st.sampled_from([(D,), (D, E), (A, D, E)]),
    st.sampled_from([20.0, 1e9]),
    st.integers(0, 3),
)
@settings(max_examples=10, deadline=None)
def test_no_lease_of_another_is_ever_beside_one_that_is_alone(
    demand: dict[str, tuple[int, int]],
    sizes: list[int],
    dedicated: tuple[TenantName, ...],
    turn_s: float,
    seed: int,
) -> None:
    nodes = [node(f"n{n}", size) for n, size in enumerate(sizes)]
    cluster = Cluster(nodes=nodes, dedicated=dedicated, demand={}, turn_s=turn_s)
    order = sorted(demand)
    random.Random(seed).shuffle(order)
    for who in order:
        cluster.demand[who] = demand[who]
        for _ in range(8):
            cluster.step()
    for _ in range(60):
        cluster.step()


@given(DEMAND, st.lists(st.integers(3, 6), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_taking_back_comes_to_an_end_without_an_arrival_or_a_departure(
    demand: dict[str, tuple[int, int]], sizes: list[int], guaranteed: int
) -> None:
    """By what everybody holds; what was had before moves levels, and so decides again, for long."""
    nodes = [node(f"n{n}", size) for n, size in enumerate(sizes)]
    terms = {A: Terms(guaranteed_slots=guaranteed)}
    cluster = Cluster(nodes=nodes, dedicated=(D, E), demand={}, terms=terms)
    for who in sorted(demand):
        cluster.demand[who] = demand[who]
        for _ in range(12):
            cluster.step()
    for _ in range(60):
        cluster.step()
    settled = len(cluster.taken)
    for _ in range(40):
        cluster.step()
    assert len(cluster.taken) == settled


def test_in_turns_everybody_has_something() -> None:
    demand = {"a/x": (8, 1), "b/x": (8, 1), "d/x": (8, 1)}
    cluster = Cluster(nodes=[node("n0"), node("n1")], dedicated=(D,), demand=demand, turn_s=30.0)
    for _ in range(900):
        cluster.step()
    shares = [cluster.had[name] for name in (A, B, D)]
    assert min(shares) >= 0.5 * max(shares), shares

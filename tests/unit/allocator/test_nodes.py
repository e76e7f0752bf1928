"""Decisions about pools of several nodes."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from allotment_allocator.domain.division import decide
from allotment_allocator.domain.pool import GPU, Node, NodeState, Place, Pool, PoolKind, Wanted
from allotment_allocator.domain.snapshot import Claim, Holding, RevocationReason, Snapshot
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import PoolName
from allotment_testkit.pool_market import gpu_claim as claim
from allotment_testkit.pool_market import gpu_holding, tenant

A, B, C = tenant("a"), tenant("b"), tenant("c")
ANY = Wanted(resource=GPU)


def pool(name: str, *sizes: int, product: str = "A100", state: NodeState = NodeState.OPEN) -> Pool:
    nodes = tuple(Node(name=f"{name}{n}", slot_count=s, state=state) for n, s in enumerate(sizes))
    return Pool(
        name=PoolName(name), nodes=nodes, kind=PoolKind.NODES, resource=GPU, product=product
    )


def holding(number: int, holder: str, place: str, slots: int = 1, **more: object) -> Holding:
    """`place`: the node's name, which begins with its pool's."""
    return gpu_holding(
        number, holder, Place(PoolName(place.rstrip("0123456789")), place), slots, **more
    )


def snapshot(
    pools: list[Pool], queued: list[Claim], held: list[Holding], **terms: Terms
) -> Snapshot:
    return Snapshot(
        pools=tuple(pools),
        terms={tenant(name): value for name, value in terms.items()},
        queued=tuple(queued),
        held=tuple(held),
    )


def test_small_leases_fill_nodes_that_are_in_use_already() -> None:
    held = [holding(1, "a/x", "p1", 5)]
    decision = decide(snapshot([pool("p", 8, 8)], [claim(9, "a/x", 2), claim(10, "a/x", 8)], held))
    assert [place.node for place in decision.grants.values()] == ["p1", "p0"]


def test_a_gang_is_never_spread_over_nodes() -> None:
    held = [holding(1, "a/x", "p0", 5), holding(2, "a/x", "p1", 5)]
    gang = claim(9, "b/x", 4, waited_s=0.0)
    decision = decide(snapshot([pool("p", 8, 8)], [gang], held, b=Terms(weight=0.1)))
    assert decision.grants == {}
    assert "on one node" in decision.waits[gang.lease].message


def test_a_node_is_kept_for_a_gang_that_has_waited_long() -> None:
    held = [holding(1, "a/x", "p0", 2, held_s=1.0), holding(2, "a/x", "p1", 3, held_s=1.0)]
    gang, small = claim(8, "b/x", 8, waited_s=60.0), claim(9, "c/x", 6)
    seen = replace(snapshot([pool("p", 8, 8)], [gang, small], held), attained={C: 1000.0})
    assert decide(seen).grants == {}
    other = claim(10, "c/x", 5)
    assert decide(replace(seen, queued=(gang, other))).grants[other.lease].node == "p1"


def test_leases_get_the_product_or_the_pool_that_they_want() -> None:
    pools = [pool("h", 1, product="H100"), pool("t", 1, product="T4")]
    t4, here = Wanted(resource=GPU, product="T4"), Wanted(resource=GPU, pool="h")
    first, second = claim(1, "a/x", wanted=t4), claim(2, "a/x", wanted=here)
    third = claim(3, "a/x", wanted=Wanted(resource=GPU, product="L4"))
    decision = decide(snapshot(pools, [first, second, third], []))
    assert {n: p.node for n, p in decision.grants.items()} == {
        first.lease: "t0",
        second.lease: "h0",
    }
    assert decision.waits[third.lease].reason == "NO_POOL"


def test_nodes_that_are_not_open_get_nothing_new() -> None:
    for state in (NodeState.AWAY, NodeState.CORDONED, NodeState.LOST):
        assert decide(snapshot([pool("p", 8, state=state)], [claim(1, "a/x")], [])).grants == {}


def test_expected_nodes_are_used_when_the_others_are_full() -> None:
    coming = Node(name="+1", slot_count=8, expected=True)
    growing = pool("p", 1)
    growing = replace(growing, nodes=(*growing.nodes, coming))
    decision = decide(snapshot([growing], [claim(1, "a/x"), claim(2, "a/x", 8)], []))
    assert [place.node for place in decision.grants.values()] == ["p0", "+1"]


def test_leases_leave_a_cordoned_node_as_far_as_there_is_room_elsewhere() -> None:
    old = pool("p", 8, state=NodeState.CORDONED)
    held = [holding(n, "a/x", "p0", 2) for n in range(3)]
    decision = decide(snapshot([old, pool("q", 4)], [], held))
    assert [r.reason for r in decision.revocations] == [RevocationReason.NODE_DRAINED] * 2
    assert decide(snapshot([old], [], held)).revocations == ()


def test_leases_of_a_lost_node_go_on_elsewhere_or_are_taken_back() -> None:
    held = [
        holding(1, "a/x", "p0", 2),
        holding(2, "a/x", "gone1", 5),
        holding(3, "a/x", "gone1", 4),
    ]
    decision = decide(snapshot([pool("p", 8), pool("gone")], [], held))
    assert decision.moves == {held[1].lease: held[0].place}
    assert [(r.lease, r.reason) for r in decision.revocations] == [
        (held[2].lease, RevocationReason.NODE_LOST)
    ]


def test_room_for_a_gang_is_made_on_the_node_where_it_costs_least() -> None:
    held = [
        *(holding(n, "a/x", "p0", 1) for n in range(8)),
        holding(20, "a/x", "p1", 6),
        holding(21, "b/y", "p1", 2),
    ]
    gang = claim(30, "b/x", 4)
    decision = decide(
        snapshot([pool("p", 8, 8)], [gang], held, a=Terms(), b=Terms(guaranteed_slots=8))
    )
    assert {r.lease for r in decision.revocations} <= {held[n].lease for n in range(8)}
    assert len(decision.revocations) == 4


def test_a_guarantee_is_met_across_pools() -> None:
    held = [holding(n, "a/x", f"p{n}") for n in range(2)] + [holding(5, "a/x", "q0")]
    seen = snapshot(
        [pool("p", 1, 1), pool("q", 1)],
        [claim(9, "b/x"), claim(10, "b/x")],
        held,
        b=Terms(guaranteed_slots=2),
    )
    reasons = [r.reason for r in decide(seen).revocations]
    assert reasons == [RevocationReason.GUARANTEE] * 2


SIZES = st.lists(st.integers(1, 8), min_size=1, max_size=4)
CLAIMS = st.lists(st.tuples(st.sampled_from(["a/x", "b/x", "c/y"]), st.integers(1, 8)), max_size=20)


@given(
    SIZES, SIZES, CLAIMS, st.sampled_from([Wanted(resource=GPU), Wanted(resource=GPU, pool="q")])
)
def test_no_node_has_more_than_its_slots_and_nobody_waits_for_room_that_is_there(
    first: list[int], second: list[int], claims: list[tuple[str, int]], wanted: Wanted
) -> None:
    pools = [pool("p", *first), pool("q", *second)]
    queued = [claim(n, who, size, wanted=wanted) for n, (who, size) in enumerate(claims)]
    decision = decide(snapshot(pools, queued, []))
    free = {Place(p.name, n.name): n.slot_count for p in pools for n in p.nodes}
    sizes = {c.lease: c.slot_count for c in queued}
    for lease, place in decision.grants.items():
        assert wanted.pool in ("", place.pool.pool_id)
        free[place] -= sizes[lease]
    assert min(free.values()) >= 0
    usable = [n for place, n in free.items() if wanted.pool in ("", place.pool.pool_id)]
    assert all(sizes[lease] > max(usable) for lease in decision.waits)

"""Pools and nodes as they are shown."""

from typing import Any

import pytest

from allotment_allocator.domain.board import Board
from allotment_allocator.domain.pool import GPU, Node, NodeState, Pool, PoolKind
from allotment_allocator.servicer import PoolServicer
from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_core.errors import Unavailable
from allotment_core.names import PoolName

NO_CONTEXT: Any = None


def pool(*nodes: Node, name: str = "h100", **more: Any) -> Pool:
    return Pool(name=PoolName(name), nodes=nodes, kind=PoolKind.NODES, resource=GPU, **more)


async def nodes_of(servicer: PoolServicer, **request: Any) -> pb.ListNodesResponse:
    return await servicer.ListNodes(pb.ListNodesRequest(**request), NO_CONTEXT)


async def test_only_open_nodes_have_free_slots() -> None:
    there = [Node(name=s.name.lower(), slot_count=8, state=s) for s in NodeState]
    shown = pool(*there, Node(name="+1", slot_count=8, expected=True), price_per_slot_hour=2.5)
    servicer = PoolServicer(lambda: (shown,), Board())
    nodes = (await nodes_of(servicer, parent="pools/h100")).nodes
    assert {n.name.rpartition("/")[2]: (n.state, n.free_slot_count) for n in nodes} == {
        "+1": (pb.NODE_CONDITION_EXPECTED, 8),
        "away": (pb.NODE_CONDITION_AWAY, 0),
        "cordoned": (pb.NODE_CONDITION_CORDONED, 0),
        "lost": (pb.NODE_CONDITION_LOST, 0),
        "open": (pb.NODE_CONDITION_OPEN, 8),
    }
    assert {n.price_per_slot_hour for n in nodes} == {2.5}


async def test_nodes_are_paged_over_all_pools() -> None:
    pools = [
        pool(*(Node(name=f"{name}-{n}", slot_count=1) for n in range(3)), name=name)
        for name in ("a", "b")
    ]
    servicer = PoolServicer(lambda: tuple(pools), Board())
    names: list[str] = []
    token = ""
    while True:
        page = await nodes_of(servicer, parent="pools/-", page_size=4, page_token=token)
        names += [node.name for node in page.nodes]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"pools/{p}/nodes/{p}-{n}" for p in ("a", "b") for n in range(3)]


async def test_slots_that_are_only_expected_are_counted_apart() -> None:
    shown = pool(Node(name="n", slot_count=8), Node(name="+1", slot_count=8, expected=True))
    servicer = PoolServicer(lambda: (shown,), Board())
    answer = await servicer.GetPool(pb.GetPoolRequest(name="pools/h100"), NO_CONTEXT)
    assert (answer.pool.slot_count, answer.pool.expected_slot_count) == (8, 8)
    assert answer.pool.node_count == 1


async def test_pools_that_are_not_known_yet_are_asked_for_again() -> None:
    servicer = PoolServicer(lambda: None, Board())
    with pytest.raises(Unavailable) as refused:
        await nodes_of(servicer, parent="pools/-")
    assert refused.value.reason == "POOLS_UNKNOWN"
    assert refused.value.retry_after_s

"""What watchers are told."""

import pytest

from allotment_allocator.domain import board as board_module
from allotment_allocator.domain.board import Board, Seen
from allotment_allocator.domain.lease import Lease, Wait
from allotment_core.errors import ResourceExhausted
from allotment_core.names import TenantName
from allotment_testkit.pool_market import HERE, START, experiment, lease_name


def lease(number: int, holder: str = "a/x") -> Lease:
    who = experiment(holder)
    return Lease(name=lease_name(number, who), holder=who, slot_count=1, create_time=START)


async def test_a_watcher_gets_its_tenants_snapshot_then_changes() -> None:
    board = Board()
    mine, other = lease(1), lease(2, "b/x")
    board.publish([mine, other], 0.0)
    watching = board.watch(TenantName("a"))
    assert await anext(watching) == Seen(mine)
    assert await anext(watching) == Seen(None)
    held = mine.granted_at(HERE, START, 60)
    board.publish([other.released(START), held], 0.0)
    assert await anext(watching) == Seen(held)


async def test_an_older_revision_never_replaces_a_newer_one() -> None:
    board = Board()
    old = lease(1)
    ended = old.released(START)
    board.publish([ended], 0.0)
    board.publish([old], 0.0)
    assert board.live == {}


async def test_a_new_reason_to_wait_is_a_change() -> None:
    board = Board()
    waiting = lease(1)
    board.publish([waiting], 0.0)
    watching = board.watch(TenantName.WILDCARD)
    await anext(watching)
    await anext(watching)
    wait = Wait("POOL_FULL", "x", 1)
    board.explain_queue({waiting.name: wait})
    board.explain_queue({waiting.name: wait})
    assert await anext(watching) == Seen(waiting, wait)
    board.publish([waiting.released(START)], 0.0)
    assert (await anext(watching)).wait is None


async def test_a_slow_reader_misses_what_newer_changes_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(board_module, "QUEUE_LIMIT", 10)
    board = Board()
    watching = board.watch(TenantName.WILDCARD)
    await anext(watching)
    renewed = lease(1).granted_at(HERE, START, 60)
    for _ in range(100):
        renewed = renewed.renewed(START, 60)
        board.publish([renewed], 0.0)
    seen = 0
    while (await anext(watching)).lease != renewed:
        seen += 1
    assert seen <= 10


async def test_a_reader_that_is_too_slow_even_so_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "QUEUE_LIMIT", 10)
    board = Board()
    watching = board.watch(TenantName.WILDCARD)
    await anext(watching)
    board.publish([lease(number) for number in range(50)], 0.0)
    with pytest.raises(ResourceExhausted) as caught:
        await anext(watching)
    assert caught.value.reason == "SLOW_READER"

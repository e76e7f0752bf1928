"""Leases are kept, whatever one look at them meets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from allotment_controller.domain.keeper import KeeperTimes, LeaseKeeper
from allotment_controller.domain.messages import LeaseView
from allotment_controller.domain.seat import Seats
from allotment_core.names import ExperimentName, LeaseName
from allotment_testkit.clock import ManualClock

NAME = ExperimentName.parse("tenants/t/experiments/e")


class Allocator:
    """Grants every lease at once."""

    def __init__(self) -> None:
        self.created: list[LeaseView] = []
        self.released: set[LeaseName] = set()
        self.renewed: list[str] = []
        self.held: list[LeaseView] = []
        """Those that its snapshot shows."""
        self.creating = self.most_creating = 0
        self.watches = 0
        self.broken_watches = 0

    async def create(self, holder: ExperimentName, request_id: str) -> LeaseView:
        self.creating += 1
        self.most_creating = max(self.creating, self.most_creating)
        await asyncio.sleep(0)
        self.creating -= 1
        name = LeaseName.parse(f"tenants/t/leases/l{len(self.created)}")
        view = LeaseView(name=name, holder=holder, state="HELD", epoch=1)
        self.created.append(view)
        return view

    async def renew(self, leases: Sequence[LeaseView]) -> list[LeaseView | None]:
        self.renewed += [str(lease.name) for lease in leases]
        return list(leases)

    async def release(self, lease: LeaseName, epoch: int) -> LeaseView | None:
        self.released.add(lease)
        return None

    async def slot_count(self) -> int:
        return 4

    async def watch(self) -> AsyncIterator[LeaseView | None]:
        self.watches += 1
        if self.watches <= self.broken_watches:
            raise ValueError("a state that nobody has heard of")
        for view in self.held:
            yield view
        yield None
        await asyncio.Event().wait()


async def _until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 (a fact of another task)
            await asyncio.sleep(0)


async def _keeping(
    allocator: Allocator, clock: ManualClock
) -> tuple[LeaseKeeper, asyncio.Task[None]]:
    times = KeeperTimes(lease_ttl_s=60.0, start_grace_s=60.0, away_grace_s=15.0)
    keeper = LeaseKeeper(allocator, Seats(), clock, times)
    return keeper, asyncio.create_task(keeper.run())


async def test_who_comes_back_under_an_old_name_does_not_wait_for_the_past() -> None:
    allocator = Allocator()
    keeper, run = await _keeping(allocator, ManualClock())
    keeper.want(NAME, 3)
    await _until(lambda: len(keeper.of(NAME)) == 3)
    keeper.forget(NAME)
    await _until(lambda: len(allocator.released) == 3 and not keeper.of(NAME))
    # The clock stands still: whatever waits for a time waits for ever.
    keeper.want(NAME, 1)
    await _until(lambda: len(allocator.created) == 4)
    run.cancel()
    await keeper.close()


async def test_a_loop_that_breaks_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allotment_controller.domain.keeper._TICK_S", 0.0)
    allocator = Allocator()
    allocator.broken_watches = 2
    keeper, run = await _keeping(allocator, ManualClock())
    await _until(lambda: keeper.answers)
    assert not run.done()
    assert allocator.watches == 3
    run.cancel()
    await keeper.close()


async def test_leases_stay_until_their_experiment_has_said_what_it_wants() -> None:
    allocator = Allocator()
    other = ExperimentName.parse("tenants/t/experiments/ended")
    allocator.held = [
        LeaseView(
            name=LeaseName.parse(f"tenants/t/leases/l{n}"), holder=holder, state="HELD", epoch=1
        )
        for n, holder in enumerate((NAME, NAME, other))
    ]
    keeper, run = await _keeping(allocator, ManualClock())
    keeper.claim(NAME)
    await _until(lambda: allocator.released)
    assert {str(n) for n in allocator.released} == {"tenants/t/leases/l2"}
    assert len(keeper.of(NAME)) == 2
    keeper.want(NAME, 0)
    await _until(lambda: len(allocator.released) == 3)
    run.cancel()
    await keeper.close()


async def test_many_leases_are_asked_for_a_few_at_a_time() -> None:
    allocator = Allocator()
    keeper, run = await _keeping(allocator, ManualClock())
    keeper.want(NAME, 200)
    await _until(lambda: len(keeper.of(NAME)) == 200)
    assert len(allocator.created) == 200
    assert 1 < allocator.most_creating < 50
    run.cancel()
    await keeper.close()


async def test_leases_are_renewed_as_soon_as_they_are_known_again() -> None:
    allocator = Allocator()
    allocator.held = [
        LeaseView(name=LeaseName.parse("tenants/t/leases/l1"), holder=NAME, state="HELD", epoch=1)
    ]
    keeper, run = await _keeping(allocator, ManualClock())
    keeper.claim(NAME)
    # Long before the first sixth of its time to live.
    await _until(lambda: allocator.renewed == ["tenants/t/leases/l1"])
    run.cancel()
    await keeper.close()

"""A controller whose budgets start with the first lease, as in a cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from allotment_api.search.v1 import search_pb2 as pb
from allotment_controller.adapters.sampling import ThreadedSampling
from allotment_controller.domain.experiment import BudgetStart
from allotment_testkit.search_world import SearchWorld, all_trials, create, ended, spec

NAME = "tenants/local/experiments/e"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SearchWorld]:
    queued = SearchWorld(tmp_path, slot_count=0, budget_starts=BudgetStart.GRANTED)
    async with queued.open() as opened:
        yield opened


def waiting(*, timeout_s: float = 0.0, **wanted: Any) -> pb.ExperimentSpec:
    message = spec(**wanted)
    if timeout_s:
        message.budget.queue_timeout.FromNanoseconds(round(timeout_s * 1e9))
    return message


async def get(stub: Any) -> pb.Experiment:
    found = (await stub.GetExperiment(pb.GetExperimentRequest(name=NAME))).experiment
    assert isinstance(found, pb.Experiment)
    return found


async def until(stub: Any, is_so: Callable[[pb.Experiment], bool]) -> pb.Experiment:
    async with asyncio.timeout(15):
        while not is_so(found := await get(stub)):  # noqa: ASYNC110 (another server's fact)
            await asyncio.sleep(0.02)
    return found


async def test_the_budget_counts_from_the_first_lease_and_the_wait_says_why(
    world: SearchWorld,
) -> None:
    async with world.controller() as stub:
        made = await create(stub, waiting(wall_time_s=10.0))
        assert made.budget_start == pb.BUDGET_START_GRANTED
        assert not made.HasField("deadline")
        assert not made.HasField("start_time")
        told = await until(stub, lambda e: e.HasField("wait"))
        assert (told.wait.reason, told.wait.message) == ("POOL_FULL", "wait for a slot")
        assert not told.HasField("deadline")
        world.allocator.open_slots(1)
        begun = await until(stub, lambda e: e.HasField("start_time"))
        waited = begun.start_time.ToDatetime() - begun.create_time.ToDatetime()
        assert waited.total_seconds() >= 1.0
        budget = begun.deadline.ToDatetime() - begun.start_time.ToDatetime()
        assert budget.total_seconds() == 10.0
        await until(stub, lambda e: e.finished_trial_count > 0)
    async with world.controller() as stub:
        again = await get(stub)
        assert (again.start_time, again.deadline) == (begun.start_time, begun.deadline)
        await stub.CancelExperiment(pb.CancelExperimentRequest(request_id="c", name=NAME))


async def test_a_wait_that_is_too_long_ends_with_what_it_waited_for(world: SearchWorld) -> None:
    async with world.controller() as stub:
        made = await create(stub, waiting(trial_count=3, timeout_s=1.5))
        assert made.HasField("queue_deadline")
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_FAILED
        assert end.problem.reason == "QUEUE_TIMEOUT"
        assert "1.5 s" in end.problem.message
        assert "POOL_FULL: wait for a slot" in end.problem.message
        assert not end.HasField("wait")
        async with asyncio.timeout(5):
            while world.allocator.live:  # noqa: ASYNC110 (another server's fact)
                await asyncio.sleep(0.02)


async def test_it_may_queue_again_with_a_new_budget(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, waiting(trial_count=3, timeout_s=1.0))
        await ended(stub, NAME)
        world.allocator.open_slots(1)
        again = pb.ResumeExperimentRequest(request_id="r", name=NAME)
        again.budget.trial_count = 2
        await stub.ResumeExperiment(again)
        assert (await ended(stub, NAME)).state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert len(await all_trials(stub, NAME)) == 2


async def test_a_lease_that_came_while_the_controller_was_away_ends_the_wait(
    world: SearchWorld,
) -> None:
    async with world.controller() as stub:
        await create(stub, waiting(trial_count=2, timeout_s=2.0))
        await until(stub, lambda e: e.HasField("wait"))
    world.allocator.open_slots(1)
    await asyncio.sleep(2.0)
    async with world.controller() as stub:
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED


async def test_the_wait_is_given_up_at_its_instant_over_a_restart(world: SearchWorld) -> None:
    async with world.controller() as stub:
        made = await create(stub, waiting(trial_count=2, timeout_s=2.0))
    async with world.controller() as stub:
        end = await ended(stub, NAME)
        assert end.problem.reason == "QUEUE_TIMEOUT"
        late = end.end_time.ToDatetime() - made.queue_deadline.ToDatetime()
        assert 0.0 <= late.total_seconds() < 1.0


async def test_a_lease_that_can_never_be_granted_says_so(world: SearchWorld) -> None:
    world.allocator.refuses = "tenant 'local' may hold 0 slots; raise its quota"
    async with world.controller() as stub:
        await create(stub, waiting(trial_count=2))
        told = await until(stub, lambda e: e.HasField("wait"))
        assert told.wait.reason == "LARGER_THAN_QUOTA"
        assert "raise its quota" in told.wait.message
        await stub.CancelExperiment(pb.CancelExperimentRequest(request_id="c", name=NAME))
        assert (await ended(stub, NAME)).state == pb.EXPERIMENT_STATE_CANCELLED


async def test_each_experiment_keeps_what_its_budget_counts_from(tmp_path: Path) -> None:
    async with SearchWorld(tmp_path, slot_count=0).open() as world:
        async with world.controller() as stub:
            made = await create(stub, waiting(wall_time_s=60.0))
            assert made.budget_start == pb.BUDGET_START_CREATED
            assert made.start_time == made.create_time
        world.settings["budget_starts"] = BudgetStart.GRANTED
        async with world.controller() as stub:
            assert (await get(stub)).deadline == made.deadline
            longer = pb.ResumeExperimentRequest(request_id="r", name=NAME)
            longer.budget.wall_time.FromSeconds(90)
            resumed = (await stub.ResumeExperiment(longer)).experiment
            assert resumed.HasField("deadline")
            await stub.DeleteExperiment(pb.DeleteExperimentRequest(request_id="d", name=NAME))


async def test_the_sampler_is_loaded_while_the_first_lease_is_waited_for(
    world: SearchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: list[str] = []
    monkeypatch.setattr(ThreadedSampling, "warm_up", lambda self: warmed.append("now"))
    async with world.controller() as stub:
        await create(stub, waiting(trial_count=30))
        await until(stub, lambda e: e.HasField("wait"))
        assert warmed


async def test_a_lease_takes_many_trials_and_is_released_when_none_is_left(
    world: SearchWorld,
) -> None:
    world.manners.train_s = 0.05
    world.allocator.open_slots(4)
    async with world.controller() as stub:
        await create(stub, waiting(trial_count=24, max_parallel_trials=4))
        # All of them before the first trial has ended.
        await until(stub, lambda e: e.running_trial_count == 4)
        assert len(world.allocator.leases) == 4
        await ended(stub, NAME)
        assert len(world.allocator.leases) == 4
        assert len(await all_trials(stub, NAME)) == 24
        async with asyncio.timeout(5):
            while world.allocator.live:  # noqa: ASYNC110 (another server's fact)
                await asyncio.sleep(0.02)

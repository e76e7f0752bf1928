"""An experiment that has ended goes on with a new budget and its whole history."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from allotment_api.search.v1 import search_pb2 as pb
from allotment_core.errors import AllotmentError
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.search_world import SearchWorld, all_trials, create, ended, spec

NAME = "tenants/local/experiments/e"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SearchWorld]:
    async with SearchWorld(tmp_path).open() as opened:
        yield opened


def resume(
    *, trials: int = 0, wall_time_s: float | None = None, request_id: str = "resume"
) -> pb.ResumeExperimentRequest:
    request = pb.ResumeExperimentRequest(request_id=request_id, name=NAME)
    if trials:
        request.budget.trial_count = trials
    if wall_time_s is not None:
        request.budget.wall_time.FromNanoseconds(round(wall_time_s * 1e9))
    return request


async def refusal(call: Any) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_search_goes_on_where_it_ended(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=5))
        first = await ended(stub, NAME)
        before = await all_trials(stub, NAME)
        response = await stub.ResumeExperiment(resume(trials=4))
        assert response.experiment.state == pb.EXPERIMENT_STATE_RUNNING
        assert response.experiment.spec.budget.trial_count == 9
        assert not response.experiment.HasField("end_time")
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        trials = await all_trials(stub, NAME)
        assert len(trials) == 9
        assert trials[:5] == before
        assert len({tuple(c.SerializeToString() for c in t.derivation) for t in trials}) == 9
        assert end.best_score <= first.best_score
        assert end.create_time == first.create_time


async def test_it_trains_what_a_longer_search_would_have_trained(tmp_path: Path) -> None:
    boards = []
    for parts in ((24,), (10, 14)):
        folder = tmp_path / str(len(parts))
        folder.mkdir()
        async with SearchWorld(folder).open() as world, world.controller() as stub:
            await create(stub, spec(trial_count=parts[0], without_early_stopping=True))
            await ended(stub, NAME)
            for number, more in enumerate(parts[1:]):
                await stub.ResumeExperiment(resume(trials=more, request_id=f"r{number}"))
                await ended(stub, NAME)
            boards.append([(list(t.derivation), t.score) for t in await all_trials(stub, NAME)])
    assert boards[0] == boards[1]


async def test_a_new_deadline_counts_from_the_call_and_survives_a_restart(
    world: SearchWorld,
) -> None:
    world.manners.train_s = 0.05
    async with world.controller() as stub:
        await create(stub, spec(trial_count=2))
        await ended(stub, NAME)
        made = (await stub.ResumeExperiment(resume(wall_time_s=10.0))).experiment
        assert made.spec.budget.trial_count == 0
        deadline = made.deadline.ToDatetime()
        assert 9.9 < (deadline - made.create_time.ToDatetime()).total_seconds() < 60
    async with world.controller() as stub:
        again = (await stub.GetExperiment(pb.GetExperimentRequest(name=NAME))).experiment
        assert again.deadline.ToDatetime() == deadline
        assert again.state == pb.EXPERIMENT_STATE_RUNNING
        async with asyncio.timeout(10):
            while len(await all_trials(stub, NAME)) < 4:  # noqa: ASYNC110 (another server's fact)
                await asyncio.sleep(0.02)
        await stub.CancelExperiment(pb.CancelExperimentRequest(request_id="c", name=NAME))
        assert (await ended(stub, NAME)).state == pb.EXPERIMENT_STATE_CANCELLED


async def test_a_cancelled_search_can_be_gone_on_with(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(wall_time_s=60.0))
        async with asyncio.timeout(10):
            while len(await all_trials(stub, NAME)) < 3:  # noqa: ASYNC110 (another server's fact)
                await asyncio.sleep(0.02)
        await stub.CancelExperiment(pb.CancelExperimentRequest(request_id="c", name=NAME))
        await ended(stub, NAME)
        count = len(await all_trials(stub, NAME))
        await stub.ResumeExperiment(resume(trials=3))
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert len(await all_trials(stub, NAME)) == count + 3


async def test_a_repeated_call_gets_its_first_answer_and_adds_nothing(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        await ended(stub, NAME)
        first = await stub.ResumeExperiment(resume(trials=2))
        assert await stub.ResumeExperiment(resume(trials=2)) == first
        await ended(stub, NAME)
        assert await stub.ResumeExperiment(resume(trials=2)) == first
        await ended(stub, NAME)
        assert len(await all_trials(stub, NAME)) == 5


async def test_a_running_search_is_given_another_budget(world: SearchWorld) -> None:
    world.manners.train_s = 0.05
    async with world.controller() as stub:
        await create(stub, spec(wall_time_s=600.0))
        response = await stub.ResumeExperiment(resume(trials=4))
        assert not response.experiment.HasField("deadline")
        limit = response.experiment.spec.budget.trial_count
        end = await ended(stub, NAME)
        assert end.finished_trial_count == limit >= 4


async def test_what_makes_no_sense_is_refused(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=2))
        await ended(stub, NAME)
        refused = await refusal(stub.ResumeExperiment(resume()))
        assert refused.reason == "NO_BUDGET"
        assert "SUCCEEDED" in refused.message
        refused = await refusal(stub.ResumeExperiment(resume(wall_time_s=1.0)))
        assert refused.reason == "BUDGET_TOO_SHORT"
        gone = pb.ResumeExperimentRequest(request_id="x", name=NAME + "2")
        assert (await refusal(stub.ResumeExperiment(gone))).reason == "EXPERIMENT_NOT_FOUND"
        assert len(await all_trials(stub, NAME)) == 2

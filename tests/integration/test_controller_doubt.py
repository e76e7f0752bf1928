"""Writes of which nobody knows what became of them, and calls whose callers are gone."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from allotment_api.search.v1 import search_pb2 as pb
from allotment_controller.adapters.store import SqlStore
from allotment_controller.build import build
from allotment_controller.config import ControllerConfig
from allotment_controller.domain.experiment import ExperimentState
from allotment_controller.domain.scheduler import advance
from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_core.errors import Unavailable
from allotment_core.names import ExperimentName
from allotment_core.rpc.client import channel
from allotment_testkit.search_world import SearchWorld, all_trials, create, ended, spec

NAME = "tenants/local/experiments/e"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SearchWorld]:
    async with SearchWorld(tmp_path).open() as opened:
        yield opened


async def _until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 (facts of several parties, without an event)
            await asyncio.sleep(0.01)


def _conducted() -> list[object]:
    """What leads experiments in this process."""
    names = [getattr(t.get_coro(), "__qualname__", "") for t in asyncio.all_tasks()]
    return [name for name in names if name == "Controller._conduct"]


def forget(monkeypatch: pytest.MonkeyPatch, method: str, every: int) -> None:
    """Some of the store's writes are durable, and the one who wrote does not hear of it."""
    write, calls = getattr(SqlStore, method), 0

    async def forgetful(self: SqlStore, *args: Any) -> Any:
        nonlocal calls
        answer = await write(self, *args)
        calls += 1
        if calls % every == 0:
            raise Unavailable("nobody knows what became of it", reason="COMMIT_UNKNOWN")
        return answer

    monkeypatch.setattr(SqlStore, method, forgetful)


async def test_writes_that_were_stored_unheard_lose_and_double_nothing(
    world: SearchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, "commit", every=4)
    async with world.controller() as stub:
        await create(stub, spec(trial_count=6, without_early_stopping=True))
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        trials = await all_trials(stub, NAME)
        assert [t.state for t in trials] == [pb.TRIAL_STATE_SUCCEEDED] * 6
        assert end.best_score == min(t.score for t in trials)


async def test_an_experiment_goes_on_when_its_resumption_was_stored_unheard(
    world: SearchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.controller() as stub:
        world.manners.hang = True
        await create(stub, spec(trial_count=2))
        await stub.PauseExperiment(pb.PauseExperimentRequest(request_id="p", name=NAME))
        await _until(lambda: not world.allocator.live)
        world.manners.hang = False
        with monkeypatch.context() as patched:
            forget(patched, "answer", every=1)
            request = pb.ResumeExperimentRequest(request_id="r", name=NAME)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ResumeExperiment(request, timeout=1.0)
        again = await stub.ResumeExperiment(request)
        assert again.experiment.state == pb.EXPERIMENT_STATE_RUNNING
        assert (await ended(stub, NAME)).finished_trial_count == 2


async def test_an_experiment_whose_creator_has_given_up_is_led(
    world: SearchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = asyncio.Event()
    write = SqlStore.create

    async def slow(self: SqlStore, *args: Any) -> Any:
        answer = await write(self, *args)
        await given_up.wait()
        return answer

    monkeypatch.setattr(SqlStore, "create", slow)
    async with world.controller() as stub:
        request = pb.CreateExperimentRequest(
            request_id="c", parent="tenants/local", experiment_id="e", spec=spec(trial_count=2)
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateExperiment(request, timeout=1.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        given_up.set()
        assert (await stub.CreateExperiment(request)).experiment.name == NAME
        assert (await ended(stub, NAME)).finished_trial_count == 2


async def test_an_experiment_that_was_stored_unheard_is_led(
    world: SearchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = pb.CreateExperimentRequest(
        request_id="c", parent="tenants/local", experiment_id="e", spec=spec(trial_count=2)
    )
    resume = pb.ResumeExperimentRequest(request_id="r", name=NAME)
    resume.budget.trial_count = 2
    async with world.controller() as stub:
        with monkeypatch.context() as patched:
            forget(patched, "create", every=1)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.CreateExperiment(request, timeout=1.0)
        assert (await stub.CreateExperiment(request)).experiment.name == NAME
        assert (await ended(stub, NAME)).finished_trial_count == 2
        with monkeypatch.context() as patched:
            forget(patched, "answer", every=1)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ResumeExperiment(resume, timeout=1.0)
        await stub.ResumeExperiment(resume)
        assert (await ended(stub, NAME)).finished_trial_count == 4


async def test_who_calls_before_all_experiments_are_led_waits(world: SearchWorld) -> None:
    world.manners.hang = True
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
    assert world.peers is not None
    config = ControllerConfig(database_url=f"sqlite:///{world.folder}/controller.db")
    async with channel(world.peers.address, token=world.peers.token(Role.ADMIN)) as opened:
        service = await build(config, SystemClock(), lambda: opened)
        controller = service.servicers[0][1]._controller
        name = ExperimentName.parse(NAME)
        cancelling = asyncio.create_task(controller.cancel(name, lambda e: e))
        await asyncio.sleep(0.2)
        assert not cancelling.done()
        await service.start()
        assert (await cancelling).ends_as is ExperimentState.CANCELLED
        await service.stop()
        assert service.database is not None
        await service.database.close()


async def test_nothing_leads_an_experiment_that_was_deleted(
    world: SearchWorld, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.controller() as stub:
        world.manners.hang = True
        await create(stub, spec(trial_count=3))
        await _until(lambda: world.trainers and world.trainers[0].assignments)
        assert _conducted()
        request = pb.DeleteExperimentRequest(request_id=uuid.uuid4().hex, name=NAME)
        await stub.DeleteExperiment(request)
        await _until(lambda: not _conducted() and not world.allocator.live)
    assert not [r for r in caplog.records if r.message == "step failed"]


async def test_a_step_that_breaks_is_tried_again(
    world: SearchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def breaking(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps in (1, 5):
            raise KeyError("nobody thought of this")
        return advance(*args)

    monkeypatch.setattr("allotment_controller.domain.conductor.advance", breaking)
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        end = await ended(stub, NAME)
        assert (end.state, end.finished_trial_count) == (pb.EXPERIMENT_STATE_SUCCEEDED, 3)

"""Ensembles of a real controller: computed beside the trials, exported, the same every time."""

import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allotment_api.search.v1 import search_pb2 as pb
from allotment_testkit.search_world import SearchWorld, all_trials, create, ended, spec

NAME = "tenants/local/experiments/e"
ROWS = 300


class NoisyTrials:
    """Every trial sees the truth through a noise of its own, which its number decides."""

    def __init__(self, world: SearchWorld) -> None:
        self._files = world.blobs.files
        self._truth = np.random.default_rng(0).integers(0, 2, ROWS)
        world.manners.score = self.score
        world.manners.predictions_sha256 = self.put

    def score(self, assignment: Any) -> float:
        return float(-np.log(self._said(assignment)[np.arange(ROWS), self._truth]).mean())

    def put(self, assignment: Any) -> str:
        stream = io.BytesIO()
        np.savez(
            stream,
            rows=np.arange(ROWS),
            predictions=self._said(assignment),
            truth=self._truth,
            weights=np.ones(ROWS),
            positive=np.array(1),
        )
        sha256 = hashlib.sha256(stream.getvalue()).hexdigest()
        self._files[sha256] = stream.getvalue()
        return sha256

    def _said(self, assignment: Any) -> Any:
        number = int(assignment.trial.rpartition("/")[2])
        noise = np.random.default_rng(number).normal(size=(ROWS, 2)) * (1 + number % 3)
        raised = np.exp(np.eye(2)[self._truth] * (2.0 if number > 1 else 0.1) + noise)
        return raised / raised.sum(axis=1, keepdims=True)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SearchWorld]:
    async with SearchWorld(tmp_path).open() as opened:
        NoisyTrials(opened)
        yield opened


async def best_model(stub: Any, name: str) -> pb.Model:
    model: pb.Model = (await stub.GetModel(pb.GetModelRequest(name=f"{name}/models/best"))).model
    return model


def content(model: pb.Model) -> tuple[Any, ...]:
    """What a model is made of, without names that differ from experiment to experiment."""
    members = [(m.trial.rpartition("/")[2], m.weight) for m in model.source.members]
    return members, model.source.score, model.source.calibration.temperature


def best_trial(trials: list[pb.Trial]) -> float:
    return min(t.score for t in trials if t.state == pb.TRIAL_STATE_SUCCEEDED)


async def test_the_best_model_is_an_ensemble_of_all_that_finished(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=7))
        end = await ended(stub, NAME)
        model = await best_model(stub, NAME)
        trials = await all_trials(stub, NAME)
        assert len(model.source.members) > 1
        assert model.source.family == "families/ensemble"
        assert model.source.graph_sha256 == ""
        assert end.best_score == model.source.score < best_trial(trials)
        assert sum(m.weight for m in model.source.members) == pytest.approx(1)
        assert {m.trial for m in model.source.members} == set(model.source.trials)
        assert "ece" in model.source.metrics
        held = world.blobs.held[model.name]
        assert all(any(m.graph_sha256 in blob for blob in held) for m in model.source.members)


async def test_the_best_downloadable_model_never_gets_worse(world: SearchWorld) -> None:
    world.exporter.delay_s = 0.05
    async with world.controller() as stub:
        await create(stub, spec(trial_count=9))
        scores = []
        async for response in stub.WatchExperiment(pb.WatchExperimentRequest(name=NAME)):
            if response.experiment.best_model:
                scores.append(response.experiment.best_score)
        assert scores == sorted(scores, reverse=True)


async def test_the_same_trials_end_in_the_same_model_whatever_the_timing(
    world: SearchWorld,
) -> None:
    ends = []
    async with world.controller() as stub:
        for number, (train_s, delay_s) in enumerate(((0.0, 0.2), (0.05, 0.0), (0.0, 0.0))):
            world.manners.train_s, world.exporter.delay_s = train_s, delay_s
            await create(stub, spec(trial_count=8), f"e{number}")
            await ended(stub, f"tenants/local/experiments/e{number}")
            ends.append(content(await best_model(stub, f"tenants/local/experiments/e{number}")))
    assert ends[0] == ends[1] == ends[2]
    assert ends[0][0]


async def test_a_restart_loses_no_ensemble(world: SearchWorld) -> None:
    world.manners.train_s = 0.1
    async with world.controller() as stub:
        await create(stub, spec(trial_count=8))
        while sum(len(t.assignments) for t in world.trainers) < 5:
            async for _ in stub.WatchExperiment(pb.WatchExperimentRequest(name=NAME)):
                break
    async with world.controller() as stub:
        await ended(stub, NAME)
        model = await best_model(stub, NAME)
        assert len(model.source.members) > 1
        assert model.source.score < best_trial(await all_trials(stub, NAME))


async def test_a_refused_ensemble_is_not_tried_for_ever(world: SearchWorld) -> None:
    world.exporter.refused = {str(n) for n in range(2, 20)}
    async with world.controller() as stub:
        await create(stub, spec(trial_count=6))
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert (await best_model(stub, NAME)).source.trials == [f"{NAME}/trials/1"]
        request = pb.ListModelsRequest(parent=NAME)
        assert len((await stub.ListModels(request)).models) < 14


async def test_lost_predictions_leave_single_trials(world: SearchWorld) -> None:
    world.manners.predictions_sha256 = lambda assignment: "3" * 64
    async with world.controller() as stub:
        await create(stub, spec(trial_count=5))
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        model = await best_model(stub, NAME)
        assert not model.source.members
        assert model.source.score == best_trial(await all_trials(stub, NAME))


async def test_an_ensemble_that_breaks_holds_up_no_model(
    world: SearchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise IndexError("nobody thought of this")

    monkeypatch.setattr("allotment_controller.domain.mixing.best_recipe", broken)
    async with world.controller() as stub:
        await create(stub, spec(trial_count=5))
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert end.best_score == best_trial(await all_trials(stub, NAME))

"""A model is made anew on a newer version: its own trials again, and no search."""

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
AGAIN = "tenants/local/experiments/again"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SearchWorld]:
    async with SearchWorld(tmp_path).open() as opened:
        yield opened


def refit(model: str = f"{NAME}/models/best", **fields: Any) -> pb.RefitModelRequest:
    named = {"request_id": "refit", "experiment_id": "again", **fields}
    return pb.RefitModelRequest(name=model, **named)


async def refusal(call: Any) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def searched(stub: Any) -> pb.Model:
    """The best model of a search that has ended."""
    await create(stub, spec(trial_count=5))
    await ended(stub, NAME)
    model: pb.Model = (await stub.GetModel(pb.GetModelRequest(name=f"{NAME}/models/best"))).model
    return model


async def test_a_refit_trains_the_models_own_trial_and_makes_one_model(world: SearchWorld) -> None:
    async with world.controller() as stub:
        old = await searched(stub)
        before = [a for t in world.trainers for a in t.assignments]
        response = await stub.RefitModel(
            refit(dataset_version="tenants/local/datasets/d/versions/9")
        )
        assert response.experiment.name == AGAIN
        assert response.experiment.refit_of == old.name
        end = await ended(stub, AGAIN)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert end.spec.dataset_version.endswith("/versions/9")
        [trial] = await all_trials(stub, AGAIN)
        source = (await stub.GetTrial(pb.GetTrialRequest(name=old.source.trials[0]))).trial
        assert list(trial.derivation) == list(source.derivation)
        assert trial.origin == "REFIT"
        model = (await stub.GetModel(pb.GetModelRequest(name=end.best_model))).model
        assert model.state == pb.MODEL_STATE_READY
        assert model.source.dataset_version.endswith("/versions/9")
        assert [m.name for m in (await stub.ListModels(pb.ListModelsRequest(parent=AGAIN))).models]
        [first] = [a for a in before if a.trial == source.name]
        again = [a for t in world.trainers for a in t.assignments if a.trial == trial.name][-1]
        assert again.seed == first.seed
        assert again.split == first.split
        assert again.feature_columns == first.feature_columns
        assert not again.rungs
        kept = (await stub.GetModel(pb.GetModelRequest(name=old.name))).model
        assert kept == old, "the old model stays as it is"


async def test_the_latest_version_is_the_default_and_a_repeated_call_changes_nothing(
    world: SearchWorld,
) -> None:
    async with world.controller() as stub:
        await searched(stub)
        first = await stub.RefitModel(refit())
        assert first.experiment.spec.dataset_version == "tenants/local/datasets/d/versions/3"
        assert await stub.RefitModel(refit()) == first
        await ended(stub, AGAIN)
        assert len((await stub.ListModels(pb.ListModelsRequest(parent=AGAIN))).models) == 1


async def test_a_refit_of_a_refit_keeps_the_first_ones_seed(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await searched(stub)
        await stub.RefitModel(refit())
        await ended(stub, AGAIN)
        await stub.RefitModel(
            refit(f"{AGAIN}/models/1", request_id="second", experiment_id="third")
        )
        end = await ended(stub, "tenants/local/experiments/third")
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assigned = [a for t in world.trainers for a in t.assignments]
        seeds = {a.seed for a in assigned if a.trial.startswith((AGAIN, end.name))}
        assert len(seeds) == 1


async def test_a_refit_survives_a_restart(world: SearchWorld) -> None:
    world.manners.train_s = 0.3
    async with world.controller() as stub:
        await searched(stub)
        await stub.RefitModel(refit())
    async with world.controller() as stub:
        end = await ended(stub, AGAIN)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert end.refit_of.startswith(NAME)


async def test_what_can_not_be_refitted_is_refused(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await searched(stub)
        gone = await refusal(stub.RefitModel(refit(f"{NAME}/models/99")))
        assert gone.reason == "MODEL_NOT_FOUND"
        other = "tenants/other/datasets/d/versions/1"
        assert (await refusal(stub.RefitModel(refit(dataset_version=other)))).reason in (
            "VERSION_NOT_FOUND",
            "NOT_FOUND",
        )
        world.datasets.columns = ("age", "y")
        missing = await refusal(stub.RefitModel(refit()))
        assert missing.reason == "COLUMN_NOT_FOUND"
        assert "'fare'" in missing.message

"""The controller over real gRPC, with pretended neighbours and trainers on real sessions."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from allotment_api.search.v1 import search_pb2 as pb
from allotment_core.errors import AllotmentError
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.pretend_trainer import failure
from allotment_testkit.search_world import SearchWorld, all_trials, create, ended, spec

NAME = "tenants/local/experiments/e"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SearchWorld]:
    async with SearchWorld(tmp_path).open() as opened:
        yield opened


async def refusal(call: Any) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_an_experiment_goes_from_creation_to_its_best_model(world: SearchWorld) -> None:
    async with world.controller() as stub:
        made = await create(stub, spec(trial_count=6))
        assert made.state == pb.EXPERIMENT_STATE_RUNNING
        assert made.spec.dataset_version == "tenants/local/datasets/d/versions/3"
        assert list(made.classes) == ["no", "yes"]
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert end.finished_trial_count == 6
        trials = await all_trials(stub, NAME)
        assert [t.origin for t in trials][:2] == ["CONSTANT", "DEFAULT"]
        best = min(t.score for t in trials)
        assert end.best_score == best
        model = (await stub.GetModel(pb.GetModelRequest(name=f"{NAME}/models/best"))).model
        assert model.state == pb.MODEL_STATE_READY
        assert model.name == end.best_model
        assert model.source.score == best
        assert f"tenants/local/blobs/{model.source.graph_sha256}" in world.blobs.held[model.name]
    assert not world.allocator.live


async def test_the_same_seed_gives_the_same_leaderboard(tmp_path: Path) -> None:
    boards = []
    for run in range(2):
        folder = tmp_path / str(run)
        folder.mkdir()
        async with SearchWorld(folder).open() as world, world.controller() as stub:
            await create(stub, spec(trial_count=25))
            await ended(stub, NAME)
            boards.append(
                [
                    (t.name, t.family, list(t.derivation), t.score)
                    for t in await all_trials(stub, NAME)
                ]
            )
    assert boards[0] == boards[1]
    assert len(boards[0]) == 25


async def test_repeated_and_reordered_reports_count_once(world: SearchWorld) -> None:
    world.manners.repeat, world.manners.shuffle = 3, True
    async with world.controller() as stub:
        await create(stub, spec(trial_count=8))
        end = await ended(stub, NAME)
        assert end.finished_trial_count == 8
        trials = await all_trials(stub, NAME)
        assert all(t.state == pb.TRIAL_STATE_SUCCEEDED for t in trials)
        assert all(t.epoch == 1 for t in trials)
    assert len({a.trial for t in world.trainers for a in t.assignments}) == 8


async def test_a_lost_acknowledgement_loses_and_doubles_nothing(world: SearchWorld) -> None:
    world.manners.break_after = {1, 2, 3, 5, 8}
    async with world.controller() as stub:
        await create(stub, spec(trial_count=10, without_early_stopping=True))
        end = await ended(stub, NAME)
        assert end.finished_trial_count == 10
        trials = await all_trials(stub, NAME)
        assert all(t.state == pb.TRIAL_STATE_SUCCEEDED for t in trials)
    assert sum(t.sessions for t in world.trainers) > 1


async def test_a_restarted_controller_goes_on(world: SearchWorld) -> None:
    world.manners.train_s = 0.25
    async with world.controller() as stub:
        await create(stub, spec(trial_count=12, without_early_stopping=True))
        await _until(lambda: sum(len(t.assignments) for t in world.trainers) >= 4)
    async with world.controller() as stub:
        await _until(lambda: sum(len(t.assignments) for t in world.trainers) >= 8)
    async with world.controller() as stub:
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert end.finished_trial_count == 12
        trials = await all_trials(stub, NAME)
        assert [t.state for t in trials] == [pb.TRIAL_STATE_SUCCEEDED] * 12
        assert all(t.epoch == 1 for t in trials), "their trainers came back in time"


async def test_a_trial_whose_trainer_dies_is_tried_again_at_no_cost(world: SearchWorld) -> None:
    world.manners.hang = True
    async with world.controller() as stub:
        await create(stub, spec(trial_count=2))
        await _until(lambda: bool(world.trainers and world.trainers[0].assignments))
        world.manners.hang = False
        world.allocator.restart(world.allocator.live[0].name)
        await ended(stub, NAME)
        first = (await all_trials(stub, NAME))[0]
        assert first.epoch == 2
        assert [(a.cause, a.count) for a in first.attempts] == [(pb.ATTEMPT_CAUSE_LOST, 1)]


async def test_three_strikes_quarantine_a_trial_with_its_last_words(world: SearchWorld) -> None:
    def outcome(assignment: Any) -> Any:
        return failure("CRASH") if assignment.trial.endswith("/2") else None

    world.manners.outcome = outcome
    async with world.controller() as stub:
        await create(stub, spec(trial_count=4))
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        second = (await all_trials(stub, NAME))[1]
        assert second.state == pb.TRIAL_STATE_QUARANTINED
        assert second.log_tail == "last words"
        assert [(a.cause, a.count) for a in second.attempts] == [(pb.ATTEMPT_CAUSE_CRASH, 3)]


async def test_an_experiment_whose_every_trial_fails_fails_with_the_reason(
    world: SearchWorld,
) -> None:
    world.manners.outcome = lambda assignment: failure("REFUSED", "BAD_DATA")
    async with world.controller() as stub:
        await create(stub, spec(trial_count=30))
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_FAILED
        assert end.problem.reason == "BAD_DATA"
        assert len(await all_trials(stub, NAME)) < 15


async def test_a_score_that_is_not_a_number_stops_the_trial(world: SearchWorld) -> None:
    world.manners.score = lambda a: float("nan") if a.trial.endswith("/2") else 0.5
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        await ended(stub, NAME)
        states = [t.state for t in await all_trials(stub, NAME)]
        assert states[1] == pb.TRIAL_STATE_STOPPED


async def test_a_refused_model_never_becomes_the_best(world: SearchWorld) -> None:
    world.manners.score = lambda a: 1.0 / int(a.trial.rpartition("/")[2])
    world.exporter.refused = {"4"}
    async with world.controller() as stub:
        await create(stub, spec(trial_count=4))
        end = await ended(stub, NAME)
        assert end.best_score == pytest.approx(1 / 3)
        models = (await stub.ListModels(pb.ListModelsRequest(parent=NAME))).models
        refused = [m for m in models if m.state == pb.MODEL_STATE_REFUSED]
        assert [m.problem.reason for m in refused] == ["NOT_PARITY"]


async def test_a_time_budget_ends_before_its_deadline_with_a_model(world: SearchWorld) -> None:
    world.manners.train_s = 0.3
    wanted = spec(wall_time_s=10.0)
    wanted.budget.started_before.FromSeconds(7)
    async with world.controller() as stub:
        made = await create(stub, wanted)
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert end.best_model
        late_s = (end.end_time.ToNanoseconds() - made.deadline.ToNanoseconds()) / 1e9
        assert late_s < 2.0


async def test_a_slow_trial_is_stopped_at_the_deadline(world: SearchWorld) -> None:
    world.manners.outcome = lambda a: None
    wanted = spec(wall_time_s=10.0)
    wanted.budget.started_before.FromSeconds(4)
    async with world.controller() as stub:
        await create(stub, wanted)
        await _until(lambda: bool(world.trainers and len(world.trainers[0].assignments) > 1))
        world.manners.train_s = 60.0
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
        assert end.best_model
        last = (await all_trials(stub, NAME))[-1]
        assert last.state == pb.TRIAL_STATE_CANCELLED
    assert [s.reason for t in world.trainers for s in t.stops] == ["DEADLINE"]


async def test_pause_returns_trials_and_resume_goes_on(world: SearchWorld) -> None:
    world.manners.hang = True
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        await _until(lambda: bool(world.trainers and world.trainers[0].assignments))
        request = pb.PauseExperimentRequest(request_id=uuid.uuid4().hex, name=NAME)
        paused = (await stub.PauseExperiment(request)).experiment
        again = (await stub.PauseExperiment(request)).experiment
        assert paused == again
        assert paused.state == pb.EXPERIMENT_STATE_PAUSED
        await _until(lambda: not world.allocator.live)
        trial = (await all_trials(stub, NAME))[0]
        assert trial.state == pb.TRIAL_STATE_QUEUED
        assert [a.cause for a in trial.attempts] == [pb.ATTEMPT_CAUSE_PAUSED]
        world.manners.hang = False
        await stub.ResumeExperiment(
            pb.ResumeExperimentRequest(request_id=uuid.uuid4().hex, name=NAME)
        )
        assert (await ended(stub, NAME)).finished_trial_count == 3
        refused = await refusal(
            stub.PauseExperiment(pb.PauseExperimentRequest(request_id=uuid.uuid4().hex, name=NAME))
        )
        assert refused.reason == "ILLEGAL_MOVE"


async def test_cancel_finishes_the_best_model_first(world: SearchWorld) -> None:
    world.exporter.delay_s = 0.3
    async with world.controller() as stub:
        await create(stub, spec(trial_count=1000))
        await _until(lambda: bool(world.exporter.exports))
        request = pb.CancelExperimentRequest(request_id=uuid.uuid4().hex, name=NAME)
        await stub.CancelExperiment(request)
        end = await ended(stub, NAME)
        assert end.state == pb.EXPERIMENT_STATE_CANCELLED
        assert end.best_model
        await _until(lambda: not world.allocator.live)


async def test_delete_forgets_the_experiment_and_releases_its_blobs(world: SearchWorld) -> None:
    async with world.controller() as stub:
        made = await create(stub, spec(trial_count=1000))
        wrong = pb.DeleteExperimentRequest(request_id=uuid.uuid4().hex, name=NAME, etag="0")
        assert (await refusal(stub.DeleteExperiment(wrong))).reason == "ETAG_MISMATCH"
        await stub.DeleteExperiment(
            pb.DeleteExperimentRequest(request_id=uuid.uuid4().hex, name=made.name)
        )
        missing = await refusal(stub.GetExperiment(pb.GetExperimentRequest(name=NAME)))
        assert missing.reason == "EXPERIMENT_NOT_FOUND"
        await _until(lambda: not world.allocator.live)
        await _until(lambda: NAME in world.blobs.released)
        await create(stub, spec(trial_count=2))
        assert (await ended(stub, NAME)).finished_trial_count == 2


async def test_a_watch_resumes_after_a_revision(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=5))
        await ended(stub, NAME)
        seen = [r async for r in stub.WatchExperiment(pb.WatchExperimentRequest(name=NAME))]
        revisions = [r.revision for r in seen[1:]]
        assert revisions == sorted(set(revisions))
        middle = revisions[len(revisions) // 2]
        request = pb.WatchExperimentRequest(name=NAME, after_revision=middle)
        rest = [r.revision async for r in stub.WatchExperiment(request)][1:]
        assert rest == [r for r in revisions if r > middle]
        models = [m async for m in stub.WatchModels(pb.WatchModelsRequest(parent=NAME))]
        scores = [m.model.source.score for m in models]
        assert scores == sorted(scores, reverse=True)


async def test_lists_come_in_pages(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=5))
        await ended(stub, NAME)
        names, token = [], ""
        while True:
            request = pb.ListTrialsRequest(parent=NAME, page_size=2, page_token=token)
            page = await stub.ListTrials(request)
            names += [t.name for t in page.trials]
            token = page.next_page_token
            if not token:
                break
        assert names == [f"{NAME}/trials/{n}" for n in range(1, 6)]
        experiments = await stub.ListExperiments(pb.ListExperimentsRequest(parent="tenants/local"))
        assert [e.name for e in experiments.experiments] == [NAME]
        families = (await stub.ListFamilies(pb.ListFamiliesRequest(page_size=4))).families
        assert families[0].name == "families/constant"
        assert all(f.available for f in families)


BAD = [
    ({"wall_time_s": 9.0}, "BUDGET_TOO_SHORT", "at least 10 s"),
    ({}, "NO_BUDGET", "wall_time"),
    ({"trial_count": 3, "target": "Y1"}, "TARGET_NOT_FOUND", "did you mean 'y'?"),
    ({"trial_count": 3, "metric": 6}, "METRIC_TASK_MISMATCH", "log_loss"),
    ({"trial_count": 3, "ignored_columns": ["agee"]}, "COLUMN_NOT_FOUND", "'age'"),
    ({"trial_count": 3, "families": ["families/xgboost"]}, "UNKNOWN_FAMILY", "lightgbm"),
    ({"trial_count": 3, "weight_column": "y"}, "COLUMN_CONFLICT", "target"),
    ({"trial_count": 3, "weight_column": "town"}, "WEIGHT_NOT_NUMERIC", "numbers"),
    ({"trial_count": 3, "ignored_columns": ["age", "fare", "town"]}, "NO_FEATURES", "no column"),
    ({"trial_count": 3, "dataset_version": "d/3"}, "INVALID_NAME", "versions"),
]


@pytest.mark.parametrize(("fields", "reason", "text"), BAD, ids=[b[1] for b in BAD])
async def test_what_cannot_be_learnt_is_refused_with_the_reason(
    world: SearchWorld, fields: dict[str, Any], reason: str, text: str
) -> None:
    async with world.controller() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(stub, spec(**fields))
        error = from_rpc_error(caught.value)
        assert error.reason == reason
        assert text in str(error)


async def _until(fact: Any, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not fact():  # noqa: ASYNC110 (facts of several parties, without an event)
            await asyncio.sleep(0.01)

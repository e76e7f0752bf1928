"""Early stopping over real sessions: put off, taken up again, and nothing lost in between."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allotment_api.search.v1 import search_pb2 as pb
from allotment_api.trainer.v1 import session_pb2
from allotment_testkit.search_world import SearchWorld, all_trials, create, ended, spec

NAME = "tenants/local/experiments/e"
TRIALS = 40


def world_in(
    folder: Path, fold_count: int = 8, sampler: str = "random", fit_rungs: int = 2
) -> SearchWorld:
    folder.mkdir(exist_ok=True)
    # A busy machine may take long to start again: a trainer's work is not to be given up meanwhile.
    world = SearchWorld(
        folder,
        early_stopping_saving_s=0.0,
        early_stopping_grace=4,
        early_stopping_fit_rungs=fit_rungs,
        sampler=sampler,
        away_grace_s=20.0,
    )
    world.manners.fold_count = fold_count
    world.manners.score = _late_ones_are_bad
    return world


def _late_ones_are_bad(assignment: session_pb2.Assignment) -> float:
    """Late trials are bad, so that some of the earlier ones come back."""
    number = int(assignment.trial.rpartition("/")[2])
    return (number * 0.6180339887) % 1.0 + (5.0 if number >= 28 else 0.0)


async def _play(
    world: SearchWorld, kills_at: tuple[int, ...] = (), **fields: Any
) -> tuple[pb.Experiment, list[pb.Trial]]:
    """Played to its end; the controller is killed when so many trials have begun."""
    async with world.open():
        for number, begun in enumerate((*kills_at, TRIALS)):
            async with world.controller() as stub:
                if not number:
                    await create(stub, spec(trial_count=TRIALS, **fields))
                if number < len(kills_at):
                    await _trials_begun(stub, begun)
                    continue
                return await ended(stub, NAME), await all_trials(stub, NAME)
    raise AssertionError


async def _trials_begun(stub: object, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await all_trials(stub, NAME)) < count:  # noqa: ASYNC110 (another server's fact)
            await asyncio.sleep(0.01)


async def _until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 (a fact of another task)
            await asyncio.sleep(0.01)


async def test_trials_that_others_beat_are_put_off_and_some_come_back(tmp_path: Path) -> None:
    world = world_in(tmp_path, fit_rungs=0)
    end, trials = await _play(world)
    assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
    put_off = [t for t in trials if t.state == pb.TRIAL_STATE_CANCELLED]
    assert all(t.finished_folds in (1, 3) for t in put_off)
    assert len(put_off) == end.early_stopping.paused_trial_count > 3
    assert {t.state for t in trials} == {pb.TRIAL_STATE_SUCCEEDED, pb.TRIAL_STATE_CANCELLED}
    judged = [t for t in trials if t.origin not in ("CONSTANT", "DEFAULT")]
    best = min(t.score for t in trials if t.state == pb.TRIAL_STATE_SUCCEEDED)
    assert end.best_score <= best
    assert any(t.state == pb.TRIAL_STATE_SUCCEEDED for t in judged)
    handed = [a for trainer in world.trainers for a in trainer.assignments]
    assert len(handed) == len({(a.trial, a.trial_epoch) for a in handed}), "none is assigned twice"
    stops = [s for trainer in world.trainers for s in trainer.stops]
    left = {(s.trial, s.trial_epoch + 1) for s in stops}
    again = [a for a in handed if (a.trial, a.trial_epoch) in left]
    assert again, "some came back"
    assert all(a.checkpoint_sha256 for a in again)
    assert all(1 not in a.rungs for a in again), "they are not judged again where they were"
    assert {s.reason for s in stops} == {"NO_POTENTIAL"}
    assert any(owner.startswith(f"{NAME}/checkpoints/") for owner in world.blobs.released)


async def test_some_are_put_off_within_their_first_fit(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    end, trials = await _play(world)
    assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
    put_off = [t for t in trials if t.state == pb.TRIAL_STATE_CANCELLED]
    within = [t for t in put_off if not t.finished_folds]
    assert within
    assert {t.family for t in within} <= {"families/lightgbm", "families/hist_gradient_boosting"}
    assert len(put_off) == end.early_stopping.paused_trial_count
    handed = [a for trainer in world.trainers for a in trainer.assignments]
    left = {(s.trial, s.trial_epoch + 1) for t in world.trainers for s in t.stops}
    again = [a for a in handed if (a.trial, a.trial_epoch) in left]
    assert again, "some came back"
    for a in again:
        assert 9 not in a.fit_rungs, "they are not judged again where they were"
        assert not (a.checkpoint_sha256 and (a.fit_rungs or 1 in a.rungs))


@pytest.mark.parametrize(
    ("sampler", "kills_at"), [("random", (3, 11)), ("tpe", (3, 22, 24, 26, 28, 30, 32, 34, 36))]
)
async def test_a_controller_that_is_killed_puts_the_same_trials_off(
    tmp_path: Path, sampler: str, kills_at: tuple[int, ...]
) -> None:
    _, calm = await _play(world_in(tmp_path / "calm", sampler=sampler))
    end, rough = await _play(world_in(tmp_path / "rough", sampler=sampler), kills_at)
    assert end.finished_trial_count == TRIALS

    def outcome(trials: list[pb.Trial]) -> list[tuple[str, int, float, list[bytes]]]:
        return [
            (t.name, t.state, t.score, [c.SerializeToString() for c in t.derivation])
            for t in trials
        ]

    assert outcome(rough) == outcome(calm)


async def test_without_early_stopping_nothing_is_put_off(tmp_path: Path) -> None:
    async with world_in(tmp_path).open() as world, world.controller() as stub:
        made = await create(stub, spec(trial_count=20, without_early_stopping=True))
        assert made.spec.without_early_stopping
        end = await ended(stub, NAME)
        trials = await all_trials(stub, NAME)
    assert {t.state for t in trials} == {pb.TRIAL_STATE_SUCCEEDED}
    assert end.early_stopping.paused_trial_count == 0
    handed = [a for trainer in world.trainers for a in trainer.assignments]
    assert all(not a.rungs and not a.fit_rungs for a in handed)


async def test_a_hold_out_is_judged_within_its_one_fit(tmp_path: Path) -> None:
    """Its one fold has no rungs but those within; trials without steps run to their end."""
    world = world_in(tmp_path, fold_count=1)
    end, trials = await _play(world, time_column="age")
    assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
    put_off = [t for t in trials if t.state == pb.TRIAL_STATE_CANCELLED]
    assert put_off
    assert end.early_stopping.paused_trial_count == len(put_off)
    assert {t.family for t in put_off} <= {"families/lightgbm", "families/hist_gradient_boosting"}
    handed = [a for trainer in world.trainers for a in trainer.assignments]
    assert all(not a.rungs for a in handed)
    stopped = {(s.trial, s.trial_epoch) for t in world.trainers for s in t.stops}
    assert stopped <= {(a.trial, a.trial_epoch) for a in handed if a.fit_rungs}


async def test_the_checkpoint_of_a_paused_experiment_is_gone_on_from(tmp_path: Path) -> None:
    """Pausing an experiment sends a trial back to the queue at once; what it had comes later."""
    async with world_in(tmp_path).open() as world, world.controller() as stub:
        world.manners.train_s = 30.0
        await create(stub, spec(trial_count=1))
        await _trials_begun(stub, 1)
        trainer = world.trainers[0]
        await _until(lambda: trainer.assignments)
        await stub.PauseExperiment(pb.PauseExperimentRequest(request_id="r1", name=NAME))
        await _until(lambda: trainer.stops)
        [first] = trainer.assignments
        failure = session_pb2.TrialFailure(
            cause=pb.ATTEMPT_CAUSE_PAUSED, checkpoint_sha256="c" * 64, checkpoint_folds=3
        )
        failure.key.trial, failure.key.trial_epoch, failure.key.sequence = first.trial, 1, 20
        trainer._send(session_pb2.OpenSessionRequest(failure=failure))
        await _until(lambda: not trainer._unacknowledged)
        world.manners.train_s = 0.0
        await stub.ResumeExperiment(pb.ResumeExperimentRequest(request_id="r2", name=NAME))
        await ended(stub, NAME)
        second = [a for t in world.trainers for a in t.assignments if a.trial_epoch > 1]
        assert [(a.trial_epoch, a.checkpoint_sha256) for a in second] == [(2, "c" * 64)]
        [trial] = await all_trials(stub, NAME)
        assert trial.state == pb.TRIAL_STATE_SUCCEEDED


async def test_a_checkpoint_that_comes_after_the_trials_end_is_let_go_of(tmp_path: Path) -> None:
    async with world_in(tmp_path).open() as world, world.controller() as stub:
        world.exporter.delay_s = 5.0
        await create(stub, spec(trial_count=1000))
        await _until(lambda: world.exporter.exports)
        world.manners.train_s = 600.0
        trainer = world.trainers[0]
        await _until(lambda: trainer._running)
        await stub.CancelExperiment(pb.CancelExperimentRequest(request_id="c", name=NAME))
        await _until(lambda: trainer.stops)
        [stop] = trainer.stops
        failure = session_pb2.TrialFailure(
            cause=pb.ATTEMPT_CAUSE_PREEMPTED, checkpoint_sha256="c" * 64, checkpoint_folds=3
        )
        failure.key.trial, failure.key.trial_epoch = stop.trial, stop.trial_epoch
        failure.key.sequence = 20
        trainer._send(session_pb2.OpenSessionRequest(failure=failure))
        owner = stop.trial.replace("/trials/", "/checkpoints/")
        await _until(lambda: owner in world.blobs.released)
        assert (await ended(stub, NAME)).state == pb.EXPERIMENT_STATE_CANCELLED

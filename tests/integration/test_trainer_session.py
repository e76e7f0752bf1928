"""The session: what is told survives a lost connection, once; what is ordered is done."""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_testkit.rpc import Network
from allotment_testkit.trainer_stage import LEASE, TRIALS, HostProcess, Stage, assignment, staged
from allotment_trainer import checkpoints
from allotment_trainer.processes.preload import ENVIRONMENT

TRICKY = (sys.executable, str(Path(__file__).with_name("trainer_tricky_host.py")))
T1, T2 = f"{TRIALS}/1", f"{TRIALS}/2"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


@pytest.fixture
async def host(stage: Stage) -> AsyncIterator[HostProcess]:
    async with stage.host(*TRICKY, **ENVIRONMENT) as made:
        yield made


async def _until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 (a fact of another process)
            await asyncio.sleep(0.02)


def _sleep(seconds: float) -> list[tuple[str, str | float]]:
    return [("trick", "sleep"), ("seconds", seconds)]


async def test_hello_says_what_the_trainer_is(stage: Stage, host: HostProcess) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    [hello] = stage.controller.hellos
    assert (hello.lease, hello.lease_epoch, hello.threads) == (LEASE, 1, 1)
    assert [(f.family, f.available) for f in hello.families] == [
        ("constant", True),
        ("lightgbm", False),
    ]
    assert hello.families[1].unavailable.message == "not here"
    assert "numpy" in hello.library_versions


async def test_a_trial_is_told_of_in_order_and_leaves_its_files(
    stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    part = stage.blobs.add(b"rows " * 1_000_000)
    message = assignment("1", [("trick", "none")], epoch=3)
    message.table.part_sha256.append(part)
    stage.controller.say(assignment=message)
    result = await stage.controller.result_of(T1)
    told = [(r.WhichOneof("message"), _key(r).sequence) for r in stage.controller.reports]
    assert told == [("started", 1), ("progress", 2), ("result", 3)]
    assert all(_key(r).trial_epoch == 3 for r in stage.controller.reports)
    graph = f"graph of {T1} 3".encode() * 1000
    assert result.graph_sha256 == hashlib.sha256(graph).hexdigest()
    held = stage.blobs.holds[T1]
    assert {n.rpartition("/")[2] for n in held} == {
        result.graph_sha256,
        result.reference_sha256,
        result.predictions_sha256,
    }
    assert result.cpu_s > 0
    assert result.metrics == {"rmse": 0.25}
    assert list((stage.folder / "work" / "t1").iterdir()) == []
    cached = stage.folder / "cache" / "local" / "blobs" / part
    assert cached.stat().st_size == 5_000_000


async def test_a_connection_lost_in_mid_trial_is_made_again_and_the_trial_goes_on(
    stage: Stage, host: HostProcess
) -> None:
    async with Network(stage.served.port) as network:
        host.order("start", **stage.start(server=f"127.0.0.1:{network.port}"))
        pid = (await host.answer("started"))["pid"]
        await stage.controller.connected()
        stage.controller.say(assignment=assignment("1", _sleep(7.0)))
        await stage.controller.told("progress", T1)
        trial = psutil.Process(pid).children()[0].children()[0]
        await network.down()
        await asyncio.sleep(5.0)
        assert trial.is_running()
        await network.up()
        await stage.controller.connected(2)
        assert [r.trial for r in stage.controller.hellos[1].running] == [T1]
        await stage.controller.result_of(T1)
        assert trial.pid  # the same process to the end: nothing was started twice
        assert len([r for r in stage.controller.reports if r.HasField("started")]) == 1


async def test_what_was_not_acknowledged_is_sent_again_until_it_is(
    stage: Stage, host: HostProcess
) -> None:
    async with Network(stage.served.port) as network:
        host.order("start", **stage.start(server=f"127.0.0.1:{network.port}"))
        await stage.controller.connected()
        stage.controller.acknowledges = False
        stage.controller.say(assignment=assignment("1", [("trick", "none")]))
        await stage.controller.result_of(T1)
        network.cut()
        stage.controller.acknowledges = True
        await stage.controller.until(lambda: stage.controller.deliveries[T1, 1, 3] == 2)
        assert [r.trial for r in stage.controller.hellos[1].running] == [T1]
        await stage.controller.until(
            lambda: stage.controller.heartbeats and not stage.controller.heartbeats[-1].running
        )
        network.cut()
        await stage.controller.connected(3)
        stage.controller.say(assignment=assignment("2", [("trick", "none")]))
        await stage.controller.result_of(T2)
        # Acknowledged once, never sent again.
        assert stage.controller.deliveries[T1, 1, 3] == 2
        assert stage.controller.hellos[2].running == []


async def test_a_result_waits_for_a_store_that_is_away(stage: Stage, host: HostProcess) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    stage.blobs.away = True
    stage.controller.say(assignment=assignment("1", [("trick", "none")]))
    await _until(lambda: stage.blobs.refused_count > 3)
    stage.blobs.away = False
    await stage.controller.result_of(T1)


async def test_silence_for_two_thirds_of_the_lease_stops_the_trial(
    tmp_path: Path,
) -> None:
    async with (
        staged(tmp_path, lease_ttl_s=3.0) as stage,
        stage.host(*TRICKY, **ENVIRONMENT) as host,
        Network(stage.served.port) as network,
    ):
        host.order("start", **stage.start(server=f"127.0.0.1:{network.port}"))
        pid = (await host.answer("started"))["pid"]
        await stage.controller.connected()
        stage.controller.say(assignment=assignment("1", _sleep(600.0)))
        await stage.controller.told("progress", T1)
        nursery = psutil.Process(pid).children()[0]
        await network.down()
        assert (await host.answer("idle"))["ending"] == "SILENT"
        assert nursery.children() == []


async def test_an_open_stream_without_answers_does_not_hold_the_lease(tmp_path: Path) -> None:
    async with (
        staged(tmp_path, lease_ttl_s=3.0) as stage,
        stage.host(*TRICKY, **ENVIRONMENT) as host,
    ):
        host.order("start", **stage.start())
        await stage.controller.connected()
        await stage.controller.until(lambda: len(stage.controller.heartbeats) > 2)
        stage.controller.answers_heartbeats = False
        assert (await host.answer("idle"))["ending"] == "SILENT"


async def test_a_quiet_trial_lives_longer_than_the_lease(tmp_path: Path) -> None:
    async with (
        staged(tmp_path, lease_ttl_s=1.5) as stage,
        stage.host(*TRICKY, **ENVIRONMENT) as host,
    ):
        host.order("start", **stage.start())
        await stage.controller.connected()
        stage.controller.say(assignment=assignment("1", _sleep(3.0)))
        await stage.controller.told("progress", T1)
        before = len(stage.controller.heartbeats)
        await stage.controller.until(lambda: len(stage.controller.heartbeats) >= before + 5)
        said = stage.controller.heartbeats[before : before + 5]
        assert [[r.trial for r in beat.running] for beat in said] == [[T1]] * 5
        await stage.controller.result_of(T1)
        assert len(stage.controller.hellos) == 1


@pytest.mark.parametrize(("reason", "cause"), [("PAUSED", "PAUSED"), ("CANCELLED", "PREEMPTED")])
async def test_a_stopped_trial_ends_and_the_next_is_taken(
    stage: Stage, host: HostProcess, reason: str, cause: str
) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    stage.controller.say(assignment=assignment("1", _sleep(600.0)))
    await stage.controller.told("progress", T1)
    stage.controller.say(stop=pb.StopTrial(trial=T1, trial_epoch=1, reason=reason))
    failure = await stage.controller.failure_of(T1)
    assert search_pb2.AttemptCause.Name(failure.cause) == f"ATTEMPT_CAUSE_{cause}"
    assert failure.problem.reason == reason
    stage.controller.say(assignment=assignment("2", [("trick", "none")]))
    await stage.controller.result_of(T2)


async def test_a_stop_for_another_epoch_is_not_for_this_trial(
    stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    stage.controller.say(assignment=assignment("1", _sleep(1.0), epoch=2))
    await stage.controller.told("progress", T1)
    stage.controller.say(stop=pb.StopTrial(trial=T1, trial_epoch=1, reason="CANCELLED"))
    await stage.controller.result_of(T1)


async def test_a_revoked_lease_ends_its_trial_and_the_session(
    stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    stage.controller.say(assignment=assignment("1", _sleep(600.0)))
    await stage.controller.told("progress", T1)
    # Longer than this test waits: it leaves as soon as it has said what there is to say.
    stage.controller.revoke("PREEMPTED", grace_s=120.0)
    failure = await stage.controller.failure_of(T1)
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_PREEMPTED
    assert (await host.answer("idle"))["ending"] == "PREEMPTED"


async def test_what_is_done_is_handed_in_when_the_lease_is_revoked(
    stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    stage.blobs.away = True
    stage.controller.say(assignment=assignment("1", [("trick", "none")]))
    await _until(lambda: stage.blobs.refused_count > 0)
    stage.controller.revoke("PREEMPTED", grace_s=60.0)
    refused = stage.blobs.refused_count
    await _until(lambda: stage.blobs.refused_count > refused + 3)
    stage.blobs.away = False
    await stage.controller.result_of(T1)
    assert (await host.answer("idle"))["ending"] == "PREEMPTED"


async def test_a_lease_that_is_not_ours_ends_the_session(stage: Stage, host: HostProcess) -> None:
    other = stage.lease("tenants/local/leases/other")["token"]
    host.order("start", **stage.start(lease=f"{LEASE}x", token=other))
    assert (await host.answer("idle"))["ending"] == "EXPIRED"
    assert stage.controller.hellos == []


async def test_two_trainers_share_the_cache(stage: Stage, host: HostProcess) -> None:
    host.order("start", **stage.start("t1"))
    await stage.controller.connected()
    part = stage.blobs.add(b"rows")
    message = assignment("1", [("trick", "none")])
    message.table.part_sha256.append(part)
    stage.controller.say(assignment=message)
    await stage.controller.result_of(T1)
    del stage.blobs.blobs[f"tenants/local/blobs/{part}"]

    second = "tenants/local/leases/l2"
    host.order("start", **{**stage.start("t2"), **stage.lease(second)})
    await stage.controller.connected(2)
    message.trial = T2
    stage.controller.say(assignment=message)
    await stage.controller.result_of(T2)


def _key(request: pb.OpenSessionRequest) -> pb.ReportKey:
    key: pb.ReportKey = getattr(request, str(request.WhichOneof("message"))).key
    return key


async def _put_off(stage: Stage, reason: str, trick: str = "folds") -> pb.TrialFailure:
    """What a trial that has fitted a fold leaves when it is stopped for this reason."""
    await stage.controller.connected()
    stage.controller.say(assignment=assignment("1", [("trick", trick)]))
    folds = stage.folder / "work" / "t1"
    await _until(lambda: [f for f in folds.glob("trial-*/folds/*.npz") if f.stat().st_size])
    if reason == "PREEMPTED":
        stage.controller.revoke("PREEMPTED", 5.0)
    else:
        stop = pb.StopTrial(trial=T1, trial_epoch=1, reason=reason)
        stage.controller.say(stop=stop)
    return await stage.controller.failure_of(T1)


async def test_a_trial_that_is_put_off_leaves_its_folds_and_goes_on_from_them(
    stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    failure = await _put_off(stage, "NO_POTENTIAL")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_PAUSED
    assert failure.checkpoint_folds == 1
    [held] = stage.blobs.holds[checkpoints.owner_of(T1)]
    assert held.endswith(failure.checkpoint_sha256)
    again = assignment("2", [("trick", "folds")])
    again.checkpoint_sha256 = failure.checkpoint_sha256
    stage.controller.say(assignment=again)
    result = await stage.controller.result_of(T2)
    assert result.score == 0.25


async def test_a_trial_that_is_put_off_within_a_fit_leaves_its_state(
    stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    failure = await _put_off(stage, "NO_POTENTIAL", trick="fit")
    assert (failure.checkpoint_folds, failure.checkpoint_steps) == (0, 12)
    again = assignment("2", [("trick", "fit")])
    again.checkpoint_sha256 = failure.checkpoint_sha256
    stage.controller.say(assignment=again)
    await stage.controller.result_of(T2)


async def test_a_trial_whose_lease_is_taken_back_leaves_its_folds(
    stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    failure = await _put_off(stage, "PREEMPTED")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_PREEMPTED
    assert failure.checkpoint_folds == 1
    assert failure.checkpoint_sha256


async def test_a_cancelled_trial_leaves_nothing(stage: Stage, host: HostProcess) -> None:
    host.order("start", **stage.start())
    failure = await _put_off(stage, "CANCELLED")
    assert (failure.checkpoint_sha256, failure.checkpoint_folds) == ("", 0)
    assert checkpoints.owner_of(T1) not in stage.blobs.holds


async def test_a_checkpoint_that_is_gone_costs_no_trial(stage: Stage, host: HostProcess) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    message = assignment("1", [("trick", "none")])
    message.checkpoint_sha256 = "0" * 64
    stage.controller.say(assignment=message)
    await stage.controller.result_of(T1)


@pytest.mark.parametrize("within", [False, True])
async def test_a_result_waits_for_the_word_on_its_last_rung(
    within: bool, stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    stage.controller.acknowledges = False
    message = assignment("1", [("trick", "within" if within else "none")])
    (message.fit_rungs if within else message.rungs).append(3 if within else 1)
    stage.controller.say(assignment=message)
    await stage.controller.told("progress", T1)
    await asyncio.sleep(1.0)
    assert T1 not in stage.blobs.holds, "nothing is stored of a trial that may be put off"
    stage.controller.acknowledges = True
    for report in list(stage.controller.reports):
        stage.controller.say(acknowledgement=pb.Acknowledgement(key=_key(report)))
    await stage.controller.result_of(T1)

"""A trial may fail in every way; its trainer works on, and says why."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_testkit.trainer_stage import TRIALS, HostProcess, Stage, assignment, staged
from allotment_trainer.processes.preload import ENVIRONMENT

TRICKY = (sys.executable, str(Path(__file__).with_name("trainer_tricky_host.py")))
MEMORY = 192 << 20


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


@pytest.fixture
async def host(stage: Stage) -> AsyncIterator[HostProcess]:
    async with stage.host(*TRICKY, **ENVIRONMENT) as made:
        made.order("start", **stage.start())
        await stage.controller.connected()
        yield made


async def _failure(stage: Stage, trick: str, **fields: int) -> pb.TrialFailure:
    stage.controller.say(assignment=assignment("1", [("trick", trick)], **fields))
    return await stage.controller.failure_of(f"{TRIALS}/1")


async def _works_on(stage: Stage) -> None:
    stage.controller.say(assignment=assignment("2", [("trick", "none")]))
    await stage.controller.result_of(f"{TRIALS}/2")
    assert len(stage.controller.hellos) == 1


@pytest.mark.parametrize("trick", ["eat", "gulp"])
async def test_too_much_memory_ends_the_trial_alone(
    stage: Stage, host: HostProcess, trick: str
) -> None:
    failure = await _failure(stage, trick, memory_bytes=MEMORY)
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_OUT_OF_MEMORY
    assert "192 MiB" in failure.problem.message
    await _works_on(stage)


async def test_a_crash_is_named_by_its_signal(stage: Stage, host: HostProcess) -> None:
    failure = await _failure(stage, "crash")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_CRASH
    assert "SIGABRT" in failure.problem.message
    assert "trick crash" in failure.log_tail
    await _works_on(stage)


async def test_a_killed_trial_is_a_crash(stage: Stage, host: HostProcess) -> None:
    pid = (await host.answer("started"))["pid"]
    stage.controller.say(assignment=assignment("1", [("trick", "spin")]))
    await stage.controller.told("progress", f"{TRIALS}/1")
    trial = psutil.Process(pid).children()[0].children()[0]
    trial.kill()
    failure = await stage.controller.failure_of(f"{TRIALS}/1")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_CRASH
    await _works_on(stage)


async def test_a_trial_past_its_deadline_is_ended(stage: Stage, host: HostProcess) -> None:
    # By the server's clock, which need not be ours.
    now = datetime(2001, 1, 1, tzinfo=UTC)
    message = assignment("1", [("trick", "spin")])
    message.server_time.FromDatetime(now)
    message.deadline.FromDatetime(now + timedelta(seconds=0.5))
    stage.controller.say(assignment=message)
    failure = await stage.controller.failure_of(f"{TRIALS}/1")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_TIMEOUT
    await _works_on(stage)


async def test_what_the_library_refuses_keeps_its_reason(stage: Stage, host: HostProcess) -> None:
    failure = await _failure(stage, "refuse")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_REFUSED
    assert failure.problem.reason == "NOT_A_NUMBER"
    assert failure.problem.message == "a prediction is not finite"


async def test_unexpected_errors_show_no_paths_to_users(stage: Stage, host: HostProcess) -> None:
    failure = await _failure(stage, "stumble")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_CRASH
    assert "/secret" not in failure.problem.message
    assert "/secret" in failure.log_tail
    assert len(failure.log_tail.encode()) <= 4096


async def test_data_that_is_gone_is_refused(stage: Stage, host: HostProcess) -> None:
    message = assignment("1", [("trick", "none")])
    message.table.part_sha256.append("0" * 64)
    stage.controller.say(assignment=message)
    failure = await stage.controller.failure_of(f"{TRIALS}/1")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_REFUSED
    await _works_on(stage)


async def test_a_nursery_that_dies_takes_its_trainer_with_it(
    stage: Stage, host: HostProcess
) -> None:
    pid = (await host.answer("started"))["pid"]
    stage.controller.say(assignment=assignment("1", [("trick", "spin")]))
    await stage.controller.told("progress", f"{TRIALS}/1")
    os.kill(psutil.Process(pid).children()[0].pid, signal.SIGKILL)
    failure = await stage.controller.failure_of(f"{TRIALS}/1")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_LOST
    exited = await host.answer("exited")
    assert (exited["status"], exited["cause"]) == (70, "FAILED")

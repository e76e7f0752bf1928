"""The host's contract with its launcher: what it answers, and that nothing outlives it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from allotment_testkit.trainer_stage import LEASE, TRIALS, HostProcess, Stage, assignment, staged
from allotment_trainer.processes.preload import ENVIRONMENT

TRICKY = (sys.executable, str(Path(__file__).with_name("trainer_tricky_host.py")))
SLEEP = [("trick", "sleep"), ("seconds", 600.0)]
GONE_WITHIN_S = 5.0


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


@pytest.fixture
async def host(stage: Stage) -> AsyncIterator[HostProcess]:
    async with stage.host(*TRICKY, **ENVIRONMENT) as made:
        yield made


async def _busy(stage: Stage, host: HostProcess, trick: str = "sleep") -> set[psutil.Process]:
    """A trainer in the middle of a trial; every process of the host and below."""
    host.order("start", **stage.start())
    await stage.controller.connected()
    stage.controller.say(assignment=assignment("1", [("trick", trick), ("seconds", 600.0)]))
    await stage.controller.told("progress", f"{TRIALS}/1")
    whole = psutil.Process(host.pid)
    family = {whole, *whole.children(recursive=True)}
    assert len(family) == 4, family  # host, agent, nursery, trial
    return family


async def _gone(processes: set[psutil.Process]) -> None:
    until = time.monotonic() + GONE_WITHIN_S
    while left := [p for p in processes if _alive(p)]:
        assert time.monotonic() < until, left
        await asyncio.sleep(0.02)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_trainer_starts_idles_takes_another_lease_and_stops(
    stage: Stage, host: HostProcess
) -> None:
    host.order("start", **stage.start())
    pid = (await host.answer("started"))["pid"]
    await stage.controller.connected()
    stage.controller.revoke()
    assert (await host.answer("idle")) == {"id": "t1", "ending": "RELEASED"}

    second = "tenants/local/leases/l2"
    host.order("lease", id="t1", **stage.lease(second, 7))
    await stage.controller.connected(2)
    assert [(h.lease, h.lease_epoch) for h in stage.controller.hellos] == [(LEASE, 1), (second, 7)]
    assert psutil.pid_exists(pid)

    host.order("stop", id="t1", grace_s=2.0)
    exited = await host.answer("exited")
    assert (exited["id"], exited["status"], exited["cause"]) == ("t1", 0, "STOPPED")


async def test_a_trainer_takes_no_lease_of_another_tenant(stage: Stage, host: HostProcess) -> None:
    host.order("start", **stage.start())
    await stage.controller.connected()
    stage.controller.revoke()
    await host.answer("idle")
    host.order("lease", id="t1", **stage.lease("tenants/other/leases/l2"))
    await host.answer("idle")
    assert len(stage.controller.hellos) == 1


async def test_a_start_that_says_too_little_is_refused(stage: Stage, host: HostProcess) -> None:
    values = stage.start()
    del values["token"]
    host.order("start", **values)
    assert (await host.answer("exited"))["cause"] == "REFUSED"


async def test_nothing_understands_garbage_and_goes_on(stage: Stage, host: HostProcess) -> None:
    assert host.process.stdin is not None
    host.process.stdin.write(b'garbage\n[1]\n{"dance": {"id": "t1"}}\n{"stop": 3}\n')
    host.order("start", **stage.start())
    await host.answer("started")


async def test_stop_ends_a_trial_within_its_grace(stage: Stage, host: HostProcess) -> None:
    family = await _busy(stage, host)
    host.order("stop", id="t1", grace_s=3.0)
    exited = await host.answer("exited")
    assert exited["cause"] == "STOPPED"
    failure = await stage.controller.failure_of(f"{TRIALS}/1")
    assert failure.problem.reason == "STOPPED"
    await _gone({p for p in family if p.pid != host.pid})


@pytest.mark.parametrize("trick", ["sleep", "spin"])
async def test_kill_ends_a_trainer_and_its_trial(
    stage: Stage, host: HostProcess, trick: str
) -> None:
    family = await _busy(stage, host, trick)
    host.order("kill", id="t1")
    exited = await host.answer("exited")
    assert (exited["status"], exited["cause"]) == (-signal.SIGKILL, "KILLED")
    await _gone({p for p in family if p.pid != host.pid})
    assert _alive(psutil.Process(host.pid))


async def test_a_trainer_that_dies_is_reported_with_its_last_words(
    stage: Stage, host: HostProcess
) -> None:
    family = await _busy(stage, host)
    pid = (await host.answer("started"))["pid"]
    os.kill(pid, signal.SIGKILL)
    exited = await host.answer("exited")
    assert (exited["status"], exited["cause"]) == (-signal.SIGKILL, "CRASHED")
    await _gone({p for p in family if p.pid != host.pid})


@pytest.mark.parametrize("end", ["eof", "term", "kill"])
async def test_nothing_is_left_when_the_host_ends(
    stage: Stage, host: HostProcess, end: str
) -> None:
    family = await _busy(stage, host)
    if end == "eof":
        assert host.process.stdin is not None
        host.process.stdin.close()
    else:
        os.kill(host.pid, signal.SIGTERM if end == "term" else signal.SIGKILL)
    await _gone(family)
    assert await host.process.wait() == (-signal.SIGKILL if end == "kill" else 0)


async def test_nothing_is_left_when_the_hosts_parent_is_killed() -> None:
    # The write end of the host's stdin stays open here: only the missing parent tells.
    read_end, write_end = os.pipe()
    launcher = subprocess.Popen(  # noqa: ASYNC220 - only the waits may not block
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time; h = subprocess.Popen(sys.argv[1:], stdin=0); "
            "print(h.pid, file=sys.stderr, flush=True); time.sleep(600)",
            *TRICKY,
        ],
        stdin=read_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert launcher.stderr is not None
    assert launcher.stdout is not None
    try:
        host = psutil.Process(int(await asyncio.to_thread(launcher.stderr.readline)))
        await asyncio.to_thread(launcher.stdout.readline)  # ready
        launcher.kill()
        await _gone({host})
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()
        launcher.stderr.close()
        os.close(read_end)
        os.close(write_end)


async def test_what_a_trial_leaves_running_goes_with_it(stage: Stage, host: HostProcess) -> None:
    host.order("start", **stage.start())
    pid = (await host.answer("started"))["pid"]
    await stage.controller.connected()
    stage.controller.say(assignment=assignment("1", [("trick", "orphan")]))
    await stage.controller.result_of(f"{TRIALS}/1")
    agent = psutil.Process(pid)
    # The nursery alone stays; what the trial left is killed at once and reaped soon after.
    async with asyncio.timeout(20):
        while len(agent.children(recursive=True)) > 1:  # noqa: ASYNC110 (it looks at processes)
            await asyncio.sleep(0.02)
    assert len(agent.children(recursive=True)) == 1


async def test_ctrl_c_means_nothing_to_trainers(stage: Stage, host: HostProcess) -> None:
    family = await _busy(stage, host)
    for process in family:
        process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.3)
    assert all(_alive(process) for process in family)


async def test_all_processes_are_in_the_launchers_process_group(
    stage: Stage, host: HostProcess
) -> None:
    family = await _busy(stage, host)
    assert {os.getpgid(p.pid) for p in family} == {os.getpgid(0)}

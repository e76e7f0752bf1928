"""`python -m allotment_trainer`: one lease, then it is done. It is the first process of a pod."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from allotment_api.search.v1 import search_pb2
from allotment_core.auth.principal import Role
from allotment_core.errors import Unauthenticated
from allotment_testkit.blob_service import MemoryBlobService
from allotment_testkit.rpc import Network, new_signer, serving
from allotment_testkit.trainer_stage import LEASE, TENANT, TRIALS, Stage, assignment, staged

TRICKY = str(Path(__file__).with_name("trainer_tricky_alone.py"))
ALONE = (sys.executable, "-m", "allotment_trainer")
T1 = f"{TRIALS}/1"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


def _settings(stage: Stage, **settings: str) -> dict[str, str]:
    token = stage.folder / "token"
    if not token.exists():
        token.write_text(stage.lease()["token"] + "\n")
    values = {
        "SERVER": stage.served.address,
        "LEASE": LEASE,
        "EPOCH": "1",
        "TOKEN_FILE": str(token),
        "CACHE_DIR": str(stage.folder / "cache"),
        "WORK_DIR": str(stage.folder / "work"),
        **settings,
    }
    return {f"ALLOTMENT_TRAINER_{name}": value for name, value in values.items()}


async def _alone(stage: Stage, *command: str, **settings: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(command or ALONE),
        env={**os.environ, **_settings(stage, **settings)},
        stderr=asyncio.subprocess.PIPE,
    )


async def _tricky(stage: Stage, **settings: str) -> asyncio.subprocess.Process:
    return await _alone(stage, sys.executable, TRICKY, **settings)


async def _status(process: asyncio.subprocess.Process, within_s: float = 10.0) -> int | None:
    _, said = await asyncio.wait_for(process.communicate(), within_s)
    sys.stderr.write(said.decode())
    return process.returncode


# Its end


async def test_it_ends_well_when_its_lease_is_released(stage: Stage) -> None:
    process = await _alone(stage)
    await stage.controller.connected()
    stage.controller.revoke("RELEASED")
    assert await _status(process) == 0


async def test_it_leaves_when_it_is_terminated(stage: Stage) -> None:
    process = await _alone(stage)
    await stage.controller.connected()
    process.send_signal(signal.SIGTERM)
    assert await _status(process) == 0


async def test_it_leaves_at_once_when_it_is_terminated_before_it_has_begun(stage: Stage) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        TRICKY,
        env={**os.environ, **_settings(stage), "TRICKY_SLOW": "1"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    assert await process.stderr.readline() == b"loading\n"
    process.send_signal(signal.SIGTERM)
    assert await _status(process) == 0


async def test_a_terminated_trainer_hands_in_a_checkpoint_before_it_leaves(stage: Stage) -> None:
    process = await _tricky(stage)
    await stage.controller.connected()
    stage.controller.say(assignment=assignment("1", [("trick", "folds")]))
    await stage.controller.told("progress", T1)
    await asyncio.sleep(0.3)  # Its fitted fold is written.
    process.send_signal(signal.SIGTERM)
    failure = await stage.controller.failure_of(T1)
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_PREEMPTED
    assert f"{TENANT}/blobs/{failure.checkpoint_sha256}" in stage.blobs.blobs
    assert await _status(process) == 0


async def test_a_terminated_trainer_whose_controller_is_away_leaves_within_its_grace(
    stage: Stage,
) -> None:
    async with Network(stage.served.port) as network:
        process = await _tricky(stage, SERVER=f"127.0.0.1:{network.port}", GRACE_S="1")
        await stage.controller.connected()
        stage.controller.say(assignment=assignment("1", [("trick", "sleep"), ("seconds", 600.0)]))
        await stage.controller.told("progress", T1)
        await network.down()
        process.send_signal(signal.SIGTERM)
        assert await _status(process, 5.0) == 0


async def test_a_checkpoint_has_the_grace_to_be_stored(stage: Stage) -> None:
    process = await _tricky(stage, GRACE_S="15")
    await stage.controller.connected()
    stage.controller.say(assignment=assignment("1", [("trick", "folds")]))
    await stage.controller.told("progress", T1)
    await asyncio.sleep(0.3)  # Its fitted fold is written.
    stage.blobs.away = True
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(4.0)
    stage.blobs.away = False
    failure = await stage.controller.failure_of(T1)
    assert f"{TENANT}/blobs/{failure.checkpoint_sha256}" in stage.blobs.blobs
    assert await _status(process) == 0


async def test_an_authority_that_is_not_there_is_a_setting_that_cannot_be_used(
    stage: Stage,
) -> None:
    assert await _status(await _alone(stage, CA=str(stage.folder / "gone.crt"))) == 64


async def test_it_says_which_setting_it_misses(stage: Stage) -> None:
    process = await _alone(stage, EPOCH="soon")
    _, said = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 64
    assert b"ALLOTMENT_TRAINER_EPOCH" in said


async def test_a_lease_that_is_anothers_is_a_status_of_its_own(stage: Stage) -> None:
    assert await _status(await _tricky(stage, LEASE=f"{LEASE}x")) == 77


async def test_a_lease_that_has_ended_is_one_too(stage: Stage) -> None:
    stage.controller.refusal = Unauthenticated("the lease has ended", reason="LEASE_ENDED")
    assert await _status(await _tricky(stage)) == 77


async def test_a_silent_controller_is_one_too(tmp_path: Path) -> None:
    async with staged(tmp_path, lease_ttl_s=1.5) as stage:
        process = await _tricky(stage, OUTLIVES_S="0")
        await stage.controller.connected()
        stage.controller.answers_heartbeats = False
        assert await _status(process) == 69


# Its servers


async def test_data_and_files_go_to_the_dataset_service_where_it_is_named(stage: Stage) -> None:
    blobs = MemoryBlobService()
    async with serving(blobs.service(), signer=stage.served.signer) as dataset:
        process = await _tricky(stage, DATASET=dataset.address)
        await stage.controller.connected()
        message = assignment("1", [("trick", "none")])
        message.table.part_sha256.append(blobs.add(b"rows"))
        stage.controller.say(assignment=message)
        result = await stage.controller.result_of(T1)
        assert f"{TENANT}/blobs/{result.graph_sha256}" in blobs.blobs
        assert stage.blobs.blobs == {}
        stage.controller.revoke()
        assert await _status(process) == 0


async def test_a_renewed_token_is_used_for_the_next_stream(stage: Stage) -> None:
    async with Network(stage.served.port) as network:
        process = await _tricky(stage, SERVER=f"127.0.0.1:{network.port}")
        await stage.controller.connected()
        later = stage.served.token(Role.TRAINER, TENANT, lease=LEASE, lease_epoch=1, ttl_s=7200)
        (stage.folder / "token").write_text(later)
        network.cut()
        await stage.controller.connected(2)
        first, second = (p.expires_at for p in stage.controller.principals)
        assert (second - first).total_seconds() >= 3600
        stage.controller.revoke()
        assert await _status(process) == 0


async def test_a_token_that_the_server_does_not_know_yet_is_shown_again(stage: Stage) -> None:
    good, known = stage.lease()["token"], stage.served.signer
    stage.served.signer = new_signer()
    (stage.folder / "token").write_text(stage.lease()["token"])
    stage.served.signer = known
    process = await _tricky(stage)
    await asyncio.sleep(2.0)
    assert process.returncode is None
    assert stage.controller.hellos == []
    (stage.folder / "token").write_text(good)
    await stage.controller.connected()
    stage.controller.revoke()
    assert await _status(process) == 0


async def test_a_trainer_outlives_its_controller_and_hands_in_what_it_has_done(
    tmp_path: Path,
) -> None:
    # Two thirds of the lease's time are over after 0.7 s; it outlives its controller for 30 s.
    async with (
        staged(tmp_path, lease_ttl_s=1.0) as stage,
        Network(stage.served.port) as network,
    ):
        settings = {"DATASET": stage.served.address, "OUTLIVES_S": "30"}
        process = await _tricky(stage, SERVER=f"127.0.0.1:{network.port}", **settings)
        await stage.controller.connected()
        stage.controller.say(assignment=assignment("1", [("trick", "sleep"), ("seconds", 1.5)]))
        await stage.controller.told("progress", T1)
        await network.down()
        await asyncio.sleep(4.0)
        assert stage.controller.reports[-1].WhichOneof("message") == "progress"
        await network.up()
        result = await stage.controller.result_of(T1)
        assert result.key.trial_epoch == 1
        assert [(h.lease, h.lease_epoch) for h in stage.controller.hellos] == [(LEASE, 1)] * 2
        assert [r.trial for r in stage.controller.hellos[1].running] == [T1]
        stage.controller.revoke()
        assert await _status(process) == 0


# As the first process of a container


def _why_no_namespace() -> str:
    """Empty: this machine lets a test have a process tree and mounts of its own."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "unshare and nsenter (util-linux) are not there"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "no right to make namespaces"


IN_CONTAINER = (
    'mount --make-rprivate / && mount --bind "$1" "$1" && mount -o remount,bind,ro / '
    '&& shift && exec "$@"'
)


@pytest.mark.skipif(bool(_why_no_namespace()), reason=_why_no_namespace() or "-")
async def test_as_a_containers_first_process_it_works_reaps_and_leaves(stage: Stage) -> None:
    for name in ("cache", "tmp"):
        (stage.folder / name).mkdir()
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", IN_CONTAINER),
        *("sh", str(stage.folder), sys.executable, TRICKY),
        env={
            **os.environ,
            **_settings(stage),
            "HOME": str(stage.folder / "tmp"),
            "TMPDIR": str(stage.folder / "tmp"),
        },
    )
    await stage.controller.connected()
    [first] = psutil.Process(process.pid).children()
    stage.controller.say(assignment=assignment("1", [("trick", "orphan")]))
    await stage.controller.result_of(T1)
    # As `kubectl exec` does: what loses its parent in the container is the first process's.
    entered = ["nsenter", "-t", str(first.pid), "-p", "sh", "-c", "(sleep 0.2 &) ; exit 0"]
    await asyncio.to_thread(subprocess.run, entered, check=True)
    adopted = [p for p in first.children() if "sleep" in " ".join(p.cmdline())]
    async with asyncio.timeout(10):
        while any(p.is_running() for p in adopted):  # noqa: ASYNC110 (another process's end)
            await asyncio.sleep(0.05)
    assert len(adopted) == 1
    below = first.children(recursive=True)
    assert [p.status() for p in below if p.status() == psutil.STATUS_ZOMBIE] == []
    first.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 0
    assert not any(p.is_running() for p in below)

"""`python -m allotment_trainer`: one lease, then it is done."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from allotment_testkit.trainer_stage import LEASE, Stage, staged


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


async def _alone(stage: Stage, **settings: str) -> asyncio.subprocess.Process:
    token = stage.folder / "token"
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
    named = {f"ALLOTMENT_TRAINER_{name}": value for name, value in values.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "allotment_trainer",
        env={**os.environ, **named},
        stderr=asyncio.subprocess.PIPE,
    )


async def test_it_ends_well_when_its_lease_is_released(stage: Stage) -> None:
    process = await _alone(stage)
    await stage.controller.connected()
    stage.controller.revoke("RELEASED")
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0


async def test_it_leaves_when_it_is_terminated(stage: Stage) -> None:
    process = await _alone(stage)
    await stage.controller.connected()
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0


async def test_it_says_which_setting_it_misses(stage: Stage) -> None:
    process = await _alone(stage, EPOCH="soon")
    _, said = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 64
    assert b"ALLOTMENT_TRAINER_EPOCH" in said

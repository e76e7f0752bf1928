"""SIGTERM before there is anything to drain: a container's first process would never see it."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from allotment_testkit.rpc import new_signer

TERM = 1 << (signal.SIGTERM - 1)


async def started(module: str, **settings: str) -> asyncio.subprocess.Process:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ALLOTMENT_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module, env={**inherited, **settings}
    )


def catches_term(process: asyncio.subprocess.Process) -> bool:
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) & TERM)


async def status_after_term(process: asyncio.subprocess.Process) -> int:
    try:
        async with asyncio.timeout(30):
            while not catches_term(process):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            process.send_signal(signal.SIGTERM)
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_service_that_waits_for_its_database_leaves_at_once(tmp_path: Path) -> None:
    key = tmp_path / "public.pem"
    key.write_bytes(new_signer().public_key_pem)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        process = await started(
            "allotment_controller",
            ALLOTMENT_CONTROLLER_DATABASE_URL=f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d",
            ALLOTMENT_SERVE_PUBLIC_KEY_FILE=str(key),
            ALLOTMENT_SERVE_TOKEN_FILE=str(key),
        )
        connected, _ = await asyncio.to_thread(silent.accept)
        with connected:
            assert await status_after_term(process) == 0


async def test_a_trainer_that_loads_its_libraries_leaves_at_once() -> None:
    process = await started(
        "allotment_trainer",
        ALLOTMENT_TRAINER_SERVER="127.0.0.1:1",
        ALLOTMENT_TRAINER_LEASE="tenants/acme/leases/lease-1",
        ALLOTMENT_TRAINER_EPOCH="1",
        ALLOTMENT_TRAINER_TOKEN="token",
    )
    assert await status_after_term(process) == 0

"""The exporter as a process of its own: it starts fast and light, and ends cleanly."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from allotment_core.rpc.client import channel
from allotment_testkit.rpc import new_signer

HEAVY = ("numpy", "onnx", "onnxruntime", "pyarrow", "sklearn", "lightgbm", "torch")
CAN_NOT_SERVE_S = 20


def test_server_imports_nothing_heavy() -> None:
    code = (
        "import sys, allotment_exporter.__main__; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_process_serves_and_leaves_on_sigterm(tmp_path: Path) -> None:
    signer = new_signer()
    (tmp_path / "key.pem").write_bytes(signer.public_key_pem)
    (tmp_path / "token").write_text("a token")
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "allotment_exporter",
        env={
            "PATH": "/usr/bin:/bin",
            "ALLOTMENT_EXPORTER_DATABASE_URL": f"sqlite:///{tmp_path}/e.db",
            "ALLOTMENT_EXPORTER_WORK_DIR": str(tmp_path / "work"),
            "ALLOTMENT_SERVE_ADDRESS": f"127.0.0.1:{port}",
            "ALLOTMENT_SERVE_PUBLIC_KEY_FILE": str(tmp_path / "key.pem"),
            "ALLOTMENT_SERVE_TOKEN_FILE": str(tmp_path / "token"),
        },
    )
    try:
        began = time.monotonic()
        opened = channel(f"127.0.0.1:{port}")
        stub: Any = health_pb2_grpc.HealthStub(opened)
        request = health_pb2.HealthCheckRequest(service="allotment_api.exporter.v1.ExportService")
        # It listens before its database is open, and says so.
        while (await stub.Check(request, timeout=CAN_NOT_SERVE_S)).status != SERVING:
            assert time.monotonic() - began < CAN_NOT_SERVE_S
            await asyncio.sleep(0.02)
        assert time.monotonic() - began < CAN_NOT_SERVE_S
        await opened.close()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_bad_settings_are_told(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "allotment_exporter"],
        env={"ALLOTMENT_EXPORTER_WORK_DIRECTORY": "/tmp"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "ALLOTMENT_EXPORTER_WORK_DIRECTORY is not a setting" in done.stderr


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

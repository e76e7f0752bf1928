"""A whole run sends nothing to any address but loopback."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from allotment_testkit.local_system import ALLOTMENT

WATCH = Path(__file__).with_name("loopback_watch.py")
ISOLATED = ["unshare", "--user", "--map-root-user", "--net"]
SEND_OUT = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"x", ("192.0.2.1", 53))
"""


def in_isolation(command: list[str]) -> tuple[dict[str, object], str]:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs Linux with unshare")
    if subprocess.run([*ISOLATED, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let its users make network namespaces")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ORT_")}
    done = subprocess.run(
        [*ISOLATED, sys.executable, str(WATCH), *command],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_the_watch_sees_a_packet_to_another_address() -> None:
    report, _ = in_isolation([sys.executable, "-c", SEND_OUT])
    assert report == {"status": 0, "elsewhere": ["192.0.2.1"]}


def test_a_run_sends_nothing_elsewhere(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [(rng.random(), rng.choice("uvw")) for _ in range(300)]
    lines = [f"{x},{c},{'yes' if (x > 0.5) ^ (c == 'u') else 'no'}" for x, c in rows]
    (tmp_path / "train.csv").write_text("\n".join(["x,c,y", *lines]) + "\n", encoding="utf-8")
    run = [ALLOTMENT, "run", str(tmp_path / "train.csv"), "--target", "y", "--budget", "10s"]
    report, log = in_isolation([*run, "--out", str(tmp_path / "out")])
    assert report == {"status": 0, "elsewhere": []}, log
    assert (tmp_path / "out" / "model.onnx").stat().st_size > 0

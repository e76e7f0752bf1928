"""Every command and program of the README does what it says."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer

from allotment_testkit.local_system import ALLOTMENT
from allotment_testkit.services_system import System

README = Path(__file__).parents[2] / "README.md"
STARTED_BY_THE_TEST = ("allotment up", "export ")


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cancer = load_breast_cancer()
    for name, step in (("train.csv", 1), ("rows.csv", 9)):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*cancer.feature_names, "diagnosis"])
            for features, target in zip(cancer.data[::step], cancer.target[::step], strict=True):
                writer.writerow([*map(float, features), cancer.target_names[target]])
    return tmp_path


def environment(system: System | None) -> dict[str, str]:
    path = f"{Path(ALLOTMENT).parent}:{os.environ['PATH']}"
    there = system.environment if system else {}
    return {**os.environ, **there, "PATH": path}


def run(command: list[str], folder: Path, system: System | None) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(system),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_commands_work_in_their_order(running_system: System, folder: Path) -> None:
    assert shutil.which("bash")
    server_is_up = False
    for command in commands():
        if command.startswith(STARTED_BY_THE_TEST):
            server_is_up = True
            continue
        run(["bash", "-c", command], folder, running_system if server_is_up else None)
    for left in ("model", "best", "small", "newer"):
        assert (folder / left / "model.onnx").stat().st_size > 0, left
    assert (folder / "predictions.csv").read_text(encoding="utf-8").count("\n") == 65


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_python_programs_work(running_system: System, folder: Path) -> None:
    sdk, serving = blocks("python")
    run([sys.executable, "-W", "error", "-c", sdk], folder, running_system)
    assert (folder / "best" / "model.onnx").stat().st_size > 0
    shutil.move(folder / "best", folder / "model")
    run([sys.executable, "-c", serving], folder, None)

"""From `helm install` to a model: files, Jobs, the bucket."""

import csv
import hashlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from minio import Minio

from allotment_testkit.release import Access, Release, eventually, kubectl, objects, write_rows

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
FIRST_MODEL_S = 120.0
CHECK = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
inputs = {"width": [[0.5]], "height": [[1.0]], "colour": [["red"]]}
numbers = {"width", "height"}
feed = {n: numpy.array(v, dtype=float if n in numbers else object) for n, v in inputs.items()}
label, probabilities = session.run(["label", "probabilities"], feed)
print(json.dumps([str(label[0]), float(probabilities.sum())]))
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    write_rows(path)
    return path


def test_install_to_first_model(
    release: Release, access: Access, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    access.command(
        *("run", str(rows), "--target", "kind", "--trials", "2", "--budget", "60s"),
        *("--out", str(out)),
    )
    took_s = time.monotonic() - release.began_s
    print(f"install to first model: {took_s:.1f} s")
    assert {"model.onnx", "manifest.json", "leaderboard.csv"} <= {p.name for p in out.iterdir()}
    said = subprocess.run(
        (sys.executable, "-c", CHECK, str(out / "model.onnx")),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    label, total = json.loads(said)
    assert label in ("big", "small")
    assert total == pytest.approx(1.0)
    assert took_s < FIRST_MODEL_S


def test_trials_run_in_pods_of_the_tenant(
    release: Release, access: Access, rows: Path, tmp_path: Path
) -> None:
    running = access.started(
        *("run", str(rows), "--target", "kind", "--budget", "30s", "--out", str(tmp_path / "out"))
    )
    try:
        pods = eventually(
            "a trainer runs",
            lambda: [p for p in release.pods("trainer") if p["status"]["phase"] == "Running"],
            40.0,
        )
    finally:
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert {pod["metadata"]["namespace"] for pod in pods} == {f"{release.name}-default"}
    assert all("job-name" in pod["metadata"]["labels"] for pod in pods)
    with (tmp_path / "out" / "leaderboard.csv").open(encoding="utf-8") as file:
        states = [row["state"] for row in csv.DictReader(file)]
    assert "succeeded" in states
    eventually(
        "the trainers have left",
        lambda: not [p for p in release.pods("trainer") if p["status"]["phase"] == "Running"],
        60.0,
    )


def test_the_artefact_is_an_object_by_its_hash(
    release: Release, access: Access, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    access.command(
        *("run", str(rows), "--target", "kind", "--trials", "1", "--budget", "60s"),
        *("--out", str(out)),
    )
    content = (out / "model.onnx").read_bytes()
    key = f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    with release.forwarded("minio", 9000) as address:
        store = Minio(
            address,
            access_key=release.secret("minio", "access-key"),
            secret_key=release.secret("minio", "secret-key"),
            secure=False,
        )
        with io.BytesIO() as read, store.get_object("allotment", key) as response:
            read.write(response.read())
            assert read.getvalue() == content


def test_a_tenant_namespace_is_fenced(release: Release) -> None:
    namespace = f"{release.name}-default"
    labels = json.loads(kubectl("get", "namespace", namespace, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for kind in ("networkpolicies", "resourcequotas", "limitranges"):
        assert objects(kind, "--namespace", namespace), kind
    secrets = objects("secrets", "--namespace", namespace)
    assert secrets == []

"""The main job from end to end on real data: scikit-learn's breast cancer set.

Run by `make demo`. Everything is left in `demo-out/` of the repository.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("demo-out")

CHECK = """
import csv, json, sys
import numpy as np
import onnxruntime

model, rows_path = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
with open(rows_path, newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
feeds = {
    node.name: np.array([[row[node.name]] for row in rows], dtype=object)
    if node.type == "tensor(string)"
    else np.array([[float(row[node.name] or "nan")] for row in rows])
    for node in session.get_inputs()
}
label, probabilities = session.run(["label", "probabilities"], feeds)
right = sum(got == row["diagnosis"] for got, row in zip(label.ravel(), rows))
assert np.allclose(probabilities.sum(axis=1), 1.0)
assert right >= 0.9 * len(rows), f"only {right} of {len(rows)} rows are right"
assert not any(name.split(".")[0] in ("sklearn", "lightgbm", "allotment") for name in sys.modules)
print(f"onnxruntime and numpy alone: {right} of {len(rows)} held-out rows are right")
"""


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def run(command: list[str | Path]) -> int:
    """Says what it runs, and runs it."""
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    return subprocess.run(words, check=False).returncode


def main() -> int:
    os.chdir(ROOT)
    OUT.mkdir(exist_ok=True)
    cancer = load_breast_cancer()
    header = [*map(str, cancer.feature_names), "diagnosis"]
    rows = [
        [*map(repr, map(float, features)), str(cancer.target_names[target])]
        for features, target in zip(cancer.data, cancer.target, strict=True)
    ]
    train, held_out, model = OUT / "train.csv", OUT / "held_out.csv", OUT / "model" / "model.onnx"
    write_csv(train, header, [row for i, row in enumerate(rows) if i % 5])
    write_csv(held_out, header, rows[::5])

    search = ["--target", "diagnosis", "--budget", "30s", "--seed", "7"]
    predictions = OUT / "predictions.csv"
    status = run(["allotment", "run", train, *search, "--out", model.parent])
    status = status or run(["allotment", "predict", model, held_out, "--out", predictions])
    if status:
        return status
    check = [sys.executable, "-c", CHECK, str(model), str(held_out)]
    subprocess.run(check, check=True, env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"})
    manifest = json.loads((model.parent / "manifest.json").read_text(encoding="utf-8"))
    print(
        f"model.onnx: {model.stat().st_size / 1024:.0f} KiB, manifest keys: {', '.join(manifest)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One real experiment: rows made here go through the gateway, a model that predicts comes back."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: it is read there

import numpy as np
import onnxruntime

WORK = Path("/tmp/test")
CHOSEN = random.Random(7)


def row() -> tuple[float, float, str, str]:
    """Two numbers and a word; the label is a question of both."""
    x, y, word = CHOSEN.random(), CHOSEN.random(), CHOSEN.choice(["red", "blue"])
    return x, y, word, "in" if (x + y > 1.0) == (word == "red") else "out"


WORK.mkdir(exist_ok=True)
with (WORK / "train.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["x", "y", "word", "label"])
    writer.writerows(row() for _ in range(400))

search = ["run", str(WORK / "train.csv"), "--target", "label", "--out", str(WORK / "out")]
command = [sys.executable, "-P", "-m", "allotment.cli.main", *search, "--trials", "4"]
subprocess.run([*command, "--budget", "240s"], check=True)

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
model = onnxruntime.InferenceSession(WORK / "out" / "model.onnx", options)
rows = [row() for _ in range(200)]
columns = {"x": np.float64, "y": np.float64, "word": np.object_}
inputs = {
    name: np.array([[each[place]] for each in rows], dtype=kind)
    for place, (name, kind) in enumerate(columns.items())
}
(labels,) = model.run(["label"], inputs)
right = sum(str(found) == each[3] for found, each in zip(labels, rows, strict=True))
print(json.dumps({"rows": len(rows), "predicted right": right}))
sys.exit(0 if right > 0.7 * len(rows) else "the model predicts no better than by chance")

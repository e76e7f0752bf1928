"""CreateExperiment to a downloadable model that passed parity, on 10,000 x 50.

    python -m bench.first_model [--repeat 5]

The server is up, the data is uploaded, one earlier experiment is done. Printed are the first model
(whatever it is) and the first one that is not the constant predictor. The baseline is LightGBM with
its defaults, fitted once on the same rows in this process, which has imported it already.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import lightgbm
import numpy as np

import allotment
from allotment_testkit.local_system import local_system

ROWS, COLUMNS = 10_000, 50
LIMIT_S = 3.0


def write_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, COLUMNS)).round(6)
    logits = features[:, 0] - features[:, 1] * features[:, 2] + 0.5 * rng.normal(size=ROWS)
    target = (logits > 0).astype(int)
    names = [f"f{place}" for place in range(COLUMNS)]
    lines = [
        ",".join([*map(repr, row), "ny"[label]])
        for row, label in zip(features.tolist(), target.tolist(), strict=True)
    ]
    path.write_text("\n".join([",".join([*names, "y"]), *lines]) + "\n", encoding="utf-8")
    return features, target


def measure(client: allotment.Client, version: str, folder: Path, seed: int) -> tuple[float, float]:
    """Seconds from CreateExperiment to the first downloaded model, and to the first real one."""
    started = time.perf_counter()
    experiment = client.create_experiment(version, target="y", budget_s=20.0, seed=seed)
    first_s = 0.0
    for model in client.models.watch(experiment):
        client.models.download(model, folder / f"{seed}-{time.monotonic_ns()}")
        elapsed_s = time.perf_counter() - started
        first_s = first_s or elapsed_s
        if not model.family.endswith("constant"):
            client.experiments.cancel(experiment)
            client.wait(experiment)
            return first_s, elapsed_s
    sys.exit(f"{experiment.name} ended with the constant predictor alone")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="allotment-bench-") as name:
        folder = Path(name)
        features, target = write_rows(folder / "rows.csv")
        started = time.perf_counter()
        lightgbm.LGBMClassifier(verbose=-1).fit(features, target)
        baseline_s = time.perf_counter() - started
        print(f"LightGBM defaults, fitted in process: {baseline_s:.2f} s")
        with local_system(folder / "state") as system:
            client = allotment.Client(system.address, token=system.token)
            with client:
                version = client.upload(folder / "rows.csv", target_hint="y").name
                measure(client, version, folder, seed=0)
                times = [
                    measure(client, version, folder, seed=seed + 1)
                    for seed in range(arguments.repeat)
                ]
    firsts, reals = zip(*times, strict=True)
    for label, values in (("first model", firsts), ("first beyond constant", reals)):
        middle_s = statistics.median(values)
        print(
            f"{label:22} median {middle_s:.2f} s, worst {max(values):.2f} s"
            f"  ratio to baseline {middle_s / baseline_s:.2f}"
        )
    print(f"limit {LIMIT_S} s")
    return 0 if max(firsts) <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench.ensembles`: how long the controller computes after a trial.

Selection of an ensemble among 50 candidates and the choice of its temperature, on made-up
predictions; beside it what scoring the 50 candidates once takes. Ends with 1 when the log loss of
the default size takes more than 0.5 s of processor time.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from allotment_search.calibration import choose_temperature
from allotment_search.ensembles import Candidate, EnsembleLimits, Rows, select
from allotment_search.metrics import CLASSIFICATION_METRICS, Floats, Integers

LIMIT_S = 0.5


def predictions(rows: int, classes: int, count: int) -> tuple[Integers, list[Floats]]:
    """The truth, and candidates that see it through noise of their own."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, rows)
    signal = np.eye(classes)[truth] * 2
    said = []
    for place in range(count):
        raised = np.exp(signal + rng.normal(size=(rows, classes)) * (1 + place / count))
        said.append(raised / raised.sum(axis=1, keepdims=True))
    return truth, said


def seconds(work: Callable[[], object]) -> float:
    """Of processor time, the least of three."""
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ensembles", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--candidates", type=int, default=50)
    options = parser.parse_args()
    truth, said = predictions(options.rows, options.classes, options.candidates)
    weights = np.ones(options.rows)
    print(f"{'metric':<12}{'select_s':>10}{'score_all_s':>13}{'ratio':>8}{'members':>9}")
    slow = False
    for metric in CLASSIFICATION_METRICS:
        rows = Rows(metric=metric, truth=truth, weights=weights)
        once_s = seconds(lambda rows=rows: [rows.loss(p) for p in said])  # type: ignore[misc]
        candidates = [
            Candidate(key=key, predictions=p, loss=rows.loss(p)) for key, p in enumerate(said)
        ]
        found = select(candidates, rows, EnsembleLimits())
        taken_s = seconds(lambda c=candidates, r=rows: select(c, r, EnsembleLimits()))  # type: ignore[misc]
        members = len(found.members) if found else 1
        print(f"{metric:<12}{taken_s:>10.3f}{once_s:>13.3f}{taken_s / once_s:>8.2f}{members:>9}")
        slow |= metric == "log_loss" and taken_s > LIMIT_S
    taken_s = seconds(lambda: choose_temperature(said[0], truth, weights))
    print(f"{'temperature':<12}{taken_s:>10.3f}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())

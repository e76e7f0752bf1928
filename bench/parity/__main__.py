"""`python -m bench.parity`: each family on made-up rows, its graph beside its library.

Prints the seconds of fitting and of the whole trial, the graph's size, the seconds to load it,
milliseconds for 1,000 rows and for one (one thread), and the largest difference from the library on
the reference rows. Ends with 1 when a difference is beyond 1e-6.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from allotment_learn.table import Column, ColumnKind, Table
from allotment_learn.task import SplitMethod, SplitSpec, TaskKind, TrialTask
from allotment_learn.trial import run_trial
from allotment_search import Component, PipelineSpec
from allotment_testkit.trials import TOLERANCE, feeds_of, session_of, worst_difference

NATIVE = Component("native", {})
DENSE = Component("impute", {"strategy": "mean", "indicator": False, "scale": "none"})
SCALED = Component("impute", {"strategy": "mean", "indicator": True, "scale": "standard"})
FOREST = {"n_estimators": 100, "max_features": 0.3, "min_samples_leaf": 2}
PIPELINES: dict[str, tuple[Component, dict[str, str | float | int | bool]]] = {
    "constant": (DENSE, {}),
    "linear": (SCALED, {}),
    "lightgbm": (NATIVE, {"n_estimators": 100}),
    "hist_gradient_boosting": (NATIVE, {"max_iter": 100}),
    "random_forest": (DENSE, {**FOREST}),
    "extra_trees": (DENSE, {**FOREST}),
}
CLASS_COUNTS = {TaskKind.BINARY: 2, TaskKind.MULTICLASS: 5, TaskKind.REGRESSION: 0}


def task_of(kind: TaskKind, family: str, rows: int, columns: int, threads: int) -> TrialTask:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(rows, columns))
    signal = matrix[:, 0] + matrix[:, 1] ** 2 + rng.normal(size=rows)
    count = CLASS_COUNTS[kind]
    numeric, params = PIPELINES[family]
    names = [f"column {index}" for index in range(columns)]
    limits = np.quantile(signal, np.arange(1, max(count, 1)) / max(count, 1))
    return TrialTask(
        pipeline=PipelineSpec(family, {"numeric": numeric, "model": Component(family, params)}),
        table=Table.of(
            [Column(name=name, type=ColumnKind.NUMERIC) for name in names],
            {name: matrix[:, index].copy() for index, name in enumerate(names)},
            rows,
        ),
        target=np.searchsorted(limits, signal).astype(np.int64) if count else signal * 1e6,
        task=kind,
        metric="log_loss" if count else "rmse",
        split=SplitSpec(method=SplitMethod.FOLDS, part_count=5, seed=0),
        seed=0,
        classes=tuple(f"class {index}" for index in range(count)),
        threads=threads,
    )


def milliseconds(session: Any, feeds: dict[str, Any], repeat: int) -> float:
    session.run(None, feeds)
    start = time.perf_counter()
    for _ in range(repeat):
        session.run(None, feeds)
    return (time.perf_counter() - start) / repeat * 1e3


def measure(task: TrialTask, folder: Path) -> tuple[str, float]:
    start = time.perf_counter()
    outcome = run_trial(task, folder, lambda _: None)
    total_s = time.perf_counter() - start
    start = time.perf_counter()
    session = session_of(outcome.graph_path)
    load_s = time.perf_counter() - start
    with np.load(outcome.reference_path, allow_pickle=False) as stored:
        arrays = [stored[f"input_{index}"] for index in range(len(stored["columns"]))]
        found = session.run(None, feeds_of(session, arrays))[-1]
        worst = worst_difference(found, stored["expected"])
    thousand = feeds_of(session, [cells[:1000] for cells in task.table.arrays.values()])
    one = {name: cells[:1] for name, cells in thousand.items()}
    size_mb = outcome.graph_path.stat().st_size / 1e6
    line = (
        f"{task.task.value:<11}{task.pipeline.family:<23}{outcome.fit_s:8.2f}{total_s:8.2f}"
        f"{size_mb:9.2f}{load_s:8.2f}{milliseconds(session, thousand, 3):11.2f}"
        f"{milliseconds(session, one, 50):9.3f}   {worst:.1e}"
    )
    return line, worst


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.parity", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--families", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    options = parser.parse_args()
    heads = ("fit_s", "total_s", "size_mb", "load_s", "ms_per_1k", "ms_one")
    widths = (8, 8, 9, 8, 11, 9)
    columns = "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    print(f"{'task':<11}{'family':<23}{columns}   worst")
    failed = False
    for kind in TaskKind:
        for family in options.families:
            task = task_of(kind, family, options.rows, options.columns, options.threads)
            with tempfile.TemporaryDirectory() as folder:
                line, worst = measure(task, Path(folder))
            print(line, flush=True)
            failed |= worst > TOLERANCE
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

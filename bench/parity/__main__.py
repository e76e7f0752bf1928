"""`python -m bench.parity`: each family on made-up rows, its graph beside its library.

Prints the seconds of fitting and of the whole trial, the graph's size, the seconds to load it,
milliseconds for 1,000 rows and for one (one thread), and the largest difference from the library on
the reference rows; then all families as one calibrated ensemble, beside the mix of their libraries
on the validation rows. Ends with 1 when a difference is beyond 1e-6.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from allotment_exporter.child.build import build
from allotment_exporter.child.merge import mixed
from allotment_exporter.config import ExporterConfig
from allotment_exporter.domain.builds import BuildJob, Built, JobMember
from allotment_exporter.domain.exports import Task
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
    seconds = (outcome.fit_s, total_s, load_s)
    return line_of(task, task.pipeline.family, seconds, outcome.graph_path, session, worst), worst


def line_of(
    task: TrialTask,
    name: str,
    seconds: tuple[float, float, float],
    graph: Path,
    session: Any,
    worst: float,
) -> str:
    thousand = feeds_of(session, [cells[:1000] for cells in task.table.arrays.values()])
    one = {name: cells[:1] for name, cells in thousand.items()}
    fit_s, total_s, load_s = seconds
    return (
        f"{task.task.value:<11}{name:<23}{fit_s:8.2f}{total_s:8.2f}"
        f"{graph.stat().st_size / 1e6:9.2f}{load_s:8.2f}{milliseconds(session, thousand, 3):11.2f}"
        f"{milliseconds(session, one, 50):9.3f}   {worst:.1e}"
    )


def measure_ensemble(tasks: list[TrialTask], folder: Path) -> tuple[str, float]:
    """The families' trials, which lie in the folder, as one graph with equal weights."""
    task, weight = tasks[0], 1 / len(tasks)
    temperature = 0.8 if task.classes else 1.0
    files = [folder / t.pipeline.family for t in tasks]
    job = BuildJob(
        members=tuple(
            JobMember(graph=f / "model.onnx", reference=f / "reference.npz", weight=weight)
            for f in files
        ),
        artefact=folder / "ensemble.onnx",
        task=Task(task.task.value),
        classes=task.classes,
        target=task.target_name,
        limits=ExporterConfig(database_url="", work_dir=folder).limits.build,
        temperature=temperature,
    )
    start = time.perf_counter()
    built = build(job, lambda stage: None)
    total_s = time.perf_counter() - start
    if not isinstance(built, Built):
        return f"{task.task.value:<11}{'ensemble':<23}{built}", float("inf")
    start = time.perf_counter()
    session = session_of(job.artefact)
    load_s = time.perf_counter() - start
    inputs, parts = shared_rows([f / "reference.npz" for f in files])
    expected = mixed(parts, [weight] * len(parts), temperature)
    worst = worst_difference(session.run(None, feeds_of(session, inputs))[-1], expected)
    return line_of(task, "ensemble", (0.0, total_s, load_s), job.artefact, session, worst), worst


def shared_rows(paths: list[Path]) -> tuple[list[Any], list[Any]]:
    """Validation rows that are in every reference: their inputs, and each library's values."""
    stored = [np.load(path, allow_pickle=False) for path in paths]
    real = [s["row"] * (s["kind"] == "VALIDATION") - (s["kind"] != "VALIDATION") for s in stored]
    rows = real[0][real[0] >= 0]
    for found in real[1:]:
        rows = np.intersect1d(rows, found)
    places = [[int(np.flatnonzero(found == row)[0]) for row in rows] for found in real]
    inputs = [stored[0][f"input_{i}"][places[0]] for i in range(len(stored[0]["columns"]))]
    return inputs, [s["expected"][place] for s, place in zip(stored, places, strict=True)]


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
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root)
            tasks = [
                task_of(kind, family, options.rows, options.columns, options.threads)
                for family in options.families
            ]
            found = [measure(task, folder / task.pipeline.family) for task in tasks]
            found.append(measure_ensemble(tasks, folder))
        for line, worst in found:
            print(line, flush=True)
            failed |= worst > TOLERANCE
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

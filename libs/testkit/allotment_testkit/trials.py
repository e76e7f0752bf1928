"""Made-up trials full of what real tables hide, and running a trial's graph."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from allotment_learn.table import Array, Column, ColumnKind, Table
from allotment_learn.task import SplitMethod, SplitSpec, TaskKind, TrialTask
from allotment_search.pipeline import Component, PipelineSpec

TOLERANCE = 1e-6
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
CELLS = ("none", "None", "nan", "NULL", "", "ü b", "日本", "a", "A", "0")
PIECES = (
    *("free", "Free", "FREE!", "call", "Call,", "now", "hello", "none", "None", "nan", "", ""),
    *(
        "stra\u00dfe",
        "Stra\u00dfe",
        "STRASSE",
        "\u03a3\u0391\u03a3",
        "\u0130stanbul",
        "\u65e5\u672c",
        "\U0001f9ea",
    ),
    *(
        "e\u0301t\u00e9",
        '"quoted',
        "(bracket",
        "a\nb",
        "tab\tx",
        "x\n\ny\n\n\n\nz",
        ".",
        "??",
        ":)",
        "\r",
    ),
)
CLASSES = ("none", "nan", "Grün", "3")
SMALL_MODELS: Mapping[str, Mapping[str, str | float | int | bool]] = {
    "constant": {},
    "linear": {"strength": 0.5},
    "random_forest": {"n_estimators": 7, "max_features": 0.6},
    "extra_trees": {"n_estimators": 7, "max_features": 0.6, "min_samples_leaf": 2},
    "hist_gradient_boosting": {"max_iter": 7, "min_samples_leaf": 5},
    "lightgbm": {"n_estimators": 7, "min_child_samples": 5, "num_leaves": 15},
}


def quirky_table(rows: int, rng: np.random.Generator) -> Table:
    """Numbers with gaps, infinities, large integers and a column that is empty; strings, dates,
    prose."""
    plain = rng.normal(size=rows)
    plain[rng.random(rows) < 0.15] = np.nan
    large = 1e9 + rng.integers(0, 6, rows).astype(np.float64)
    wild = np.exp(rng.normal(size=rows) * 6)
    wild[rng.random(rows) < 0.05] = np.inf
    wild[rng.random(rows) < 0.05] = -np.inf
    steps = rng.integers(-2, 3, rows).astype(np.float64) / 10
    days = [
        f"{rng.integers(1970, 2040)}-{rng.integers(1, 14):02}-{rng.integers(1, 32):02} "
        f"{rng.integers(0, 25):02}:{rng.integers(0, 60):02}:{rng.integers(0, 60):02}"
        for _ in range(rows)
    ]
    cells = np.array(CELLS, dtype=np.object_)
    prose = quirky_prose(rows, rng.spawn(1)[0])
    numeric, strings = ColumnKind.NUMERIC, ColumnKind.CATEGORICAL
    columns = {
        "plain": (numeric, plain),
        "_1": (numeric, large),
        "label": (numeric, wild),
        "prediction": (numeric, steps),
        "empty": (numeric, np.full(rows, np.nan)),
        "Straße / 1": (strings, cells[rng.integers(0, len(cells), rows)]),
        "rare": (strings, cells[np.minimum(rng.geometric(0.6, rows), len(cells)) - 1]),
        "no string": (strings, np.full(rows, "", dtype=np.object_)),
        "日付": (ColumnKind.DATE, np.array(days, dtype=np.object_)),
        "prose": (ColumnKind.TEXT, prose),
    }
    return Table.of(
        [
            Column(name=n, type=k, date_format=DATE_FORMAT if k is ColumnKind.DATE else "")
            for n, (k, _) in columns.items()
        ],
        {name: array for name, (_, array) in columns.items()},
        rows,
    )


def quirky_prose(rows: int, rng: np.random.Generator) -> Array:
    """Texts of up to a dozen words, a few of them empty and one of hundreds."""
    texts = np.empty(rows, dtype=np.object_)
    for row in range(rows):
        texts[row] = " ".join(rng.choice(PIECES, rng.integers(0, 12)))
    if rows:
        texts[rng.integers(rows)] = "call now " * 200
    return texts


def quirky_target(
    table: Table, task: TaskKind, rng: np.random.Generator
) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    """Depends on the features; the last of several classes has a single row."""
    signal: npt.NDArray[np.float64] = np.nan_to_num(table.arrays["plain"])
    signal = signal + (table.arrays["rare"] == "None")
    signal = signal + table.arrays["prediction"] * 5 + rng.normal(size=table.row_count) * 0.2
    if task is TaskKind.REGRESSION:
        return np.asarray(np.abs(signal) * 1e6, dtype=np.float64)
    if task is TaskKind.BINARY:
        return np.asarray(signal > np.median(signal), dtype=np.int64)
    target = np.searchsorted(np.quantile(signal, [0.3, 0.8]), signal).astype(np.int64)
    target[rng.integers(table.row_count)] = 3
    return target


def quirky_task(
    family: str,
    task: TaskKind,
    *,
    numeric: Component,
    category: Component,
    date: str = "parts",
    target: str = "identity",
    more: Mapping[str, Component] | None = None,
    method: SplitMethod = SplitMethod.FOLDS,
    rows: int = 120,
    seed: int = 0,
    params: Mapping[str, str | float | int | bool] | None = None,
) -> TrialTask:
    """A small trial of the family. `params`: for a model that SMALL_MODELS doesn't have."""
    rng = np.random.default_rng(seed)
    table = quirky_table(rows, rng)
    components = {
        "numeric": numeric,
        "category": category,
        "date": Component(date, {}),
        "model": Component(family, SMALL_MODELS[family] if params is None else params),
        "target": Component(target, {}),
        **(more or {}),
    }
    counts = {TaskKind.BINARY: 2, TaskKind.MULTICLASS: 4, TaskKind.REGRESSION: 0}
    return TrialTask(
        pipeline=PipelineSpec(family=family, components=components),
        table=table,
        target=quirky_target(table, task, rng),
        task=task,
        metric="rmse" if task is TaskKind.REGRESSION else "log_loss",
        split=SplitSpec(method=method, part_count=3, seed=seed),
        seed=seed,
        classes=CLASSES[: counts[task]],
    )


def feeds_of(session: Any, arrays: Mapping[str, Array] | list[Array]) -> dict[str, Array]:
    """The session's inputs out of columns in input order."""
    columns = list(arrays.values()) if isinstance(arrays, Mapping) else arrays
    return {
        node.name: (cells if cells.dtype == np.float64 else cells.astype(np.object_))[:, None]
        for node, cells in zip(session.get_inputs(), columns, strict=True)
    }


def session_of(graph: Path | bytes) -> Any:
    """A session on one thread with the default optimiser."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def worst_difference(actual: Array, expected: Array) -> float:
    """Largest |actual - expected| / max(1, |expected|); infinite where one of them is NaN alone."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    difference = np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))

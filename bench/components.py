"""What each component of a pipeline is worth: out-of-fold losses with it and without it.

    python -m bench.components [--sets titanic,lending_club] [--folds 5]

Each line is one pipeline (family with its defaults) on one set, the baseline without the component
(texts dropped, ordinal or one-hot categories, no pairs, no crosses) and the ratio of their losses:
log loss, or RMSE. Below 1.0 the component helps there; the search decides. Seeds, folds and rows
are the same on both sides. Texts are columns of four words or more a cell. No limit.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from allotment_learn.table import Array, Column, ColumnKind, Table
from allotment_learn.task import SplitMethod, SplitSpec, TaskKind, TrialTask
from allotment_learn.trial import run_trial
from allotment_search import Component, Grammar, TaskShape
from bench.sets import CLASSIFICATION, TabularSet, tabular_sets

ROW_LIMIT = 8_000
PROSE_WORDS = 4.0
GRAMMAR = Grammar.load("tabular")


@dataclass(frozen=True, slots=True)
class Arm:
    """A default of a family, and what stands in one of its slots without the component."""

    family: str
    default: str
    slot: str
    instead: Component
    needs: ColumnKind


ORDINAL = Component("ordinal", {})
ONEHOT = Component("onehot", {"min_count": 2, "max_categories": 50})
ARMS = (
    Arm("lightgbm", "text", "text", Component("drop", {}), ColumnKind.TEXT),
    Arm("linear", "text", "text", Component("drop", {}), ColumnKind.TEXT),
    Arm("lightgbm", "target", "category", ORDINAL, ColumnKind.CATEGORICAL),
    Arm("random_forest", "target", "category", ORDINAL, ColumnKind.CATEGORICAL),
    Arm("linear", "target", "category", ONEHOT, ColumnKind.CATEGORICAL),
    Arm("linear", "crossed", "crosses", Component("none", {}), ColumnKind.CATEGORICAL),
    Arm("lightgbm", "pairs", "pairs", Component("none", {}), ColumnKind.NUMERIC),
)


def read_task(entry: TabularSet, folds: int) -> TrialTask:
    """At most ROW_LIMIT rows of a set; columns typed by their cells."""
    rows = pd.read_csv(entry.path, dtype=str, keep_default_na=False)
    rows = rows[rows[entry.target] != ""]
    if len(rows) > ROW_LIMIT:
        rows = rows.sample(ROW_LIMIT, random_state=0)
    columns, arrays = [], {}
    for name in rows.columns.drop(entry.target):
        kind, array = _typed(rows[name])
        columns.append(Column(name=name, type=kind))
        arrays[name] = array
    classes: tuple[str, ...] = ()
    target: Array = rows[entry.target].to_numpy()
    if entry.task in CLASSIFICATION:
        classes = tuple(sorted(set(target)))
        target = np.array([classes.index(label) for label in target], dtype=np.int64)
    return TrialTask(
        pipeline=GRAMMAR.resolve(GRAMMAR.default("constant")),
        table=Table.of(columns, arrays, len(rows)),
        target=target if classes else target.astype(np.float64),
        task=TaskKind(entry.task),
        metric="log_loss" if classes else "rmse",
        split=SplitSpec(method=SplitMethod.FOLDS, part_count=folds, seed=0),
        seed=0,
        classes=classes,
    )


def _typed(cells: pd.Series) -> tuple[ColumnKind, Array]:
    present = cells[cells.str.strip() != ""]
    numbers = pd.to_numeric(cells.where(cells.str.strip() != ""), errors="coerce")
    if numbers.notna().sum() == len(present):
        return ColumnKind.NUMERIC, numbers.to_numpy(np.float64)
    mostly_distinct = present.nunique() > 0.5 * len(present)
    if mostly_distinct and (present.str.count(" ") + 1).mean() >= PROSE_WORDS:
        return ColumnKind.TEXT, cells.to_numpy(object)
    return ColumnKind.CATEGORICAL, cells.to_numpy(object)


def loss(task: TrialTask, arm: Arm, *, on: bool) -> float:
    kinds = [column.type for column in task.table.columns]
    shape = TaskShape(
        task=task.task.value,
        row_count=task.table.row_count,
        numeric_count=kinds.count(ColumnKind.NUMERIC),
        category_count=kinds.count(ColumnKind.CATEGORICAL),
        text_count=kinds.count(ColumnKind.TEXT),
        class_count=len(task.classes),
        fit_count=task.split.part_count,
    )
    pipeline = GRAMMAR.resolve(GRAMMAR.default(arm.family, arm.default, shape))
    if not on:
        pipeline = replace(pipeline, components={**pipeline.components, arm.slot: arm.instead})
    with tempfile.TemporaryDirectory(prefix="allotment-bench-") as folder:
        outcome = run_trial(replace(task, pipeline=pipeline), Path(folder), lambda _: None)
    return outcome.score


def sets_with_texts(names: list[str] | None) -> list[TabularSet]:
    """The benches' sets, and the texts beside them where real sets are named."""
    found = tabular_sets(names)
    root = os.environ.get("ALLOTMENT_TEST_DATA")
    if root:
        for entry in json.loads((Path(root) / "manifest.json").read_text(encoding="utf-8")):
            if entry["path"].startswith("text/") and (not names or entry["name"] in names):
                task = entry["task"].removeprefix("text-")
                path = Path(root) / entry["path"]
                found.append(
                    TabularSet(name=entry["name"], path=path, target=entry["target"], task=task)
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=lambda text: text.split(","), default=None)
    parser.add_argument("--folds", type=int, default=5)
    asked = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    print(f"{'set':<22}{'component':<10}{'family':<15}{'with':>12}{'without':>12}{'ratio':>8}")
    for entry in sets_with_texts(asked.sets):
        task = read_task(entry, asked.folds)
        for arm in ARMS:
            if arm.needs not in {column.type for column in task.table.columns}:
                continue
            ours, base = loss(task, arm, on=True), loss(task, arm, on=False)
            ratios.setdefault(f"{arm.default} ({arm.family})", []).append(ours / base)
            names = f"{entry.name:<22}{arm.default:<10}{arm.family:<15}"
            print(f"{names}{ours:>12.4f}{base:>12.4f}{ours / base:>8.3f}", flush=True)
    for title, found in ratios.items():
        better = sum(ratio < 1 for ratio in found)
        print(f"{title}: better on {better} of {len(found)}, median {np.median(found):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Learns the order of the shipped portfolio from tables of earlier tasks.

    ALLOTMENT_TEST_DATA=folder python -m bench.portfolio [--sets NAME ...] [--draws 40]
                                  [--rows 1000] [--results results.json] [--write]

Every named default and a number of random derivations are scored on every set (scikit-learn's own
sets when no folder is given) by 3-fold cross-validation on at most --rows rows. The order is
greedy: each next entry lowers the mean normalised regret over the tasks most. Printed is the regret
after k trials on tasks that were left out while the order was learnt, beside the grammar's own
order and random draws. --write puts the order into libs/search: configurations alone, no data.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from allotment_core.errors import AllotmentError
from allotment_learn import metrics
from allotment_learn.errors import DeadlineReached
from allotment_learn.features import Features
from allotment_learn.folds import fit_fold, library_errors, reads_dates
from allotment_learn.table import Column, ColumnKind, Table
from allotment_learn.task import SplitMethod, SplitSpec, TaskKind, TrialTask
from allotment_learn.trial import divide_rows
from allotment_search import Derivation, Grammar, TaskShape
from bench.sets import TabularSet, tabular_sets

FOLDS = 3
TRIAL_LIMIT_S = 8.0
LENGTH = 16
TARGET = Path("libs/search/allotment_search/data/portfolio.json")
GRAMMAR = Grammar.load("tabular")
Entry = tuple[str, str]
"""Family, and its choices as canonical JSON."""


def _failures() -> tuple[type[Exception], ...]:
    """Asked once a library is loaded."""
    return (*library_errors(), AllotmentError, DeadlineReached)


def load(entry: TabularSet, row_limit: int) -> tuple[TrialTask, TaskShape]:
    """A sample of the set, and its shape. Columns that are unique strings are left out."""
    frame = pd.read_csv(entry.path, keep_default_na=False, na_values=[""])
    frame = frame[frame[entry.target].notna()]
    frame = frame.sample(min(row_limit, len(frame)), random_state=0).reset_index(drop=True)
    columns, arrays = [], {}
    for name in frame.columns:
        cells = frame[name]
        if name == entry.target:
            continue
        if cells.dtype.kind in "ifb":
            columns.append(Column(name=name, type=ColumnKind.NUMERIC))
            arrays[name] = cells.to_numpy(dtype=np.float64)
        elif cells.nunique() <= 0.5 * len(cells):
            columns.append(Column(name=name, type=ColumnKind.CATEGORICAL))
            arrays[name] = cells.fillna("").astype(str).to_numpy(dtype=np.object_)
    table = Table.of(columns, arrays, len(frame))
    classes: tuple[str, ...] = ()
    target: Any = (
        frame[entry.target].to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        if (entry.task == "regression")
        else None
    )
    if target is None:
        labels, target = np.unique(frame[entry.target].astype(str), return_inverse=True)
        classes, target = tuple(labels), target.astype(np.int64)
    kind = TaskKind(entry.task)
    numbers = sum(c.type is ColumnKind.NUMERIC for c in columns)
    shape = TaskShape(
        task=kind.value,
        row_count=len(frame),
        numeric_count=numbers,
        category_count=len(columns) - numbers,
        class_count=len(classes),
        fit_count=FOLDS,
        target_minimum=float(target.min()) if kind is TaskKind.REGRESSION else None,
    )
    task = TrialTask(
        pipeline=GRAMMAR.resolve(GRAMMAR.default("constant")),
        table=table,
        target=target,
        task=kind,
        metric="rmse" if kind is TaskKind.REGRESSION else "log_loss",
        split=SplitSpec(method=SplitMethod.FOLDS, part_count=FOLDS, seed=0),
        seed=0,
        classes=classes,
    )
    return task, shape


def loss_of(task: TrialTask, derivation: Derivation) -> tuple[float, float]:
    """The cross-validated loss (infinite when it fails), and the seconds that it took."""
    fields = {f: getattr(task, f) for f in task.__dataclass_fields__}
    task = TrialTask(**{**fields, "pipeline": GRAMMAR.resolve(derivation)})
    started = time.perf_counter()
    features = Features.of(task.table, with_dates=reads_dates(task))
    predictions, rows = [], []

    def out_of_time() -> bool:
        return time.perf_counter() - started > TRIAL_LIMIT_S

    try:
        for train, validation in divide_rows(task):
            model = fit_fold(task, features, train, out_of_time)
            predictions.append(model.predict(features.take(validation)))
            rows.append(validation)
            if out_of_time():
                return np.inf, TRIAL_LIMIT_S
    except _failures():
        return np.inf, time.perf_counter() - started
    truth = task.target[np.concatenate(rows)]
    loss = metrics.score(task.metric, truth, np.concatenate(predictions), None)
    return (loss if np.isfinite(loss) else np.inf), time.perf_counter() - started


def candidates(draws: int) -> list[Entry]:
    """The grammar's defaults in its own order, then random derivations."""
    entries = [(e.family, GRAMMAR.choices_of(e.family, e.default)) for e in GRAMMAR.portfolio]
    shape = TaskShape(
        task="binary", row_count=1000, numeric_count=9, category_count=5, fit_count=FOLDS
    )
    rng = np.random.default_rng(0)
    for _ in range(draws):
        derivation = GRAMMAR.derive(rng, None, shape)
        chosen = {c.symbol: c.value for c in derivation[1:] if c.symbol != "Target"}
        entries.append((str(derivation[0].value), chosen))
    return list(dict.fromkeys((f, json.dumps(c, sort_keys=True)) for f, c in entries))


def measure(
    entries: list[Entry], sets: list[TabularSet], row_limit: int
) -> dict[str, list[list[float]]]:
    """For each set the (loss, seconds) of each entry."""
    results = {}
    for entry in sets:
        task, shape = load(entry, row_limit)
        known: dict[Derivation, tuple[float, float]] = {}
        found = []
        for family, choices in entries:
            derivation = GRAMMAR.following(family, json.loads(choices), shape)
            if derivation is None:
                found.append([np.inf, 0.0])
                continue
            if derivation not in known:
                known[derivation] = loss_of(task, derivation)
            found.append(list(known[derivation]))
        results[entry.name] = found
        print(f"{entry.name:22} best {min(x for x, _ in found):.4f}", flush=True)
    return results


def regrets(results: Mapping[str, list[list[float]]]) -> np.ndarray:
    """Tasks x entries: 0 is the best loss of the task, 1 the median of its defaults or worse."""
    rows = []
    for found in results.values():
        losses = np.array([x for x, _ in found])
        middle = float(np.median(losses[np.isfinite(losses)]))
        best = float(losses.min())
        rows.append(np.clip((losses - best) / max(middle - best, 1e-12), 0.0, 1.0))
    return np.array(rows)


def greedy(table: np.ndarray, length: int) -> list[int]:
    """Places of the entries, in order. Ties go to the earlier one."""
    order: list[int] = []
    reached = np.ones(len(table))
    while len(order) < min(length, table.shape[1]):
        means = [
            np.inf if place in order else float(np.minimum(reached, table[:, place]).mean())
            for place in range(table.shape[1])
        ]
        order.append(int(np.argmin(means)))
        reached = np.minimum(reached, table[:, order[-1]])
    return order


def report(table: np.ndarray, default_count: int) -> None:
    """Mean regret after k trials on a task that the order was not learnt from."""
    rng = np.random.default_rng(0)
    marks = (3, 5, 10, 15, 20)
    learnt = np.zeros((len(table), len(marks)))
    for left_out in range(len(table)):
        order = greedy(np.delete(table, left_out, axis=0), max(marks))
        for place, k in enumerate(marks):
            learnt[left_out, place] = table[left_out, order[:k]].min()
    own = [table[:, : min(k, default_count)].min(axis=1).mean() for k in marks]
    shuffled = [rng.permutation(table.shape[1]) for _ in range(200)]
    drawn = [np.mean([table[:, s[:k]].min(axis=1).mean() for s in shuffled]) for k in marks]
    print("mean regret after     " + "".join(f"{k:8}" for k in marks) + "  trials")
    for label, values in (
        ("learnt, left out", learnt.mean(axis=0)),
        ("the grammar's order", own),
        ("random order", drawn),
    ):
        print(f"{label:22}" + "".join(f"{v:8.3f}" for v in values))


def learnt_about(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Without what no task here had columns for."""
    raw = json.loads((TARGET.parent / f"{GRAMMAR.name}.json").read_text(encoding="utf-8"))
    unseen = [
        symbol
        for name, nonterminal in raw["nonterminals"].items()
        if nonterminal.get("needs", nonterminal.get("slot")) in ("date", "text")
        for symbol in (name, *(f"{p}." for p in nonterminal["productions"]))
    ]
    return {s: v for s, v in choices.items() if not s.startswith(tuple(unseen))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--results", type=Path, help="kept here, and read again when it is there")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.results and arguments.results.exists():
        stored = json.loads(arguments.results.read_text(encoding="utf-8"))
        entries, results = [tuple(e) for e in stored["entries"]], stored["results"]
    else:
        entries = candidates(arguments.draws)
        results = measure(entries, tabular_sets(arguments.sets), arguments.rows)
        if arguments.results:
            stored = {"entries": entries, "results": results}
            arguments.results.write_text(json.dumps(stored), encoding="utf-8")
    table = regrets(results)
    report(table, len(GRAMMAR.portfolio))
    order = [entries[place] for place in greedy(table, LENGTH)]
    shipped = [
        {"family": f, "choices": learnt_about(json.loads(c))} for f, c in order if f != "constant"
    ]
    lines = ",\n".join("    " + json.dumps(e) for e in shipped)
    text = f'{{\n  "{GRAMMAR.name}": [\n{lines}\n  ]\n}}\n'
    if arguments.write:
        TARGET.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`allotment run` against untuned models, and against FLAML, on held-out rows.

    python -m bench.quality [--budget 60s] [--seeds 0,1,2] [--sets penguins,titanic] [--flaml]
                            [--json FILE]

For every set and seed a quarter of the rows is held out (stratified for classification).
`allotment run` gets the other rows as one CSV file and no option but the target; its exported
graph is scored through `allotment predict`. The baselines are LightGBM with its defaults, a
random forest of 300 trees (ordinal codes, means imputed) and HistGradientBoosting with its
defaults (ordinal codes). The loss is log loss, or RMSE for regression. Printed per set: the mean
over the seeds, the ratio to the best baseline, and the 95 % interval of the difference from a
bootstrap over rows that are paired within each seed. WORSE marks a set whose mean loss is above
1.02 x the best baseline's + .002 (RMSE: 1.02 x) while the interval excludes equality.

With `--flaml`, FLAML 2.7 gets the same rows and budget, in a venv of its own; both run at once,
each on one CPU alone. ECE is the expected calibration error of the top class over the held-out
rows of all seeds.
"""

import argparse
import csv
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from bench.quality.arms import (
    Task,
    fit_baselines,
    install_flaml,
    read_rows,
    run_allotment,
    run_flaml,
)
from bench.quality.scoring import (
    Floats,
    bootstrap_interval,
    calibration_error,
    confidence_and_hits,
    mean_loss,
    row_losses,
)
from bench.sets import CLASSIFICATION, TabularSet, tabular_sets

FLAML_CORES = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One set's mean losses over the seeds, and whether ours is worse than the best baseline."""

    name: str
    ours: float
    baselines: dict[str, float]
    ratio: float
    interval: tuple[float, float]
    worse: bool
    flaml: float | None
    flaml_interval: tuple[float, float] | None
    calibration_error: float | None
    longest_run_s: float


@dataclass(slots=True)
class Losses:
    """Row losses of each arm, seed by seed."""

    ours: list[Floats] = field(default_factory=list)
    flaml: list[Floats] = field(default_factory=list)
    baselines: dict[str, list[Floats]] = field(default_factory=dict)
    confidences: list[Floats] = field(default_factory=list)
    longest_run_s: float = 0.0


def split(rows: pd.DataFrame, entry: TabularSet, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    labelled = rows[rows[entry.target].notna()]
    stratify = labelled[entry.target] if entry.task in CLASSIFICATION else None
    train, held_out = train_test_split(
        labelled, test_size=0.25, random_state=seed, stratify=stratify
    )
    return train, held_out


def measure(task: Task, losses: Losses, *, with_flaml: bool) -> None:
    entry, truth = task.entry, task.held_out[task.entry.target]
    task.train.to_csv(task.train_file, index=False, quoting=csv.QUOTE_MINIMAL)
    task.held_out.drop(columns=[entry.target]).to_csv(task.rows_file, index=False)
    with ThreadPoolExecutor(2) as pool:
        theirs = pool.submit(run_flaml, task) if with_flaml else None
        predicted, elapsed_s = pool.submit(run_allotment, task).result()
        if theirs is not None:
            losses.flaml.append(row_losses(entry, truth, theirs.result()))
    losses.longest_run_s = max(losses.longest_run_s, elapsed_s)
    losses.ours.append(row_losses(entry, truth, predicted))
    if entry.task in CLASSIFICATION:
        losses.confidences.append(confidence_and_hits(truth, predicted))
    for name, table in fit_baselines(task).items():
        losses.baselines.setdefault(name, []).append(row_losses(entry, truth, table))


def judge(entry: TabularSet, budget_s: float, seeds: list[int], *, with_flaml: bool) -> Verdict:
    rows = read_rows(entry.path)
    losses = Losses()
    for seed in seeds:
        train, held_out = split(rows, entry, seed)
        with tempfile.TemporaryDirectory(prefix="allotment-bench-") as folder:
            task = Task(
                entry=entry,
                train=train,
                held_out=held_out,
                folder=Path(folder),
                budget_s=budget_s,
                seed=seed,
                cores=FLAML_CORES if with_flaml else (),
            )
            measure(task, losses, with_flaml=with_flaml)
    ours = mean_loss(entry, losses.ours)
    means = {name: mean_loss(entry, per_seed) for name, per_seed in losses.baselines.items()}
    best = min(means, key=lambda name: means[name])
    interval = bootstrap_interval(entry, losses.ours, losses.baselines[best])
    slack = 0.002 if entry.task in CLASSIFICATION else 0.0
    pairs = np.concatenate(losses.confidences) if losses.confidences else None
    return Verdict(
        name=entry.name,
        ours=ours,
        baselines=means,
        ratio=ours / means[best] if means[best] else 1.0,
        interval=interval,
        worse=ours > 1.02 * means[best] + slack and interval[0] > 0,
        flaml=mean_loss(entry, losses.flaml) if with_flaml else None,
        flaml_interval=bootstrap_interval(entry, losses.ours, losses.flaml) if with_flaml else None,
        calibration_error=None if pairs is None else calibration_error(pairs),
        longest_run_s=losses.longest_run_s,
    )


def _line(verdict: Verdict) -> str:
    b = verdict.baselines
    low, high = verdict.interval
    flaml = "-"
    if verdict.flaml is not None and verdict.flaml_interval is not None:
        gap = "{:+.3g} .. {:+.3g}".format(*verdict.flaml_interval)
        flaml = f"{verdict.flaml:.5g} ({verdict.ours / max(verdict.flaml, 1e-12):.3f}; {gap})"
    ece = "-" if verdict.calibration_error is None else f"{verdict.calibration_error:.3f}"
    return (
        f"| {verdict.name} | {verdict.ours:.5g} | {b['lightgbm']:.5g} | {b['forest']:.5g} "
        f"| {b['histgb']:.5g} | {verdict.ratio:.3f} | {low:+.3g} .. {high:+.3g} | {flaml} | {ece} "
        f"| {verdict.longest_run_s:.1f} | {'WORSE' if verdict.worse else 'ok'} |"
    )


def _summary(verdicts: list[Verdict]) -> str:
    count = len(verdicts)
    better = sum(v.ours < min(v.baselines.values()) for v in verdicts)
    lines = [f"{count} sets: better than the best baseline on {better} ({better / count:.0%})"]
    lines.append(f"worse on {sum(v.worse for v in verdicts)}")
    won = [v.ours < v.flaml for v in verdicts if v.flaml is not None]
    if won:
        lines.append(f"better than FLAML on {sum(won)} of {len(won)} ({sum(won) / len(won):.0%})")
    errors = [v.calibration_error for v in verdicts if v.calibration_error is not None]
    if errors:
        lines.append(f"median expected calibration error {float(np.median(errors)):.4f}")
    return "; ".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sets", default="")
    parser.add_argument("--flaml", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    names = [name for name in arguments.sets.split(",") if name]
    budget_s = float(arguments.budget.removesuffix("s"))
    if arguments.flaml:
        install_flaml()
    print(
        "| set | ours | lightgbm | forest | histgb | ours / best | 95 % of difference "
        "| flaml (ours / flaml; 95 % of difference) | ECE | longest run s | |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    verdicts: list[Verdict] = []
    for entry in tabular_sets(names):
        verdict = judge(entry, budget_s, seeds, with_flaml=arguments.flaml)
        verdicts.append(verdict)
        print(_line(verdict), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(v) for v in verdicts], indent=1) + "\n")
    print(_summary(verdicts))
    return 1 if any(v.worse for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())

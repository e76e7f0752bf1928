"""`allotment run` against untuned models on held-out rows.

    python -m bench.quality [--budget 60s] [--seeds 0,1,2] [--sets penguins,titanic] [--json FILE]

For every set and seed a quarter of the rows is held out (stratified for classification).
`allotment run` gets the other rows as one CSV file and no option but the target; its exported
graph is scored through `allotment predict`. The baselines are LightGBM with its defaults, a
random forest of 300 trees (ordinal codes, means imputed) and HistGradientBoosting with its
defaults (ordinal codes). The loss is log loss, or RMSE for regression. Printed per set: the mean
over the seeds, the ratio to the best baseline, and the 95 % interval of the difference from a
bootstrap over rows that are paired within each seed. WORSE marks a set whose mean loss is above
1.02 x the best baseline's + .002 (RMSE: 1.02 x) while the interval excludes equality.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from bench.sets import CLASSIFICATION, TabularSet, tabular_sets

ALLOTMENT = str(Path(sys.executable).with_name("allotment"))
BOOTSTRAP_SAMPLES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One set's mean losses over the seeds, and whether ours is worse than the best baseline."""

    name: str
    ours: float
    baselines: dict[str, float]
    ratio: float
    interval: tuple[float, float]
    worse: bool
    longest_run_s: float


def read_rows(path: Path) -> pd.DataFrame:
    """Cells as strings; an empty one is missing and nothing else is."""
    return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])


def split(rows: pd.DataFrame, entry: TabularSet, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    labelled = rows[rows[entry.target].notna()]
    stratify = labelled[entry.target] if entry.task in CLASSIFICATION else None
    train, held_out = train_test_split(
        labelled, test_size=0.25, random_state=seed, stratify=stratify
    )
    return train, held_out


def row_losses(entry: TabularSet, truth: pd.Series, predicted: pd.DataFrame) -> np.ndarray:
    """[N] negative log likelihoods (probabilities clipped at 1e-15), or squared errors."""
    if entry.task not in CLASSIFICATION:
        errors = predicted["prediction"].to_numpy(float) - truth.to_numpy(float)
        return np.asarray(errors**2)
    probabilities = predicted.to_numpy(float)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    places = {label: place for place, label in enumerate(predicted.columns)}
    chosen = probabilities[np.arange(len(truth)), [places[label] for label in truth]]
    return np.asarray(-np.log(np.clip(chosen, 1e-15, 1.0)))


def as_loss(entry: TabularSet, losses: np.ndarray) -> float:
    mean = float(losses.mean())
    return mean if entry.task in CLASSIFICATION else mean**0.5


def run_allotment(
    entry: TabularSet, train: pd.DataFrame, held_out: pd.DataFrame, budget: str, seed: int
) -> tuple[pd.DataFrame, float]:
    with tempfile.TemporaryDirectory(prefix="allotment-bench-") as name:
        folder = Path(name)
        train.to_csv(folder / "train.csv", index=False, quoting=csv.QUOTE_MINIMAL)
        held_out.drop(columns=[entry.target]).to_csv(folder / "rows.csv", index=False)
        command = [ALLOTMENT, "run", str(folder / "train.csv"), "--target", entry.target]
        command += ["--budget", budget, "--seed", str(seed), "--out", str(folder / "out")]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        elapsed_s = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{entry.name}: {' '.join(command)} failed\n{done.stdout}\n{done.stderr}")
        predict = [ALLOTMENT, "predict", str(folder / "out/model.onnx"), str(folder / "rows.csv")]
        subprocess.run([*predict, "--out", str(folder / "p.csv")], check=True, capture_output=True)
        predicted = pd.read_csv(folder / "p.csv")
    return predicted, elapsed_s


def numeric_columns(train: pd.DataFrame, features: list[str]) -> list[str]:
    def is_numeric(column: str) -> bool:
        present = train[column].dropna()
        return len(present) > 0 and bool(pd.to_numeric(present, errors="coerce").notna().all())

    return [column for column in features if is_numeric(column)]


def fit_baselines(
    entry: TabularSet, train: pd.DataFrame, held_out: pd.DataFrame, seed: int
) -> dict[str, pd.DataFrame]:
    features = [column for column in train.columns if column != entry.target]
    numeric = numeric_columns(train, features)
    strings = [column for column in features if column not in numeric]
    encode = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
    )

    def typed(rows: pd.DataFrame) -> pd.DataFrame:
        numbers = {c: pd.to_numeric(rows[c], errors="coerce").astype(float) for c in numeric}
        return pd.DataFrame({**numbers, **{c: rows[c] for c in strings}})

    classify = entry.task in CLASSIFICATION
    target = train[entry.target] if classify else train[entry.target].astype(float)
    forest = RandomForestClassifier if classify else RandomForestRegressor
    boosting = HistGradientBoostingClassifier if classify else HistGradientBoostingRegressor
    gbm = lightgbm.LGBMClassifier if classify else lightgbm.LGBMRegressor
    models: dict[str, Any] = {
        "lightgbm": gbm(random_state=seed, verbose=-1),
        "forest": make_pipeline(
            make_column_transformer((encode, strings), (SimpleImputer(), numeric)),
            forest(n_estimators=300, random_state=seed, n_jobs=-1),
        ),
        "histgb": make_pipeline(
            make_column_transformer((encode, strings), ("passthrough", numeric)),
            boosting(random_state=seed),
        ),
    }
    predicted = {}
    for name, model in models.items():
        rows, other = typed(train), typed(held_out)
        if name == "lightgbm":
            kinds = {c: pd.CategoricalDtype(sorted(rows[c].dropna().unique())) for c in strings}
            for column, kind in kinds.items():
                rows[column] = rows[column].astype(kind)
                known = other[column].isin(kind.categories)
                other[column] = other[column].where(known).astype(kind)
            clean = {c: f"f{place}" for place, c in enumerate(rows.columns)}
            rows, other = rows.rename(columns=clean), other.rename(columns=clean)
        model.fit(rows, target)
        if classify:
            predicted[name] = pd.DataFrame(model.predict_proba(other), columns=model.classes_)
        else:
            predicted[name] = pd.DataFrame({"prediction": model.predict(other)})
    return predicted


def bootstrap_interval(
    entry: TabularSet, ours: list[np.ndarray], best: list[np.ndarray]
) -> tuple[float, float]:
    """95 % interval of (our loss - best loss), rows redrawn within each seed, the same for both."""
    rng = np.random.default_rng(0)
    differences = np.empty(BOOTSTRAP_SAMPLES)
    for sample in range(BOOTSTRAP_SAMPLES):
        gaps = []
        for left, right in zip(ours, best, strict=True):
            drawn = rng.integers(0, len(left), len(left))
            gaps.append(as_loss(entry, left[drawn]) - as_loss(entry, right[drawn]))
        differences[sample] = np.mean(gaps)
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def judge(entry: TabularSet, budget: str, seeds: list[int]) -> Verdict:
    rows = read_rows(entry.path)
    ours: list[np.ndarray] = []
    baselines: dict[str, list[np.ndarray]] = {}
    longest_run_s = 0.0
    for seed in seeds:
        train, held_out = split(rows, entry, seed)
        truth = held_out[entry.target]
        predicted, elapsed_s = run_allotment(entry, train, held_out, budget, seed)
        longest_run_s = max(longest_run_s, elapsed_s)
        ours.append(row_losses(entry, truth, predicted))
        for name, table in fit_baselines(entry, train, held_out, seed).items():
            baselines.setdefault(name, []).append(row_losses(entry, truth, table))
    our_loss = float(np.mean([as_loss(entry, losses) for losses in ours]))
    means = {
        name: float(np.mean([as_loss(entry, losses) for losses in per_seed]))
        for name, per_seed in baselines.items()
    }
    best = min(means, key=lambda name: means[name])
    interval = bootstrap_interval(entry, ours, baselines[best])
    slack = 0.002 if entry.task in CLASSIFICATION else 0.0
    return Verdict(
        name=entry.name,
        ours=our_loss,
        baselines=means,
        ratio=our_loss / means[best] if means[best] else 1.0,
        interval=interval,
        worse=our_loss > 1.02 * means[best] + slack and interval[0] > 0,
        longest_run_s=longest_run_s,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sets", default="")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    names = [name for name in arguments.sets.split(",") if name]
    print(
        "| set | ours | lightgbm | forest | histgb | ours / best "
        "| 95 % of difference | longest run s | |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    verdicts = []
    for entry in tabular_sets(names):
        verdict = judge(entry, arguments.budget, seeds)
        verdicts.append(verdict)
        b = verdict.baselines
        print(
            f"| {verdict.name} | {verdict.ours:.5g} | {b['lightgbm']:.5g} | {b['forest']:.5g} "
            f"| {b['histgb']:.5g} | {verdict.ratio:.3f} | {verdict.interval[0]:+.4g} .. "
            f"{verdict.interval[1]:+.4g} | {verdict.longest_run_s:.1f} "
            f"| {'WORSE' if verdict.worse else 'ok'} |",
            flush=True,
        )
    better = sum(verdict.ratio < 1 for verdict in verdicts)
    worse = sum(verdict.worse for verdict in verdicts)
    print(f"{len(verdicts)} sets: better than the best baseline on {better}, worse on {worse}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(v) for v in verdicts], indent=1) + "\n")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())

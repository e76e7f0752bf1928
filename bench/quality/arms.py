"""The arms of the comparison: `allotment run`, untuned models, and FLAML in a venv of its own."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from bench.sets import CLASSIFICATION, TabularSet

ALLOTMENT = str(Path(sys.executable).with_name("allotment"))
FLAML_PACKAGES = ("flaml==2.7.0", "lightgbm", "scikit-learn", "pandas", "xgboost-cpu")
FLAML_VENV = Path(__file__).parents[2] / ".venv-flaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One set, one seed: files of training rows and of rows without their target."""

    entry: TabularSet
    train: pd.DataFrame
    held_out: pd.DataFrame
    folder: Path
    budget_s: float
    seed: int
    cores: tuple[int, ...]
    """CPUs that an arm may use; empty: all of them."""

    @property
    def train_file(self) -> Path:
        return self.folder / "train.csv"

    @property
    def rows_file(self) -> Path:
        return self.folder / "rows.csv"


def read_rows(path: Path) -> pd.DataFrame:
    """Cells as strings; an empty one is missing and nothing else is."""
    return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])


def run_allotment(task: Task) -> tuple[pd.DataFrame, float]:
    """What the exported graph predicts, and how long `allotment run` took."""
    out = task.folder / "out"
    command = [ALLOTMENT, "run", str(task.train_file), "--target", task.entry.target]
    command += ["--budget", f"{task.budget_s:g}s", "--seed", str(task.seed), "--out", str(out)]
    started = time.perf_counter()
    _call(_pinned(command, task.cores[:1]), task.entry.name)
    elapsed_s = time.perf_counter() - started
    predicted = task.folder / "allotment.csv"
    predict = [ALLOTMENT, "predict", str(out / "model.onnx"), str(task.rows_file)]
    _call([*predict, "--out", str(predicted)], task.entry.name)
    return pd.read_csv(predicted), elapsed_s


def run_flaml(task: Task) -> pd.DataFrame:
    """The same rows, budget and number of CPUs, its defaults otherwise."""
    predicted = task.folder / "flaml.csv"
    order = {
        "train": str(task.train_file),
        "rows": str(task.rows_file),
        "out": str(predicted),
        "target": task.entry.target,
        "classify": task.entry.task in CLASSIFICATION,
        "numeric": numeric_columns(task.train, _features(task)),
        "budget_s": task.budget_s,
        "seed": task.seed,
        "threads": 1 if task.cores else -1,
    }
    script = str(Path(__file__).with_name("flaml_arm.py"))
    command = [str(FLAML_VENV / "bin/python"), script, json.dumps(order)]
    _call(_pinned(command, task.cores[1:]), task.entry.name)
    return pd.read_csv(predicted)


def install_flaml() -> None:
    """Into a venv of its own, once."""
    python = FLAML_VENV / "bin/python"
    if not (FLAML_VENV / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(FLAML_VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *FLAML_PACKAGES], check=True)
        (FLAML_VENV / ".ready").touch()


def _pinned(command: list[str], cores: tuple[int, ...]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cores)), *command] if cores else command


def _call(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {' '.join(command)} failed\n{done.stdout}\n{done.stderr}")


def _features(task: Task) -> list[str]:
    return [column for column in task.train.columns if column != task.entry.target]


def numeric_columns(train: pd.DataFrame, features: list[str]) -> list[str]:
    def is_numeric(column: str) -> bool:
        present = train[column].dropna()
        return len(present) > 0 and bool(pd.to_numeric(present, errors="coerce").notna().all())

    return [column for column in features if is_numeric(column)]


def fit_baselines(task: Task) -> dict[str, pd.DataFrame]:
    """LightGBM, a forest of 300 trees and HistGradientBoosting, untuned."""
    entry, train, held_out, seed = task.entry, task.train, task.held_out, task.seed
    features = _features(task)
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
            rows, other = _as_categories(rows, other, strings)
        model.fit(rows, target)
        if classify:
            predicted[name] = pd.DataFrame(model.predict_proba(other), columns=model.classes_)
        else:
            predicted[name] = pd.DataFrame({"prediction": model.predict(other)})
    return predicted


def _as_categories(
    rows: pd.DataFrame, other: pd.DataFrame, strings: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Strings as categories of the training rows, column names that LightGBM takes."""
    for column in strings:
        kind = pd.CategoricalDtype(sorted(rows[column].dropna().unique()))
        rows[column] = rows[column].astype(kind)
        other[column] = other[column].where(other[column].isin(kind.categories)).astype(kind)
    clean = {c: f"f{place}" for place, c in enumerate(rows.columns)}
    return rows.rename(columns=clean), other.rename(columns=clean)

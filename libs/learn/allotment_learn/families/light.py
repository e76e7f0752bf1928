"""LightGBM, where it can be loaded: it needs the system's OpenMP library (libgomp1)."""

import ctypes
import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from allotment_learn.errors import DeadlineReached, FamilyUnavailable
from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, Link, Saved, TreesForm
from allotment_learn.task import Floats
from allotment_learn.trees import of_lightgbm

ZERO_WITHIN = float(np.float32(1e-35))
"""LightGBM's kZeroThreshold: its reader of dense rows drops smaller values, so they are zeros."""


def unavailable_because() -> str:
    """Empty when the family can be trained here. Loads LightGBM's own library alone: the packages
    that its module imports take a second."""
    return _problem()


@functools.cache
def _problem() -> str:
    found = importlib.util.find_spec("lightgbm")
    folders = (found.submodule_search_locations or ()) if found is not None else ()
    try:
        for library in (p for f in folders for p in Path(f).rglob("lib_lightgbm.*")):
            ctypes.CDLL(str(library))
            return ""
    except OSError as error:
        if "libgomp" in str(error):
            return (
                "LightGBM can't be loaded: the system's OpenMP library is missing; install libgomp1"
            )
    return "LightGBM can't be loaded: install it with `pip install 'allotment[trainer]'`"


def _library() -> ModuleType:
    """Raises: FamilyUnavailable."""
    if problem := _problem():
        raise FamilyUnavailable(problem)
    # Slow to import, and few trainers need every family.
    import lightgbm  # noqa: PLC0415

    return lightgbm


def fit(training: Training) -> Fitted:
    """Raises: FamilyUnavailable; DeadlineReached between two rounds."""
    lightgbm = _library()
    data = lightgbm.Dataset(
        training.matrix, training.target, weight=training.weights, free_raw_data=True
    )

    rounds = training.integer("n_estimators", 100)
    stages = training.stages
    marks = stages.marks(rounds) if stages is not None else {}

    def after_round(env: Any) -> None:
        if training.out_of_time():
            raise DeadlineReached("the deadline came while LightGBM was boosting")
        done = env.iteration + 1
        if stages is not None and done in marks:
            # No state: scores that are added up anew and the bags of rows that its generators draw
            # are not those of a fit that was never interrupted.
            stages.look(marks[done], done, _fitted(training, env.model), None)

    booster = lightgbm.train(
        _params(training), data, num_boost_round=rounds, callbacks=[after_round]
    )
    return _fitted(training, booster)


def restore(training: Training, saved: Saved) -> Fitted:
    """Raises: FamilyUnavailable."""
    text = saved["text"].tobytes().decode()
    return _fitted(training, _library().Booster(model_str=text, params={"verbosity": -1}))


def _save(text: str) -> Saved:
    return {"text": np.frombuffer(text.encode(), dtype=np.uint8)}


def _fitted(training: Training, booster: Any) -> Fitted:
    text = booster.model_to_string(num_iteration=-1)
    outputs = training.output_count
    if not training.class_count:
        link = Link.IDENTITY
    else:
        link = Link.SIGMOID if training.class_count == 2 else Link.SOFTMAX
    form = TreesForm(
        of_lightgbm(text, outputs),
        np.zeros(outputs),
        1.0,
        False,
        link,
        zero_within=ZERO_WITHIN,
    )

    def predict(matrix: Floats) -> Floats:
        found = np.asarray(booster.predict(matrix, num_threads=training.threads), dtype=np.float64)
        if training.class_count == 2:
            return np.stack([1.0 - found, found], axis=1)
        return found if training.class_count else found[:, None]

    return Fitted(predict, form, lambda: _save(text))


def _params(training: Training) -> dict[str, str | float | int | bool]:
    bagging = training.number("bagging_fraction", 1.0)
    params: dict[str, str | float | int | bool] = {
        "objective": "regression",
        "learning_rate": training.number("learning_rate", 0.1),
        "num_leaves": training.integer("num_leaves", 31),
        "min_child_samples": training.integer("min_child_samples", 20),
        "feature_fraction": training.number("feature_fraction", 1.0),
        "bagging_fraction": bagging,
        "bagging_freq": 1 if bagging < 1 else 0,
        "lambda_l2": training.number("lambda_l2", 0.0),
        "num_threads": training.threads,
        "seed": training.seed % 2**31,
        "deterministic": True,
        # Else LightGBM times both layouts at the start, and which wins is a matter of chance.
        "force_row_wise": True,
        "verbosity": -1,
    }
    if training.class_count == 2:
        params["objective"] = "binary"
    elif training.class_count:
        params |= {"objective": "multiclass", "num_class": training.class_count}
    return params


def errors() -> tuple[type[Exception], ...]:
    """What LightGBM raises of its own."""
    basic = sys.modules.get("lightgbm.basic")
    return () if basic is None else (basic.LightGBMError,)

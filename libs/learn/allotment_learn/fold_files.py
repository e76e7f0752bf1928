"""Fitted folds on disk: a trial that is interrupted goes on after the last of them, or within the
first.

One `.npz` file a fold, of plain arrays and one JSON header; nothing in it is executable. A file of
other library versions, of another trial's fold, or a damaged one counts as not there: its fold is
fitted again, to the same bits.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from allotment_learn.forms import Saved
from allotment_learn.task import TrialTask

LEAST_FIT_S = 0.05
"""A fold that was fitted faster is fitted again: that is as quick as reading it."""
_LIBRARIES = ("numpy", "scikit-learn", "lightgbm", "torch")
_HEADER = "header"
_WITHIN_FIRST = 0
"""In place of a fold's number: the state of the first one's fit."""


@dataclass(frozen=True, slots=True)
class SavedFold:
    """A fitted fold, or the state of the first fold's fit. `told`: the scores of the fit's rungs
    that were told."""

    saved: Saved
    fit_s: float
    told: Mapping[int, float] = field(default_factory=dict)


def path_of(folder: Path, fold: int) -> Path:
    """Where the fold of this number, from 1, lies."""
    return folder / f"fold-{fold:03}.npz"


def path_of_fit(folder: Path, step: int) -> Path:
    """Where the state of the first fold's fit lies after so many steps."""
    return folder / f"fit-{step:06}.npz"


def write_fold(
    folder: Path,
    task: TrialTask,
    fold: int,
    saved: Saved,
    fit_s: float,
    told: Mapping[int, float] | None = None,
) -> None:
    """The file is whole or not there, whenever the process dies."""
    _write(path_of(folder, fold), task, fold, saved, fit_s, told or {})


def read_fold(folder: Path, task: TrialTask, fold: int) -> SavedFold | None:
    """None: not there, or of no use here."""
    return _read(path_of(folder, fold), task, fold)


def write_fit(
    folder: Path,
    task: TrialTask,
    step: int,
    state: Saved,
    fit_s: float,
    told: Mapping[int, float],
) -> None:
    """Takes the place of an earlier state."""
    path = path_of_fit(folder, step)
    _write(path, task, _WITHIN_FIRST, state, fit_s, told)
    _remove_fits(folder, but=path)


def read_fit(folder: Path, task: TrialTask) -> SavedFold | None:
    """The newest state of the first fold's fit. None: not there, or of no use here."""
    paths = sorted(folder.glob("fit-*.npz"))
    return _read(paths[-1], task, _WITHIN_FIRST) if paths else None


def forget_fit(folder: Path) -> None:
    """The fit is done: its state is of no use any more."""
    _remove_fits(folder)


def _remove_fits(folder: Path, but: Path | None = None) -> None:
    for path in folder.glob("fit-*.npz"):
        if path != but:
            path.unlink(missing_ok=True)


def _write(
    path: Path, task: TrialTask, fold: int, saved: Saved, fit_s: float, told: Mapping[int, float]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    header = json.dumps({**_stamp(task, fold), "fit_s": fit_s, "told": told}).encode()
    arrays: dict[str, Any] = {_HEADER: np.frombuffer(header, dtype=np.uint8), **saved}
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, path)


def _read(path: Path, task: TrialTask, fold: int) -> SavedFold | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays.pop(_HEADER).tobytes())
        fit_s = float(header.pop("fit_s"))
        told = {int(rung): float(score) for rung, score in header.pop("told", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None
    return SavedFold(arrays, fit_s, told) if header == _stamp(task, fold) else None


def _stamp(task: TrialTask, fold: int) -> Mapping[str, Any]:
    """What a saved fold has to be of to be of use."""
    return {
        "fold": fold,
        "pipeline": repr(task.pipeline),
        "seed": task.seed,
        "split": repr(task.split),
        "row_count": task.table.row_count,
        "libraries": _versions(),
    }


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

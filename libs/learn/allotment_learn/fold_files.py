"""Fitted folds on disk: a trial that is interrupted goes on after the last of them.

One `.npz` file a fold, of plain arrays and one JSON header; nothing in it is executable. A file of
other library versions, of another trial's fold, or a damaged one counts as not there: its fold is
fitted again, to the same bits.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class SavedFold:
    saved: Saved
    fit_s: float


def path_of(folder: Path, fold: int) -> Path:
    """Where the fold of this number, from 1, lies."""
    return folder / f"fold-{fold:03}.npz"


def write_fold(folder: Path, task: TrialTask, fold: int, saved: Saved, fit_s: float) -> None:
    """The file is whole or not there, whenever the process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, fold)
    temporary = path.with_suffix(".tmp")
    header = json.dumps({**_stamp(task, fold), "fit_s": fit_s}).encode()
    arrays: dict[str, Any] = {_HEADER: np.frombuffer(header, dtype=np.uint8), **saved}
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, path)


def read_fold(folder: Path, task: TrialTask, fold: int) -> SavedFold | None:
    """None: not there, or of no use here."""
    path = path_of(folder, fold)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays.pop(_HEADER).tobytes())
        fit_s = float(header.pop("fit_s"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return SavedFold(arrays, fit_s) if header == _stamp(task, fold) else None


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

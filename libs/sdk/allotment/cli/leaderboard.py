"""What `allotment run` leaves in its folder."""

import csv
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from allotment.types import Metric, Model, Trial
from allotment_core.errors import InvalidArgument

COLUMNS = ("trial", "family", "metric", "score", "fit_s", "state")
BEST_MODEL = "model-best"
"""The row of a model that is more than one trial as it is. Its number would tell of timing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A trial, or the model that was written where that is more than a trial."""

    id: str
    family: str
    score: float | None
    fit_s: float
    state: str


def ranked(trials: Sequence[Trial], metric: Metric, model: Model | None = None) -> list[Row]:
    """Best first; trials without a score last, by number."""
    rows = [
        Row(id=t.id, family=t.family, score=t.score, fit_s=t.fit_s, state=t.state.value)
        for t in trials
    ]
    if model is not None and not model.is_trial:
        rows.append(_model_row(model, trials))
    sign = 1.0 if metric.lower_is_better else -1.0

    def place(row: Row) -> tuple[float, int, str]:
        scored = row.score is not None and not math.isnan(row.score)
        rank = sign * row.score if scored and row.score is not None else math.inf
        return (rank, int(row.id) if row.id.isdecimal() else 0, row.id)

    return sorted(rows, key=place)


def _model_row(model: Model, trials: Sequence[Trial]) -> Row:
    """Its time is that of its members."""
    members = set(model.trials)
    fit_s = sum(trial.fit_s for trial in trials if trial.name in members)
    return Row(
        id=BEST_MODEL,
        family=model.family,
        score=model.score,
        fit_s=fit_s,
        state=model.state.value,
    )


def write_files(
    out: Path,
    model_folder: Path,
    trials: Sequence[Trial],
    metric: Metric,
    model: Model | None = None,
) -> tuple[Path, ...]:
    """model.onnx, manifest.json and leaderboard.csv in `out`; each one replaces an older one at
    once. The model has a row of its own where it is more than one trial as it is.

    Raises: InvalidArgument (FILE_UNWRITABLE).
    """

    board = ranked(trials, metric, model)

    def copy_of(name: str) -> Callable[[Path], None]:
        return lambda path: _copy(model_folder / name, path)

    try:
        out.mkdir(parents=True, exist_ok=True)
        return (
            _replace(out / "model.onnx", copy_of("model.onnx")),
            _replace(out / "manifest.json", copy_of("manifest.json")),
            _replace(out / "leaderboard.csv", lambda path: _write_rows(path, board, metric)),
        )
    except OSError as e:
        raise InvalidArgument(
            f"{out} can't be written: {e.strerror}; choose another --out or make room",
            reason="FILE_UNWRITABLE",
        ) from e


def _replace(path: Path, write: Callable[[Path], None]) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def _write_rows(path: Path, board: Sequence[Row], metric: Metric) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in board:
            score = "" if row.score is None else repr(row.score)
            writer.writerow(
                (row.id, row.family, metric.value, score, f"{row.fit_s:.3f}", row.state)
            )

"""What `allotment run` leaves in its folder."""

import csv
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from allotment.types import Metric, Trial
from allotment_core.errors import InvalidArgument

COLUMNS = ("trial", "family", "metric", "score", "fit_s", "state")


def ranked(trials: Sequence[Trial], metric: Metric) -> list[Trial]:
    """Best first; trials without a score last, by number."""
    sign = 1.0 if metric.lower_is_better else -1.0

    def place(trial: Trial) -> tuple[float, int, str]:
        scored = trial.score is not None and not math.isnan(trial.score)
        rank = sign * trial.score if scored and trial.score is not None else math.inf
        return (rank, int(trial.id) if trial.id.isdecimal() else 0, trial.id)

    return sorted(trials, key=place)


def write_files(
    out: Path, model_folder: Path, trials: Sequence[Trial], metric: Metric
) -> tuple[Path, ...]:
    """model.onnx, manifest.json and leaderboard.csv in `out`; each one replaces an older one at
    once.

    Raises: InvalidArgument (FILE_UNWRITABLE).
    """

    def copy_of(name: str) -> Callable[[Path], None]:
        return lambda path: _copy(model_folder / name, path)

    try:
        out.mkdir(parents=True, exist_ok=True)
        return (
            _replace(out / "model.onnx", copy_of("model.onnx")),
            _replace(out / "manifest.json", copy_of("manifest.json")),
            _replace(out / "leaderboard.csv", lambda path: _write_rows(path, trials, metric)),
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


def _write_rows(path: Path, trials: Sequence[Trial], metric: Metric) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for trial in ranked(trials, metric):
            score = "" if trial.score is None else repr(trial.score)
            fit_s = f"{trial.fit_s:.3f}"
            writer.writerow((trial.id, trial.family, metric.value, score, fit_s, trial.state.value))

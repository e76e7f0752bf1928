"""What the trials of an experiment make together: pure functions of their predictions."""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allotment_controller.domain.model import Calibration, Member, Recipe
from allotment_controller.domain.task import Metric
from allotment_search import metrics
from allotment_search.calibration import calibrated, choose_temperature
from allotment_search.ensembles import Candidate, EnsembleLimits, Rows, mix, select
from allotment_search.metrics import Floats, Integers, Truth

_ARRAYS = ("rows", "predictions", "truth", "weights", "positive")
_SMALL = 1e-12
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    ValueError,
    EOFError,
    OSError,
    MemoryError,
    SyntaxError,
    # Archives that are encrypted, or packed in another way; NotImplementedError is one.
    RuntimeError,
)
"""What numpy and zipfile raise at files that nobody here wrote."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What serving a trial's graph takes."""

    size_bytes: int
    latency_ms: float = 0.0


class BadPredictions(Exception):
    """A trial's predictions can't be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Of the validation rows, by models that did not see them. [rows, classes] or [rows, 1]."""

    rows: Integers
    predictions: Floats
    truth: Truth
    weights: Floats
    positive: int

    @property
    def size_bytes(self) -> int:
        return self.predictions.nbytes

    def sharing(self, other: "Predictions") -> "Predictions":
        """The same, with the other's arrays where they are equal.

        Raises: BadPredictions when they are not of the same rows.
        """
        same = (
            self.positive == other.positive
            and self.predictions.shape == other.predictions.shape
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.truth, other.truth)
            and np.array_equal(self.weights, other.weights)
        )
        if not same:
            raise BadPredictions("they are not of the same rows as those of other trials")
        return Predictions(
            rows=other.rows,
            predictions=self.predictions,
            truth=other.truth,
            weights=other.weights,
            positive=other.positive,
        )


def read_predictions(content: bytes, class_count: int, limit_bytes: int) -> Predictions:
    """The arrays of a trial's predictions.npz. Raises: BadPredictions."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > limit_bytes:
                raise BadPredictions(f"they unpack to more than {limit_bytes} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            rows, said, truth, weights, positive = (stored[name] for name in _ARRAYS)
    except _UNREADABLE as e:
        raise BadPredictions(f"they can't be read: {e}") from None
    count, width = len(rows), class_count or 1
    fits = (
        said.shape == (count, width)
        and truth.shape == weights.shape == rows.shape == (count,)
        and positive.shape == ()
        and said.dtype == weights.dtype == np.float64
        and truth.dtype == (np.int64 if class_count else np.float64)
        and count > 0
        and np.isfinite(said).all()
        and np.isfinite(weights).all()
    )
    if not fits or (class_count and not ((truth >= 0) & (truth < class_count)).all()):
        raise BadPredictions(f"they are not {count} rows of {width} finite numbers and their truth")
    return Predictions(
        rows=rows, predictions=said, truth=truth, weights=weights, positive=int(positive)
    )


def best_recipe(
    predictions: Mapping[int, Predictions],
    costs: Mapping[int, Cost],
    metric: Metric,
    limits: EnsembleLimits,
    fold_count: int = 1,
) -> Recipe | None:
    """The ensemble or calibrated trial to make a model of; None where a trial as it is will do.

    ``predictions`` by the trial's number, all of the same rows; ``fold_count`` models of each trial
    are averaged where it is served.
    """
    first = next(iter(predictions.values()), None)
    if first is None:
        return None
    rows = Rows(
        metric=metric.value, truth=first.truth, weights=first.weights, positive=first.positive
    )
    candidates = [
        Candidate(
            key=number,
            predictions=said.predictions,
            loss=rows.loss(said.predictions),
            size_bytes=costs[number].size_bytes if number in costs else 0,
            latency_ms=costs[number].latency_ms if number in costs else 0.0,
        )
        for number, said in sorted(predictions.items())
    ]
    candidates = [c for c in candidates if np.isfinite(c.loss)]
    if not candidates:
        return None
    found = select(candidates, rows, limits)
    best = min(candidates, key=lambda c: (c.loss, c.key))
    members = [Member(best.key)] if found is None else [Member(*m) for m in found.members]
    said = mix([predictions[m.trial].predictions for m in members], [m.weight for m in members])
    calibration = None
    if metric not in (Metric.RMSE, Metric.MAE, Metric.R2):
        said, calibration = _calibrated(said, rows, averaged=fold_count > 1)
    if found is None and calibration is None:
        return None
    return _recipe(members, calibration, said, rows, metric)


def recipe_of(
    members: Sequence[Member],
    temperature: float | None,
    predictions: Mapping[int, Predictions],
    metric: Metric,
) -> Recipe | None:
    """These members by their weights, with this temperature. None: they have no score."""
    first = predictions[members[0].trial]
    rows = Rows(
        metric=metric.value, truth=first.truth, weights=first.weights, positive=first.positive
    )
    said = mix([predictions[m.trial].predictions for m in members], [m.weight for m in members])
    if temperature is None:
        return _recipe(members, None, said, rows, metric)
    truth, after = rows.truth.astype(np.int64), calibrated(said, temperature)
    calibration = Calibration(
        temperature=temperature,
        ece_before=metrics.calibration_error(truth, said, rows.weights),
        ece_after=metrics.calibration_error(truth, after, rows.weights),
    )
    return _recipe(members, calibration, after, rows, metric)


def _calibrated(said: Floats, rows: Rows, *, averaged: bool) -> tuple[Floats, Calibration | None]:
    """With the temperature that helps; as they are where none does, or where the metric suffers."""
    truth = rows.truth.astype(np.int64)
    temperature = choose_temperature(said, truth, rows.weights, averaged=averaged)
    if temperature is None:
        return said, None
    after = calibrated(said, temperature)
    if rows.loss(after) > rows.loss(said) + _SMALL:
        return said, None
    return after, Calibration(
        temperature=temperature,
        ece_before=metrics.calibration_error(truth, said, rows.weights),
        ece_after=metrics.calibration_error(truth, after, rows.weights),
    )


def _recipe(
    members: Sequence[Member],
    calibration: Calibration | None,
    said: Floats,
    rows: Rows,
    metric: Metric,
) -> Recipe | None:
    classes = metric.value in metrics.CLASSIFICATION_METRICS
    found = metrics.scores(rows.truth, said, rows.weights, rows.positive, classes=classes)
    if metric.value not in found:
        return None
    return Recipe(
        members=tuple(members),
        score=found[metric.value],
        calibration=calibration,
        metrics=found,
    )

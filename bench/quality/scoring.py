"""Losses of held-out rows, their paired intervals, and calibration errors."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.sets import CLASSIFICATION, TabularSet

Floats = npt.NDArray[np.float64]
BOOTSTRAP_SAMPLES = 2_000
CALIBRATION_BINS = 15


def _chances(predicted: pd.DataFrame) -> Floats:
    """[N, C] probabilities that sum to one."""
    values = predicted.to_numpy(float)
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def row_losses(entry: TabularSet, truth: pd.Series, predicted: pd.DataFrame) -> Floats:
    """[N] negative log likelihoods (probabilities clipped at 1e-15), or squared errors."""
    if entry.task not in CLASSIFICATION:
        errors = predicted["prediction"].to_numpy(float) - truth.to_numpy(float)
        return np.asarray(errors**2)
    places = {label: place for place, label in enumerate(predicted.columns)}
    chosen = _chances(predicted)[np.arange(len(truth)), [places[label] for label in truth]]
    return np.asarray(-np.log(np.clip(chosen, 1e-15, 1.0)))


def as_loss(entry: TabularSet, losses: Floats) -> float:
    mean = float(losses.mean())
    return mean if entry.task in CLASSIFICATION else mean**0.5


def mean_loss(entry: TabularSet, per_seed: list[Floats]) -> float:
    return float(np.mean([as_loss(entry, losses) for losses in per_seed]))


def bootstrap_interval(
    entry: TabularSet, ours: list[Floats], other: list[Floats]
) -> tuple[float, float]:
    """95 % interval of (our loss - other loss), rows redrawn within each seed, alike for both."""
    rng = np.random.default_rng(0)
    differences = np.empty(BOOTSTRAP_SAMPLES)
    for sample in range(BOOTSTRAP_SAMPLES):
        gaps = []
        for left, right in zip(ours, other, strict=True):
            drawn = rng.integers(0, len(left), len(left))
            gaps.append(as_loss(entry, left[drawn]) - as_loss(entry, right[drawn]))
        differences[sample] = np.mean(gaps)
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def confidence_and_hits(truth: pd.Series, predicted: pd.DataFrame) -> Floats:
    """[N, 2]: the probability of the most probable class, and whether it was the true one."""
    chances = _chances(predicted)
    labels = np.asarray(predicted.columns, dtype=object)[chances.argmax(axis=1)]
    hits = labels == truth.to_numpy(dtype=object)
    return np.column_stack([chances.max(axis=1), hits.astype(float)])


def calibration_error(pairs: Floats) -> float:
    """Expected calibration error of the top class: 15 bins of equal width (Guo et al. 2017)."""
    confidence, hits = pairs[:, 0], pairs[:, 1]
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)[1:-1]
    bins = np.digitize(confidence, edges, right=True)
    gaps = [abs(float((hits - confidence)[bins == b].sum())) for b in np.unique(bins)]
    return sum(gaps) / len(pairs)

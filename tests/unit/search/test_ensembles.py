"""Selection and calibration on made predictions."""

import numpy as np
import pytest

from allotment_search import metrics
from allotment_search.calibration import calibrated, choose_temperature
from allotment_search.ensembles import Candidate, Ensemble, EnsembleLimits, Rows, mix, select
from allotment_search.metrics import Floats, Integers

METRICS = (*metrics.CLASSIFICATION_METRICS, *metrics.REGRESSION_METRICS)
LIMITS = EnsembleLimits()


def softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = raised / raised.sum(axis=1, keepdims=True)
    return shares


def world(
    metric: str, *, noise: tuple[float, ...] = (1.0, 1.0, 1.0, 1.2, 3.0), rows: int = 1_500
) -> tuple[list[Candidate], Rows]:
    """Candidates that see the truth through noise of their own: together they see more."""
    rng = np.random.default_rng(1)
    weights = rng.random(rows) + 0.5
    if metric in metrics.REGRESSION_METRICS:
        truth: Integers | Floats = rng.normal(size=rows)
        said = [truth[:, None] + rng.normal(size=(rows, 1)) * n for n in noise]
    else:
        truth = rng.integers(0, 3, rows)
        hot = np.eye(3)[truth]
        said = [softmax(hot * 2 + rng.normal(size=(rows, 3)) * n) for n in noise]
    known = Rows(metric=metric, truth=truth, weights=weights)
    return [
        Candidate(key=key, predictions=p, loss=known.loss(p), size_bytes=10, latency_ms=1.0)
        for key, p in enumerate(said, start=1)
    ], known


def loss_of(found: Ensemble, candidates: list[Candidate], rows: Rows) -> float:
    by_key = {c.key: c.predictions for c in candidates}
    chosen = [by_key[key] for key, _ in found.members]
    return rows.loss(mix(chosen, [weight for _, weight in found.members]))


@pytest.mark.parametrize("metric", METRICS)
def test_an_ensemble_beats_its_best_member_by_every_metric(metric: str) -> None:
    candidates, rows = world(metric)
    found = select(candidates, rows, LIMITS)
    assert found is not None
    assert loss_of(found, candidates, rows) < min(c.loss for c in candidates)
    assert found.cross_fitted_gain > 0
    assert sum(weight for _, weight in found.members) == pytest.approx(1.0)
    weights = [weight for _, weight in found.members]
    assert weights == sorted(weights, reverse=True)
    assert len(found.members) >= 2


@pytest.mark.parametrize("metric", ["log_loss", "auc", "rmse"])
def test_the_order_of_candidates_does_not_matter(metric: str) -> None:
    candidates, rows = world(metric)
    assert select(candidates, rows, LIMITS) == select(candidates[::-1], rows, LIMITS)


def test_a_worthless_candidate_is_left_out() -> None:
    candidates, rows = world("log_loss", noise=(1.0, 1.0, 30.0))
    found = select(candidates, rows, LIMITS)
    assert found is not None
    assert {key for key, _ in found.members} == {1, 2}


def test_copies_of_one_model_are_no_ensemble() -> None:
    candidates, rows = world("log_loss", noise=(1.0,))
    (one,) = candidates
    same = [
        Candidate(key=key, predictions=one.predictions, loss=one.loss, size_bytes=1)
        for key in range(4)
    ]
    assert select(same, rows, LIMITS) is None


def test_noise_on_few_rows_is_no_gain() -> None:
    # Constant guesses beside each other: on 30 rows some mix of them always fits a little better.
    accepted = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows = Rows(metric="log_loss", truth=rng.integers(0, 2, 30), weights=np.ones(30))
        said = [softmax(rng.normal(size=(30, 2)) * 0.02) for _ in range(6)]
        candidates = [
            Candidate(key=k, predictions=p, loss=rows.loss(p)) for k, p in enumerate(said)
        ]
        accepted += select(candidates, rows, LIMITS) is not None
    assert accepted <= 12


def test_limits_hold() -> None:
    candidates, rows = world("log_loss", noise=(1.0,) * 12)
    for limits, most in (
        (EnsembleLimits(members=3), 3),
        (EnsembleLimits(size_bytes=45), 4),
        (EnsembleLimits(latency_ms=2.5), 2),
    ):
        found = select(candidates, rows, limits)
        assert found is not None
        assert 2 <= len(found.members) <= most
    assert select(candidates, rows, EnsembleLimits(members=1)) is None
    assert select(candidates[:1], rows, LIMITS) is None


@pytest.mark.parametrize(("sharpness", "cooler"), [(4.0, False), (0.3, True)])
def test_wrong_confidence_is_mended_and_labels_stay(sharpness: float, cooler: bool) -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3_000, 4)) * 1.5
    right = softmax(logits)
    truth = (right.cumsum(axis=1) > rng.random((3_000, 1))).argmax(axis=1)
    said = softmax(logits * sharpness)
    weights = rng.random(3_000)
    temperature = choose_temperature(said, truth, weights)
    assert temperature is not None
    assert (temperature < 1) is cooler
    assert temperature == pytest.approx(np.clip(sharpness, 0.25, 4.0), rel=0.1)
    mended = calibrated(said, temperature)
    assert (mended.argmax(axis=1) == said.argmax(axis=1)).all()
    before, after = (metrics.calibration_error(truth, p, weights) for p in (said, mended))
    assert after < before / 2
    assert np.abs(mended.sum(axis=1) - 1).max() < 1e-12


def test_where_models_are_averaged_only_strong_softening_is_left() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3_000, 4)) * 1.5
    truth = (softmax(logits).cumsum(axis=1) > rng.random((3_000, 1))).argmax(axis=1)
    weights = np.ones(3_000)
    slightly, strongly, too_soft = (softmax(logits * by) for by in (1.05, 3.0, 0.5))
    assert choose_temperature(slightly, truth, weights) is not None
    assert choose_temperature(slightly, truth, weights, averaged=True) is None
    softened = choose_temperature(strongly, truth, weights, averaged=True)
    assert softened is not None
    assert 2 < softened < 3
    alone = choose_temperature(too_soft, truth, weights)
    assert choose_temperature(too_soft, truth, weights, averaged=True) == alone


def test_right_confidence_is_left_alone_more_often_than_not() -> None:
    kept = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        said = softmax(rng.normal(size=(400, 3)))
        truth = (said.cumsum(axis=1) > rng.random((400, 1))).argmax(axis=1)
        kept += choose_temperature(said, truth, np.ones(400)) is None
    assert kept >= 12


def test_certainty_and_few_rows_are_no_trouble() -> None:
    certain = np.eye(3)[np.arange(60) % 3]
    assert np.isfinite(calibrated(certain, 0.25)).all()
    wrong = np.roll(np.arange(60) % 3, 1)
    assert choose_temperature(certain, wrong, np.ones(60)) in (None, pytest.approx(4.0))
    assert choose_temperature(certain[:10], wrong[:10], np.ones(10)) is None


def test_calibration_error_of_known_bins() -> None:
    said = np.array([[0.9, 0.1]] * 10)
    truth = np.array([0] * 6 + [1] * 4)
    assert metrics.calibration_error(truth, said) == pytest.approx(0.3)
    weights = np.array([3.0] * 6 + [0.5] * 4)
    assert metrics.calibration_error(truth, said, weights) == pytest.approx(0.0)

"""What trials make together, from the files that they leave."""

import io
import pickle
from typing import Any

import numpy as np
import pytest

from allotment_controller.domain.model import Member, MixState, Recipe, mix_is_due, next_mix
from allotment_controller.domain.recipes import (
    BadPredictions,
    Cost,
    Predictions,
    best_recipe,
    read_predictions,
)
from allotment_controller.domain.task import Metric
from allotment_search.ensembles import EnsembleLimits
from allotment_search.metrics import Floats

LIMITS = EnsembleLimits()
LIMIT_BYTES = 1 << 20
ROWS = 400
TRUTH = np.random.default_rng(0).integers(0, 3, ROWS)


def noisy(seed: int, noise: float = 1.0, sharpness: float = 1.0) -> Floats:
    rng = np.random.default_rng(seed)
    logits = (np.eye(3)[TRUTH] * 2 + rng.normal(size=(ROWS, 3)) * noise) * sharpness
    raised = np.exp(logits)
    shares: Floats = raised / raised.sum(axis=1, keepdims=True)
    return shares


def npz(**replaced: Any) -> bytes:
    arrays: dict[str, Any] = {
        "rows": np.arange(ROWS),
        "predictions": noisy(1),
        "truth": TRUTH,
        "weights": np.ones(ROWS),
        "positive": np.array(1),
    }
    arrays |= replaced
    stream = io.BytesIO()
    np.savez(stream, **{n: a for n, a in arrays.items() if a is not None})
    return stream.getvalue()


def read(content: bytes) -> Predictions:
    return read_predictions(content, 3, LIMIT_BYTES)


def test_a_trials_file_is_read() -> None:
    found = read(npz())
    assert (found.predictions == noisy(1)).all()
    assert (found.truth == TRUTH).all()
    assert found.positive == 1
    other = read(npz(predictions=noisy(2))).sharing(found)
    assert other.truth is found.truth
    assert (other.predictions == noisy(2)).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 and no more",
        pickle.dumps({"rows": 1}),
        npz()[:-200],
        npz(truth=None),
        npz(truth=TRUTH + 1),
        npz(truth=TRUTH.astype(np.float64)),
        npz(predictions=noisy(1)[:, :2]),
        npz(predictions=noisy(1).astype(np.float32)),
        npz(predictions=np.full((ROWS, 3), np.nan)),
        npz(weights=np.ones(3)),
        npz(rows=np.array([object()] * ROWS)),
        npz(more=np.zeros(LIMIT_BYTES)),
    ],
)
def test_what_is_no_such_file_is_told(content: bytes) -> None:
    with pytest.raises(BadPredictions):
        read(content)


def test_predictions_of_other_rows_do_not_go_together() -> None:
    with pytest.raises(BadPredictions, match="same rows"):
        read(npz(rows=np.arange(ROWS) + 1)).sharing(read(npz()))


def recipe_of(*said: Floats, metric: Metric = Metric.LOG_LOSS) -> Recipe | None:
    found = {n: read(npz(predictions=p)) for n, p in enumerate(said, start=1)}
    return best_recipe(found, dict.fromkeys(found, Cost(10)), metric, LIMITS)


def test_trials_that_err_differently_are_better_together() -> None:
    recipe = recipe_of(noisy(1), noisy(2), noisy(3))
    assert recipe is not None
    assert len(recipe.members) == 3
    singles = [-np.log(noisy(n)[np.arange(ROWS), TRUTH]).mean() for n in (1, 2, 3)]
    assert recipe.score < min(singles)
    assert recipe.metrics["log_loss"] == recipe.score
    assert set(recipe.metrics) == {"log_loss", "auc", "ap", "accuracy", "f1", "ece"}


def test_an_overconfident_trial_is_calibrated() -> None:
    recipe = recipe_of(noisy(1, sharpness=4.0))
    assert recipe is not None
    assert recipe.members == (Member(1),)
    assert not recipe.is_trial
    assert recipe.calibration is not None
    assert recipe.calibration.temperature > 1.5
    assert recipe.calibration.ece_after < recipe.calibration.ece_before
    assert recipe.metrics["ece"] == recipe.calibration.ece_after


def test_calibration_never_makes_the_metric_worse() -> None:
    for metric in (Metric.AUC, Metric.ACCURACY):
        recipe = recipe_of(noisy(1, sharpness=4.0), metric=metric)
        if recipe is not None:
            plain = recipe_of(noisy(1, sharpness=4.0), noisy(1, sharpness=4.0), metric=metric)
            assert plain is None or recipe.score >= plain.score - 1e-9


def test_without_predictions_there_is_nothing_to_make() -> None:
    assert best_recipe({}, {}, Metric.LOG_LOSS, LIMITS) is None


def test_ensembles_become_rarer_as_trials_become_many() -> None:
    points = [2]
    while points[-1] < 1_200:
        points.append(next_mix(points[-1]))
    assert points[:49] == list(range(2, 51))
    assert {60, 490, 500, 600, 1_200} <= set(points)
    assert len(points) < 110


def test_at_the_end_all_that_succeeded_counts() -> None:
    state = MixState(active=True, considered=60)
    assert not mix_is_due(state, 65, finishing=False)
    assert mix_is_due(state, 65, finishing=True)
    assert mix_is_due(state, 70, finishing=False)
    assert not mix_is_due(MixState(active=True), 1, finishing=True)
    assert not mix_is_due(MixState(), 70, finishing=True)


def test_a_worse_recipe_replaces_nothing() -> None:
    state = MixState(active=True)
    first = Recipe(members=(Member(1, 0.5), Member(2, 0.5)), score=0.3)
    state.note(2, first, 0.1, Metric.LOG_LOSS)
    state.note(3, Recipe(members=(Member(3),), score=0.4), 0.1, Metric.LOG_LOSS)
    state.note(4, None, 0.1, Metric.LOG_LOSS)
    assert state.recipe is first
    assert state.considered == 4
    better = Recipe(members=(Member(3),), score=0.2)
    state.note(5, better, 0.1, Metric.LOG_LOSS)
    assert state.recipe is better

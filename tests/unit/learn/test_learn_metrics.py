"""Scores, compared with scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics as judge

from allotment_core.errors import InvalidArgument
from allotment_learn.kinds import TaskKind
from allotment_learn.metrics import all_scores, metrics_of, rarer_class, score

RNG = np.random.default_rng(7)
ROWS = 400
WEIGHTS = RNG.random(ROWS)


def probabilities(classes: int) -> np.ndarray:
    # Few distinct values: ties have to be counted right.
    raw = np.round(RNG.random((ROWS, classes)), 1) + 0.05
    shares: np.ndarray = raw / raw.sum(axis=1, keepdims=True)
    return shares


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("positive", [0, 1])
def test_binary_scores_are_scikit_learns(weights: np.ndarray | None, positive: int) -> None:
    truth, said = RNG.integers(0, 2, ROWS), probabilities(2)
    is_true, labels = truth == positive, said.argmax(axis=1)
    expected = {
        "log_loss": judge.log_loss(truth, said, sample_weight=weights),
        "auc": judge.roc_auc_score(is_true, said[:, positive], sample_weight=weights),
        "ap": judge.average_precision_score(is_true, said[:, positive], sample_weight=weights),
        "accuracy": judge.accuracy_score(truth, labels, sample_weight=weights),
        "f1": judge.f1_score(is_true, labels == positive, sample_weight=weights),
    }
    found = all_scores(TaskKind.BINARY, truth, said, weights, positive)
    assert 0 <= found.pop("ece") <= 1
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_multiclass_scores_are_scikit_learns(weights: np.ndarray | None) -> None:
    truth, said = RNG.integers(0, 3, ROWS), probabilities(3)
    labels, hot = said.argmax(axis=1), np.eye(3)[truth]
    aucs = [judge.roc_auc_score(hot[:, c], said[:, c], sample_weight=weights) for c in range(3)]
    expected = {
        "log_loss": judge.log_loss(truth, said, sample_weight=weights),
        "auc": np.mean(aucs),
        "ap": judge.average_precision_score(hot, said, average="macro", sample_weight=weights),
        "accuracy": judge.accuracy_score(truth, labels, sample_weight=weights),
        "f1": judge.f1_score(truth, labels, average="macro", sample_weight=weights),
    }
    found = all_scores(TaskKind.MULTICLASS, truth, said, weights, 1)
    assert 0 <= found.pop("ece") <= 1
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_regression_scores_are_scikit_learns(weights: np.ndarray | None) -> None:
    truth, said = RNG.normal(size=ROWS) * 1e6, RNG.normal(size=(ROWS, 1)) * 1e6
    expected = {
        "rmse": judge.root_mean_squared_error(truth, said[:, 0], sample_weight=weights),
        "mae": judge.mean_absolute_error(truth, said[:, 0], sample_weight=weights),
        "r2": judge.r2_score(truth, said[:, 0], sample_weight=weights),
    }
    assert all_scores(TaskKind.REGRESSION, truth, said, weights, 1) == pytest.approx(expected)


def test_a_metric_that_is_not_defined_is_nan_and_left_out() -> None:
    truth, said = np.zeros(5, dtype=np.int64), np.full((5, 2), 0.5)
    assert np.isnan(score("auc", truth, said, positive=1))
    assert "auc" not in all_scores(TaskKind.BINARY, truth, said, None, 1)


def test_a_certain_mistake_costs_a_finite_log_loss() -> None:
    said = np.array([[1.0, 0.0]])
    assert score("log_loss", np.array([1]), said) == pytest.approx(-np.log(np.finfo(float).eps))


def test_without_weight_there_is_no_score() -> None:
    assert np.isnan(score("mae", np.zeros(3), np.zeros((3, 1)), np.zeros(3)))


def test_constant_truth_has_an_r2() -> None:
    assert score("r2", np.ones(3), np.ones((3, 1))) == 1.0
    assert score("r2", np.ones(3), np.zeros((3, 1))) == 0.0


@pytest.mark.parametrize(("counts", "rarer"), [((3, 5), 0), ((5, 3), 1), ((4, 4), 1)])
def test_the_rarer_class_is_the_positive_one(counts: tuple[int, int], rarer: int) -> None:
    assert rarer_class(np.repeat([0, 1], counts)) == rarer


def test_the_first_metric_of_a_task_is_its_default() -> None:
    assert metrics_of(TaskKind.MULTICLASS)[0] == "log_loss"
    assert metrics_of(TaskKind.REGRESSION)[0] == "rmse"


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no metric 'gini'"):
        score("gini", np.zeros(3), np.zeros((3, 1)))

"""What fold models say together, to the ends of what a probability can be."""

import numpy as np
import pytest

from allotment_learn.averaging import FLOOR, average
from allotment_learn.kinds import TaskKind

ALL = np.ones((3, 2), dtype=np.bool_)


def test_numbers_have_the_plain_mean() -> None:
    parts = [np.array([[1.0], [-5.0]]), np.array([[4.0], [5.0]])]
    found = average(parts, TaskKind.REGRESSION, np.zeros((2, 0), dtype=np.bool_))
    assert found.tolist() == [[2.5], [0.0]]


@pytest.mark.parametrize("task", TaskKind)
def test_a_single_model_is_not_changed(task: TaskKind) -> None:
    alone = np.array([[0.0, 1.0], [1e-12, 1 - 1e-12]])
    assert average([alone], task, ALL[:1]) is alone


def test_probabilities_have_the_scaled_mean_of_their_logarithms() -> None:
    parts = [np.array([[0.2, 0.8]]), np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])]
    found = average(parts, TaskKind.BINARY, ALL)
    geometric = np.cbrt([0.2 * 0.5 * 0.9, 0.8 * 0.5 * 0.1])
    assert found[0] == pytest.approx(geometric / geometric.sum())


def test_a_probability_of_zero_counts_as_the_floor() -> None:
    sure = [np.array([[0.0, 1.0]]), np.array([[0.6, 0.4]]), np.array([[0.6, 0.4]])]
    nearly = [np.array([[FLOOR, 1.0]]), *sure[1:]]
    found = average(sure, TaskKind.BINARY, ALL)
    assert np.array_equal(found, average(nearly, TaskKind.BINARY, ALL))
    assert 0.001 < found[0, 0] < 0.1
    none = average([np.array([[0.0, 1.0]])] * 3, TaskKind.BINARY, ALL)
    assert none[0] == pytest.approx([FLOOR, 1.0], rel=1e-5)


def test_folds_that_contradict_each_other_surely_are_undecided() -> None:
    parts = [np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])]
    assert average(parts, TaskKind.BINARY, ALL[:2]).tolist() == [[0.5, 0.5]]


def test_the_loss_is_at_most_the_mean_of_the_folds_losses() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5, 400, 4)) * 6
    parts = list(np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True))
    found = average(parts, TaskKind.MULTICLASS, np.ones((5, 4), dtype=np.bool_))
    assert np.allclose(found.sum(axis=1), 1.0)
    losses = -np.log(np.maximum(parts, FLOOR)).mean(axis=0)
    assert (-np.log(found) <= losses + 4 * FLOOR).all()


def test_a_class_is_left_to_the_folds_that_know_it() -> None:
    """As where all rows of a class are in one group, or came late in time."""
    knowing = [np.array([[0.1, 0.9]])] * 2
    parts = [*knowing, np.array([[1.0, 0.0]])]
    known = np.array([[True, True], [True, True], [True, False]])
    found = average(parts, TaskKind.BINARY, known)
    assert found[0, 1] > 0.75
    assert average(parts, TaskKind.BINARY, ALL)[0, 1] < 0.1


def test_a_class_that_no_fold_knows_is_next_to_nothing() -> None:
    parts = [np.array([[1.0, 0.0, 0.0]]), np.array([[0.5, 0.5, 0.0]])]
    known = np.array([[True, False, False], [True, True, False]])
    found = average(parts, TaskKind.MULTICLASS, known)
    assert 0 < found[0, 2] < 2 * FLOOR
    assert found.sum() == pytest.approx(1.0)

"""Histogram gradient boosting of scikit-learn."""

from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from allotment_learn.errors import DeadlineReached
from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, Link, Saved, TreesForm
from allotment_learn.stages import Stages
from allotment_learn.task import Floats
from allotment_learn.trees import of_hist_gradient_boosting


def fit(training: Training) -> Fitted:
    params = {
        "max_iter": training.integer("max_iter", 100),
        "learning_rate": training.number("learning_rate", 0.1),
        "max_leaf_nodes": training.integer("max_leaf_nodes", 31),
        "min_samples_leaf": training.integer("min_samples_leaf", 20),
        "l2_regularization": training.number("l2_regularization", 0.0),
        "early_stopping": False,
        "random_state": training.seed % 2**32,
        "categorical_features": None,
    }
    classifies = training.class_count > 0
    kind = HistGradientBoostingClassifier if classifies else HistGradientBoostingRegressor
    model = kind(**params)
    if training.stages is not None:
        _look_at(model, training, training.stages)
    model.fit(training.matrix, training.target, sample_weight=training.weights)
    return _fitted(training, model)


def _look_at(model: Any, training: Training, stages: Stages) -> None:
    """Prepares the fit: it will be looked at, and goes on from what was begun."""
    rounds = model.max_iter
    marks = stages.marks(rounds)

    def score(fitting: Any, *_: Any, **__: Any) -> float:
        """scikit-learn asks for a score after each round; it has no other way to look on."""
        if training.out_of_time():
            raise DeadlineReached("the deadline came while scikit-learn was boosting")
        done = len(fitting._predictors)
        if done in marks:
            state = _save(fitting)
            stages.look(marks[done], done, restore(training, state), state)
        return 0.0

    # Equal scores would end the fit, but for so much patience.
    model.set_params(
        early_stopping=True,
        validation_fraction=None,
        scoring=score,
        n_iter_no_change=rounds + 1,
    )
    if stages.begun is not None:
        # One round has the bins, the base and the seeds of the whole fit; the trees that there
        # are take its place, and a warm start goes on behind them.
        model.set_params(max_iter=1, warm_start=True)
        model.fit(training.matrix, training.target, sample_weight=training.weights)
        model._predictors = _predictors(model, stages.begun, training.output_count)
        model.set_params(max_iter=rounds)


def _save(model: Any) -> Saved:
    """The nodes of all trees behind one another, as scikit-learn holds them."""
    predictors = [predictor for predictors in model._predictors for predictor in predictors]
    return {
        "nodes": np.concatenate([predictor.nodes for predictor in predictors]),
        "node_counts": np.array([len(p.nodes) for p in predictors], dtype=np.int64),
        "base": np.asarray(model._baseline_prediction),
    }


def restore(training: Training, saved: Saved) -> Fitted:
    """A model of one round is fitted on next to nothing; then it gets the saved trees."""
    kind = HistGradientBoostingClassifier if training.class_count else HistGradientBoostingRegressor
    model = kind(max_iter=1, early_stopping=False, categorical_features=None)
    model.fit(*training.stand_in())
    model._predictors = _predictors(model, saved, training.output_count)
    model._baseline_prediction = saved["base"]
    return _fitted(training, model)


def _predictors(model: Any, saved: Saved, outputs: int) -> list[list[Any]]:
    """The saved trees, as a fitted model of the same library holds them."""
    pattern = model._predictors[0][0]
    ends = np.cumsum(saved["node_counts"])
    predictors = [
        type(pattern)(
            np.ascontiguousarray(saved["nodes"][end - count : end]),
            pattern.binned_left_cat_bitsets,
            pattern.raw_left_cat_bitsets,
        )
        for count, end in zip(saved["node_counts"], ends, strict=True)
    ]
    return [predictors[at : at + outputs] for at in range(0, len(ends), outputs)]


def _fitted(training: Training, model: Any) -> Fitted:
    classifies = training.class_count > 0
    if not classifies:
        link = Link.IDENTITY
    else:
        link = Link.SIGMOID if training.class_count == 2 else Link.SOFTMAX
    # Fitted trees and base have no public name in scikit-learn; a test compares the graphs with
    # `predict`.
    form = TreesForm(
        of_hist_gradient_boosting(model._predictors),
        np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1),
        1.0,
        False,
        link,
    )

    def numbers(matrix: Floats) -> Floats:
        return np.asarray(model.predict(matrix)[:, None], dtype=np.float64)

    return Fitted(model.predict_proba if classifies else numbers, form, lambda: _save(model))

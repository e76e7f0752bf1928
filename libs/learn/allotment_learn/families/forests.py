"""Random forests and extremely randomised trees of scikit-learn."""

from typing import Any

import numpy as np
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, Link, TreesForm
from allotment_learn.task import Floats
from allotment_learn.trees import Trees, of_forest


def fit_random_forest(training: Training) -> Fitted:
    return _fit(training, RandomForestClassifier, RandomForestRegressor)


def fit_extra_trees(training: Training) -> Fitted:
    return _fit(training, ExtraTreesClassifier, ExtraTreesRegressor)


def _fit(training: Training, classifier: Any, regressor: Any) -> Fitted:
    params = {
        "n_estimators": training.integer("n_estimators", 100),
        "max_depth": training.integer("max_depth", 0) or None,
        "max_features": training.number("max_features", 1.0),
        "min_samples_leaf": training.integer("min_samples_leaf", 1),
        "n_jobs": training.threads,
        "random_state": training.seed % 2**32,
    }
    model = classifier(**params) if training.class_count else regressor(**params)
    model.fit(training.matrix, training.target, sample_weight=training.weights)
    trees = of_forest(model.estimators_)
    count = float(len(model.estimators_))
    if not training.class_count:
        form = TreesForm(trees, np.zeros(1), count, True, Link.IDENTITY)

        def numbers(matrix: Floats) -> Floats:
            return np.asarray(model.predict(matrix)[:, None], dtype=np.float64)

        return Fitted(numbers, form)
    shares = _class_shares(training)

    def probabilities(matrix: Floats) -> Floats:
        voted = np.asarray(model.predict_proba(matrix), dtype=np.float64)
        return (voted * count + shares) / (count + 1.0)

    if training.class_count == 2:
        # The first class's share is what the second's leaves.
        form = TreesForm(_second_class(trees), shares[1:], count + 1.0, True, Link.COMPLEMENT)
    else:
        form = TreesForm(trees, shares, count + 1.0, True, Link.IDENTITY)
    return Fitted(probabilities, form)


def _class_shares(training: Training) -> Floats:
    """What one more tree says that knows the classes' shares alone.

    Without it a class that no tree has seen near a row gets a probability of exactly 0, and a
    single such row decides a forest's log loss.
    """
    counts = np.bincount(
        training.target.astype(np.int64), weights=training.weights, minlength=training.class_count
    ).astype(np.float64)
    return np.asarray(counts / counts.sum())


def _second_class(trees: Trees) -> Trees:
    return Trees(
        roots=trees.roots,
        feature=trees.feature,
        threshold=trees.threshold,
        left=trees.left,
        right=trees.right,
        missing_left=trees.missing_left,
        values=np.ascontiguousarray(trees.values[:, 1:]),
        targets=np.zeros(len(trees.roots), dtype=np.int64),
    )

"""Random forests and extremely randomised trees of scikit-learn."""

import copy
from typing import Any

import numpy as np
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, Link, Saved, TreesForm
from allotment_learn.task import Floats
from allotment_learn.trees import Trees, of_forest


def fit_random_forest(training: Training) -> Fitted:
    return _fit(training, RandomForestClassifier, RandomForestRegressor)


def fit_extra_trees(training: Training) -> Fitted:
    return _fit(training, ExtraTreesClassifier, ExtraTreesRegressor)


def restore_random_forest(training: Training, saved: Saved) -> Fitted:
    return _restore(training, saved, RandomForestClassifier, RandomForestRegressor)


def restore_extra_trees(training: Training, saved: Saved) -> Fitted:
    return _restore(training, saved, ExtraTreesClassifier, ExtraTreesRegressor)


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
    return _fitted(training, model)


def _save(model: Any) -> Saved:
    """The nodes of all trees behind one another, as scikit-learn's trees hold them."""
    states = [estimator.tree_.__getstate__() for estimator in model.estimators_]
    return {
        "nodes": np.concatenate([state["nodes"] for state in states]),
        "values": np.concatenate([state["values"] for state in states]),
        "node_counts": np.array([state["node_count"] for state in states], dtype=np.int64),
        "depths": np.array([state["max_depth"] for state in states], dtype=np.int64),
    }


def _restore(training: Training, saved: Saved, classifier: Any, regressor: Any) -> Fitted:
    """A forest of one tree is fitted on next to nothing; then it gets the saved trees."""
    kind = classifier if training.class_count else regressor
    model = kind(n_estimators=1, bootstrap=False, n_jobs=training.threads)
    model.fit(*training.stand_in())
    pattern = model.estimators_[0]
    ends = np.cumsum(saved["node_counts"])
    estimators = []
    for count, end, depth in zip(saved["node_counts"], ends, saved["depths"], strict=True):
        classes = np.array([max(1, training.class_count)], dtype=np.intp)
        tree = type(pattern.tree_)(training.matrix.shape[1], classes, 1)
        tree.__setstate__(
            {
                "max_depth": int(depth),
                "node_count": int(count),
                "nodes": np.ascontiguousarray(saved["nodes"][end - count : end]),
                "values": np.ascontiguousarray(saved["values"][end - count : end]),
            }
        )
        estimator = copy.copy(pattern)
        estimator.tree_ = tree
        estimators.append(estimator)
    model.estimators_ = estimators
    model.n_estimators = len(estimators)
    return _fitted(training, model)


def _fitted(training: Training, model: Any) -> Fitted:
    trees = of_forest(model.estimators_)
    count = float(len(model.estimators_))
    if not training.class_count:
        form = TreesForm(trees, np.zeros(1), count, True, Link.IDENTITY)

        def numbers(matrix: Floats) -> Floats:
            return np.asarray(model.predict(matrix)[:, None], dtype=np.float64)

        return Fitted(numbers, form, lambda: _save(model))
    shares = _class_shares(training)

    def probabilities(matrix: Floats) -> Floats:
        voted = np.asarray(model.predict_proba(matrix), dtype=np.float64)
        return (voted * count + shares) / (count + 1.0)

    if training.class_count == 2:
        # The first class's share is what the second's leaves.
        form = TreesForm(_second_class(trees), shares[1:], count + 1.0, True, Link.COMPLEMENT)
    else:
        form = TreesForm(trees, shares, count + 1.0, True, Link.IDENTITY)
    return Fitted(probabilities, form, lambda: _save(model))


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

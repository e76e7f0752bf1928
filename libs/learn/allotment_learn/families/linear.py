"""Logistic and ridge regression of scikit-learn, on dense or sparse matrices. `strength` is that of
the L2 penalty."""

import warnings
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, LinearForm, Link, Saved

ITERATION_LIMIT = 200
DENSE_CELL_LIMIT = 25_000_000


def fit(training: Training) -> Fitted:
    strength = training.number("strength", 1.0)
    if not training.class_count:
        matrix: Any = training.matrix
        if sparse.issparse(matrix) and matrix.shape[0] * matrix.shape[1] <= DENSE_CELL_LIMIT:
            # Only a dense matrix is solved exactly: iterations stop early.
            matrix = matrix.toarray()
        ridge = Ridge(alpha=strength, tol=1e-6)
        ridge.fit(matrix, training.target, sample_weight=training.weights)
        return _fitted_ridge(ridge)
    logistic = LogisticRegression(C=1.0 / strength, max_iter=ITERATION_LIMIT)
    with warnings.catch_warnings():
        # A model that is not quite converged is scored like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        logistic.fit(training.matrix, training.target, sample_weight=training.weights)
    return _fitted_logistic(training, logistic)


def restore(training: Training, saved: Saved) -> Fitted:
    """A model is fitted on next to nothing; then it gets the saved numbers."""
    model: Any = LogisticRegression() if training.class_count else Ridge()
    model.fit(*training.stand_in())
    model.coef_ = saved["coef"]
    model.intercept_ = saved["intercept"] if training.class_count else saved["intercept"][()]
    return _fitted_logistic(training, model) if training.class_count else _fitted_ridge(model)


def _save(model: Any) -> Saved:
    return {"coef": np.asarray(model.coef_), "intercept": np.asarray(model.intercept_)}


def _fitted_ridge(ridge: Any) -> Fitted:
    form = LinearForm(ridge.coef_[:, None], np.array([ridge.intercept_]), Link.IDENTITY)
    return Fitted(lambda matrix: ridge.predict(matrix)[:, None], form, lambda: _save(ridge))


def _fitted_logistic(training: Training, logistic: Any) -> Fitted:
    link = Link.SIGMOID if training.class_count == 2 else Link.SOFTMAX
    return Fitted(
        logistic.predict_proba,
        LinearForm(np.ascontiguousarray(logistic.coef_.T), logistic.intercept_, link),
        lambda: _save(logistic),
    )

"""Logistic and ridge regression of scikit-learn. `strength` is that of the L2 penalty."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, LinearForm, Link

ITERATION_LIMIT = 200


def fit(training: Training) -> Fitted:
    strength = training.number("strength", 1.0)
    if not training.class_count:
        ridge = Ridge(alpha=strength)
        ridge.fit(training.matrix, training.target, sample_weight=training.weights)
        form = LinearForm(ridge.coef_[:, None], np.array([ridge.intercept_]), Link.IDENTITY)
        return Fitted(lambda matrix: ridge.predict(matrix)[:, None], form)
    logistic = LogisticRegression(C=1.0 / strength, max_iter=ITERATION_LIMIT)
    with warnings.catch_warnings():
        # A model that is not quite converged is scored like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        logistic.fit(training.matrix, training.target, sample_weight=training.weights)
    link = Link.SIGMOID if training.class_count == 2 else Link.SOFTMAX
    return Fitted(
        logistic.predict_proba,
        LinearForm(np.ascontiguousarray(logistic.coef_.T), logistic.intercept_, link),
    )

"""Fitted trees of all libraries in one form: flat arrays."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from allotment_learn.errors import TrainingRefused
from allotment_learn.task import Floats, Integers

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Nodes of all trees behind one another. A row goes left where its value is <= the threshold.

    `left` and `right` are node numbers, -1 at leaves. `missing_left`: where NaN goes. `values`:
    [nodes, outputs], of leaves alone. `targets`: the output that a tree's single value adds to;
    None when its leaves have a value for every output.
    """

    roots: Integers
    feature: Integers
    threshold: Floats
    left: Integers
    right: Integers
    missing_left: Flags
    values: Floats
    targets: Integers | None

    @property
    def node_count(self) -> int:
        return len(self.feature)


@dataclass(frozen=True, slots=True, eq=False)
class _Tree:
    feature: Integers
    threshold: Floats
    left: Integers
    right: Integers
    missing_left: Flags
    values: Floats


def _join(trees: Sequence[_Tree], targets: Sequence[int] | None) -> Trees:
    sizes = np.array([len(tree.feature) for tree in trees], dtype=np.int64)
    roots = np.cumsum(sizes) - sizes
    shift = np.repeat(roots, sizes)
    left = np.concatenate([tree.left for tree in trees]).astype(np.int64)
    right = np.concatenate([tree.right for tree in trees]).astype(np.int64)
    return Trees(
        roots=roots,
        feature=np.concatenate([tree.feature for tree in trees]).astype(np.int64),
        threshold=np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
        left=np.where(left >= 0, left + shift, -1),
        right=np.where(right >= 0, right + shift, -1),
        missing_left=np.concatenate([tree.missing_left for tree in trees]),
        values=np.concatenate([tree.values for tree in trees]).astype(np.float64),
        targets=None if targets is None else np.array(targets, dtype=np.int64),
    )


def of_forest(estimators: Sequence[Any]) -> Trees:
    """scikit-learn's decision trees; leaf values are class shares, or one mean."""
    trees = []
    for estimator in estimators:
        tree = estimator.tree_
        values = tree.value[:, 0, :]
        trees.append(
            _Tree(
                tree.feature,
                tree.threshold,
                tree.children_left,
                tree.children_right,
                np.zeros(tree.node_count, dtype=np.bool_),
                values,
            )
        )
    # One value a leaf: added up by the ensemble itself, which is smaller and quicker.
    single = trees[0].values.shape[1] == 1
    return _join(trees, [0] * len(trees) if single else None)


def of_hist_gradient_boosting(rounds: Sequence[Sequence[Any]]) -> Trees:
    """scikit-learn's histogram trees: `model._predictors`, by round and output."""
    trees, targets = [], []
    for predictors in rounds:
        for target, predictor in enumerate(predictors):
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise TrainingRefused("histogram trees with category sets can't be written exactly")
            leaf = nodes["is_leaf"].astype(np.bool_)
            trees.append(
                _Tree(
                    nodes["feature_idx"],
                    nodes["num_threshold"],
                    np.where(leaf, -1, nodes["left"].astype(np.int64)),
                    np.where(leaf, -1, nodes["right"].astype(np.int64)),
                    nodes["missing_go_to_left"].astype(np.bool_),
                    nodes["value"][:, None],
                )
            )
            targets.append(target)
    return _join(trees, targets)


def of_lightgbm(model_text: str, outputs: int) -> Trees:
    """LightGBM's own text form, whose numbers read back as the same doubles."""
    blocks = re.split(r"\nTree=\d+\n", model_text.split("\nend of trees")[0])[1:]
    trees = [_lightgbm_tree(block) for block in blocks]
    return _join(trees, [index % outputs for index in range(len(trees))])


_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_ZERO, _MISSING_NAN = 1, 2


def _lightgbm_tree(block: str) -> _Tree:
    fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    leaf_value = _numbers(fields["leaf_value"])
    if int(fields["num_leaves"]) <= 1:
        return _Tree(
            np.zeros(1, dtype=np.int64),
            np.zeros(1),
            np.full(1, -1),
            np.full(1, -1),
            np.zeros(1, dtype=np.bool_),
            leaf_value[:1, None],
        )
    decision = _numbers(fields["decision_type"]).astype(np.int64)
    missing = (decision >> 2) & 3
    if (decision & _CATEGORICAL).any() or (missing == _MISSING_ZERO).any():
        raise TrainingRefused(
            "LightGBM trees with category sets or zero as missing can't be written exactly"
        )
    threshold = _numbers(fields["threshold"])
    # Without missing values in training NaN counts as 0.
    missing_left = np.where(
        missing == _MISSING_NAN, (decision & _DEFAULT_LEFT) > 0, threshold >= 0.0
    )
    inner, leaves = len(threshold), len(leaf_value)
    # A child below zero is the leaf ~child; leaves get the numbers behind the inner nodes.
    left, right = (
        np.where(child >= 0, child, inner + ~child)
        for child in (
            _numbers(fields["left_child"]).astype(np.int64),
            _numbers(fields["right_child"]).astype(np.int64),
        )
    )
    none = np.full(leaves, -1, dtype=np.int64)
    zeros = np.zeros(leaves, dtype=np.int64)
    return _Tree(
        np.concatenate([_numbers(fields["split_feature"]).astype(np.int64), zeros]),
        np.concatenate([threshold, zeros.astype(np.float64)]),
        np.concatenate([left, none]),
        np.concatenate([right, none]),
        np.concatenate([missing_left, zeros.astype(np.bool_)]),
        np.concatenate([np.zeros(inner), leaf_value])[:, None],
    )


def _numbers(text: str) -> Floats:
    return np.array(text.split(), dtype=np.float64)

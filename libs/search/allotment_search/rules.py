"""Values that a grammar leaves to the task's shape, by the name that the data file uses."""

import math
from collections.abc import Callable, Mapping

from allotment_search.shape import TaskShape

FOREST_NODE_LIMIT = 2_500_000
"""Nodes of all trees of a trial together: a graph of about 100 MB, still proven in seconds."""
_FEWEST_TREES = 50


def forest_trees(shape: TaskShape) -> int:
    """300 trees for a single fit; fold models are averaged, so that each of them can have fewer.

    Large data gets fewer trees before it gets larger leaves: fully grown trees score better.
    """
    wanted = 300 if shape.fit_count == 1 else max(60, math.ceil(300 / shape.fit_count))
    return max(_FEWEST_TREES, min(wanted, int(FOREST_NODE_LIMIT / _nodes_of_each_tree(shape))))


def _nodes_of_each_tree(shape: TaskShape) -> float:
    """Of a fully grown tree in every fit together: an upper bound for usual data."""
    return 1.26 * shape.training_row_count * shape.fit_count


def forest_share(shape: TaskShape) -> float:
    """The usual share of features at a split: their number's square root, or all in regression."""
    if shape.task == "regression":
        return 1.0
    return min(1.0, math.ceil(1e4 / math.sqrt(shape.feature_count)) / 1e4)


def forest_leaf(shape: TaskShape) -> int:
    """The smallest leaf with which the default number of trees stays under FOREST_NODE_LIMIT."""
    nodes = _nodes_of_each_tree(shape) * forest_trees(shape)
    return max(1, min(50, math.ceil(nodes / FOREST_NODE_LIMIT)))


RULES: Mapping[str, Callable[[TaskShape], int | float]] = {
    "forest_trees": forest_trees,
    "forest_share": forest_share,
    "forest_leaf": forest_leaf,
}

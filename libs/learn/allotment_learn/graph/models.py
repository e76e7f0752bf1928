"""Fitted models as graphs. Why trees look as they do: docs/decisions/exact-trees.md."""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from allotment_learn.errors import GraphTooLarge
from allotment_learn.forms import ConstantForm, Form, LinearForm, Link, NetworkForm, TreesForm
from allotment_learn.graph.builder import ML_DOMAIN, GraphBuilder
from allotment_learn.graph.preparation import SharedInputs, write_matrix, write_product
from allotment_learn.preparation import Preparation
from allotment_learn.task import Floats, Integers
from allotment_learn.trees import Flags, Trees

_SUM, _LESS_OR_EQUAL, _NO_TRANSFORM = 1, 0, 0
_NODE_BYTES = 21
"""What a node of a tree takes in a file, measured: inner nodes 33, leaves 13."""


def form_bytes(form: Form) -> int:
    """Roughly what the form will take in a file."""
    if isinstance(form, TreesForm):
        values = form.trees.values.nbytes // 2 if form.trees.targets is None else 0
        return form.trees.node_count * _NODE_BYTES + values
    if isinstance(form, NetworkForm):
        return 2 * sum(array.nbytes for array in form.arrays.values())
    return form.weights.nbytes if isinstance(form, LinearForm) else form.values.nbytes


def check_size(forms: list[Form], limit_bytes: int) -> None:
    """Raises: GraphTooLarge."""
    size = sum(form_bytes(form) for form in forms)
    if size > limit_bytes:
        raise GraphTooLarge(
            f"the model would take about {size // 10**6} MB, at most {limit_bytes // 10**6} MB are "
            "written; use fewer trees or larger leaves"
        )


Body = Callable[[GraphBuilder, str], str]
"""Writes a network's nodes: from its matrix to its raw outputs."""


def write_form(
    build: GraphBuilder,
    form: Form,
    preparation: Preparation,
    shared: SharedInputs,
    body: Body | None,
) -> str:
    """The model's predictions [N, outputs], before classes are placed and targets undone. `body`:
    for networks alone."""
    if isinstance(form, ConstantForm):
        return _constant(build, form.values, shared)
    if isinstance(form, LinearForm):
        return _link(build, form.link, _linear(build, form, preparation, shared))
    matrix = write_matrix(build, preparation, shared)
    if isinstance(form, NetworkForm):
        assert body is not None
        return _link(build, form.link, body(build, matrix))
    return _link(build, form.link, _trees(build, form, matrix, shared))


def _constant(build: GraphBuilder, values: Floats, shared: SharedInputs) -> str:
    columns = build.constant(np.array([len(values)]))
    shape = build.node("Concat", shared.row_count, columns, axis=0)
    return build.node("Expand", build.constant(values), shape)


def _link(build: GraphBuilder, link: Link, raw: str) -> str:
    if link is Link.IDENTITY:
        return raw
    if link is Link.SOFTMAX:
        return build.node("Softmax", raw, axis=1)
    second = build.node("Sigmoid", raw) if link is Link.SIGMOID else raw
    first = build.node("Sub", build.constant(1.0), second)
    return build.node("Concat", first, second, axis=1)


def _linear(
    build: GraphBuilder, form: LinearForm, preparation: Preparation, shared: SharedInputs
) -> str:
    product = write_product(build, preparation, shared, form.weights)
    return build.node("Add", product, build.constant(form.intercept))


def _trees(build: GraphBuilder, form: TreesForm, matrix: str, shared: SharedInputs) -> str:
    trees = form.trees
    # A tree that is one leaf is a constant.
    alone = trees.left[trees.roots] < 0
    base = form.base.copy()
    for tree in np.flatnonzero(alone):
        value = trees.values[trees.roots[tree]]
        if trees.targets is None:
            base += value
        else:
            base[trees.targets[tree]] += value[0]
    if alone.all():
        return _constant(build, base / form.divisor, shared)
    if form.single_precision:
        matrix = build.double(build.node("Cast", matrix, to=TensorProto.FLOAT))
    if form.zero_within:
        small = build.node(
            "LessOrEqual", build.node("Abs", matrix), build.constant(form.zero_within)
        )
        matrix = build.node("Where", small, build.constant(0.0), matrix)
    summed = _ensemble(build, trees, ~alone, matrix, len(base))
    if base.any():
        summed = build.node("Add", summed, build.constant(base))
    if form.divisor == 1.0:
        return summed
    return build.node("Div", summed, build.constant(form.divisor))


def _ensemble(
    build: GraphBuilder, trees: Trees, chosen: np.ndarray, matrix: str, outputs: int
) -> str:
    """The sum of the chosen trees' leaf values, [N, outputs]."""
    node_count = trees.node_count
    ends = np.append(trees.roots[1:], node_count)
    of_tree = np.repeat(np.arange(len(trees.roots)), ends - trees.roots)
    inner, leaf = _numbered(trees, chosen[of_tree], trees.roots[chosen])
    place = np.empty(node_count, dtype=np.int64)
    place[inner], place[leaf] = np.arange(len(inner)), np.arange(len(leaf))
    values = np.ascontiguousarray(trees.values[leaf])
    if trees.targets is not None:
        targets, weights, width = trees.targets[of_tree[leaf]], values[:, 0], outputs
    else:
        # Each tree says which leaf it ends in; the leaf's values are picked and added afterwards.
        number = np.cumsum(chosen) - 1
        targets, width = number[of_tree[leaf]], int(chosen.sum())
        weights = np.arange(len(values), dtype=np.float64)
    left, right = trees.left[inner], trees.right[inner]
    is_leaf = trees.left < 0
    attributes: dict[str, int | np.ndarray] = {
        "aggregate_function": _SUM,
        "post_transform": _NO_TRANSFORM,
        "n_targets": width,
        "tree_roots": np.arange(int(chosen.sum())),
        "nodes_featureids": trees.feature[inner],
        "nodes_splits": trees.threshold[inner],
        "nodes_modes": np.full(len(inner), _LESS_OR_EQUAL, dtype=np.uint8),
        "nodes_truenodeids": place[left],
        "nodes_trueleafs": is_leaf[left].astype(np.int64),
        "nodes_falsenodeids": place[right],
        "nodes_falseleafs": is_leaf[right].astype(np.int64),
        "leaf_targetids": targets.astype(np.int64),
        "leaf_weights": np.ascontiguousarray(weights),
    }
    if trees.missing_left.any():
        attributes["nodes_missing_value_tracks_true"] = trees.missing_left[inner].astype(np.int64)
    out = build.bulky_node("TreeEnsemble", matrix, domain=ML_DOMAIN, attributes=attributes)
    if trees.targets is not None:
        return out
    return _picked(build, out, values)


def _numbered(trees: Trees, there: Flags, roots: Integers) -> tuple[Integers, Integers]:
    """Inner nodes and leaves in the order of their numbers in the graph.

    onnxruntime 1.23 (its issue 24679) takes a root for a leaf when its two children, one inner
    node and one leaf, have the same number. So roots come first among the inner nodes, and leaves
    of such roots first among the leaves: their numbers are below those of all inner children.
    """
    is_leaf = trees.left < 0
    left, right = trees.left[roots], trees.right[roots]
    mixed = is_leaf[left] != is_leaf[right]
    lonely = np.where(is_leaf[left], left, right)[mixed]
    inner, leaf = there & ~is_leaf, there & is_leaf
    inner[roots], leaf[lonely] = False, False
    return (
        np.concatenate([roots, np.flatnonzero(inner)]),
        np.concatenate([lonely, np.flatnonzero(leaf)]),
    )


def _picked(build: GraphBuilder, leaves: str, values: Floats) -> str:
    places: str = build.node("Cast", leaves, to=TensorProto.INT64)
    picked = build.node("Gather", build.constant(values), places, axis=0)
    axis: Integers = np.array([1])
    return build.node("ReduceSum", picked, build.constant(axis), keepdims=0)

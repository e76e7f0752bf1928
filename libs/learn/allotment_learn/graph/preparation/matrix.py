"""The whole matrix of a fold as a graph, or its product with a linear model's weights."""

import numpy as np

from allotment_learn.graph.builder import GraphBuilder
from allotment_learn.graph.preparation.inputs import SharedInputs
from allotment_learn.graph.preparation.numbers import write_numbers
from allotment_learn.graph.preparation.text import write_weights
from allotment_learn.preparation import Cross, Preparation
from allotment_learn.task import Floats


def write_matrix(build: GraphBuilder, preparation: Preparation, shared: SharedInputs) -> str:
    """The whole matrix [N, preparation.width]."""
    blocks = write_numbers(build, preparation, shared)
    for block in preparation.categories:
        coded = shared.strings[block.column]
        rows = build.constant(coded.rows_of(block))
        blocks.append(build.node("Gather", rows, coded.places, axis=0))
    for cross in preparation.crosses:
        places = _cross_places(build, cross, shared)
        blocks.append(build.node("Gather", build.constant(cross.rows), places, axis=0))
    for text in preparation.texts:
        blocks.append(write_weights(build, text, shared.texts[text.column], None))
    return build.node("Concat", *blocks, axis=1) if len(blocks) > 1 else blocks[0]


def write_product(
    build: GraphBuilder, preparation: Preparation, shared: SharedInputs, weights: Floats
) -> str:
    """The matrix times weights [preparation.width, outputs]: a string column or cross adds one row
    of (its part of the matrix @ weights), picked by its code."""
    terms = []
    width = preparation.numbers.width
    if width:
        blocks = write_numbers(build, preparation, shared)
        numbers = build.node("Concat", *blocks, axis=1) if len(blocks) > 1 else blocks[0]
        # One column is scaled by one number, which onnxruntime would pull into a matrix product in
        # single precision.
        product = "MatMul" if width > 1 else "Mul"
        terms.append(build.node(product, numbers, build.constant(weights[:width])))
    for block in preparation.categories:
        coded = shared.strings[block.column]
        added = build.constant(coded.rows_of(block) @ weights[width : width + block.width])
        width += block.width
        terms.append(build.node("Gather", added, coded.places, axis=0))
    for cross in preparation.crosses:
        added = build.constant(cross.rows @ weights[width : width + cross.width])
        width += cross.width
        terms.append(build.node("Gather", added, _cross_places(build, cross, shared), axis=0))
    for text in preparation.texts:
        part = np.ascontiguousarray(weights[width : width + text.width])
        width += text.width
        terms.append(write_weights(build, text, shared.texts[text.column], part))
    total = terms[0]
    for term in terms[1:]:
        total = build.node("Add", total, term)
    return total


def _cross_places(build: GraphBuilder, cross: Cross, shared: SharedInputs) -> str:
    """The cross's row of each row, [N]."""
    places = []
    for side, step in ((cross.left, cross.right.size), (cross.right, 1)):
        coded = shared.strings[side.column]
        codes = build.constant(coded.codes_in(side.values) * step)
        places.append(build.node("Gather", codes, coded.places, axis=0))
    return build.node("Add", *places)

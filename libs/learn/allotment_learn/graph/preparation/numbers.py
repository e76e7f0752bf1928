"""Numbers and what is derived of them, as graphs."""

import numpy as np
from onnx import TensorProto

from allotment_learn.graph.builder import GraphBuilder
from allotment_learn.graph.preparation.inputs import SharedInputs
from allotment_learn.preparation import (
    LARGEST_NATIVE,
    Derived,
    ImputedNumbers,
    Operation,
    Preparation,
    Turn,
)
from allotment_learn.task import Integers


def write_numbers(build: GraphBuilder, preparation: Preparation, shared: SharedInputs) -> list[str]:
    """The blocks of the matrix that hold numbers, in order."""
    numbers = preparation.numbers
    count = shared.number_count + len(preparation.derived)
    if not len(numbers.kept):
        return []
    everything = _extended(build, preparation.derived, shared.numbers)
    taken = _take(build, everything, numbers.kept, count)
    if not isinstance(numbers, ImputedNumbers):
        return [_cut(build, taken)]
    blocks = [_impute(build, numbers, taken)]
    if len(numbers.indicated):
        missing = build.node("IsNaN", everything)
        blocks.append(build.double(_take(build, missing, numbers.indicated, count)))
    return blocks


def _extended(build: GraphBuilder, derived: tuple[Derived, ...], numbers: str) -> str:
    if not derived:
        return numbers
    columns = [_derived(build, column, numbers) for column in derived]
    return build.node("Concat", numbers, *columns, axis=1)


def _derived(build: GraphBuilder, column: Derived, numbers: str) -> str:
    if isinstance(column, Turn):
        return _turn(build, column, numbers)
    left, right = _column(build, numbers, column.left), _column(build, numbers, column.right)
    if column.operation is Operation.PRODUCT:
        return build.node("Mul", left, right)
    if column.operation is Operation.DIFFERENCE:
        return build.node("Sub", left, right)
    nothing = build.node("Equal", right, build.constant(0.0))
    ratio = build.node("Div", left, right)
    return build.node("Where", nothing, build.constant(float("nan")), ratio)


def _turn(build: GraphBuilder, column: Turn, numbers: str) -> str:
    source = _column(build, numbers, column.source)
    missing = build.node("IsNaN", source)
    safe = build.node("Where", missing, build.constant(0.0), source)
    places = build.node("Cast", safe, to=TensorProto.INT64)
    found = build.node("Gather", build.constant(np.array(column.table)), places)
    return build.node("Where", missing, build.constant(float("nan")), found)


def _column(build: GraphBuilder, matrix: str, place: int) -> str:
    return build.node("Gather", matrix, build.constant(np.array([place])), axis=1)


def _take(build: GraphBuilder, matrix: str, places: Integers, count: int) -> str:
    if np.array_equal(places, np.arange(count)):
        return matrix
    return build.node("Gather", matrix, build.constant(places.astype(np.int64)), axis=1)


def _cut(build: GraphBuilder, taken: str) -> str:
    """Comparisons with NaN are false: it stays."""
    high, low = build.constant(LARGEST_NATIVE), build.constant(-LARGEST_NATIVE)
    cut = build.node("Where", build.node("Greater", taken, high), high, taken)
    return build.node("Where", build.node("Less", cut, low), low, cut)


def _impute(build: GraphBuilder, numbers: ImputedNumbers, taken: str) -> str:
    fill = build.constant(numbers.fill)
    filled = build.node("Where", build.node("IsNaN", taken), fill, taken)
    above = build.node("Max", filled, build.constant(numbers.low))
    cut = build.node("Min", above, build.constant(numbers.high))
    if numbers.centre is None or numbers.scale is None:
        return cut
    centred = build.node("Sub", cut, build.constant(numbers.centre))
    return build.node("Div", centred, build.constant(numbers.scale))

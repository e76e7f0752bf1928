"""`features` and `preparation` as graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allotment_learn.dates import DatePattern
from allotment_learn.features import NumberSource
from allotment_learn.graph.builder import ML_DOMAIN, GraphBuilder
from allotment_learn.graph.dates import write_date_parts
from allotment_learn.preparation import (
    LARGEST_NATIVE,
    CategoryBlock,
    ImputedNumbers,
    Numbers,
    Preparation,
    codes_of,
)
from allotment_learn.table import Column, ColumnKind
from allotment_learn.task import Floats, Integers


@dataclass(frozen=True, slots=True)
class CodedInput:
    """A string column as places [N] in `values`; one behind them is "unseen", two missing."""

    places: str
    values: tuple[str, ...]

    def rows_of(self, block: CategoryBlock) -> Floats:
        """What a fold's block makes of each place, [values + 2, width]."""
        codes = codes_of(block.values, [*self.values, "", ""])
        codes[-2] = len(block.values)
        return block.rows_of(codes)


@dataclass(frozen=True, slots=True)
class SharedInputs:
    """What all folds start from: the matrix of numbers ("" where there is none) and coded
    strings."""

    numbers: str
    number_count: int
    strings: Mapping[str, CodedInput]
    row_count: str
    """int64 [1]"""


def write_shared_inputs(
    build: GraphBuilder,
    columns: Sequence[Column],
    inputs: Mapping[str, str],
    sources: Sequence[NumberSource],
    preparations: Sequence[Preparation],
) -> SharedInputs:
    """`inputs`: the graph's input by column. What no fold uses is left out."""
    first = inputs[columns[0].name]
    row_count = build.node("Shape", first, start=0, end=1)
    used = any(len(preparation.numbers.kept) for preparation in preparations)
    read = {source.column for source in sources} if used else set()
    blocks = []
    for column in columns:
        if column.name not in read:
            continue
        cells = inputs[column.name]
        if column.type is ColumnKind.DATE:
            cells = write_date_parts(build, cells, DatePattern.parse(column.date_format))
        blocks.append(cells)
    numbers = build.node("Concat", *blocks, axis=1) if len(blocks) > 1 else "".join(blocks)
    values: dict[str, dict[str, None]] = {}
    for preparation in preparations:
        for block in preparation.categories:
            values.setdefault(block.column, {}).update(dict.fromkeys(block.values))
    strings = {
        name: CodedInput(_places(build, inputs[name], tuple(there)), tuple(there))
        for name, there in values.items()
    }
    return SharedInputs(numbers, len(sources), strings, row_count)


def _places(build: GraphBuilder, cells: str, values: tuple[str, ...]) -> str:
    codes = build.node(
        "LabelEncoder",
        cells,
        domain=ML_DOMAIN,
        keys_strings=[*values, ""],
        values_int64s=[*range(len(values)), len(values) + 1],
        default_int64=len(values),
    )
    return build.node("Reshape", codes, build.constant(np.array([-1])))


def write_numbers(build: GraphBuilder, numbers: Numbers, shared: SharedInputs) -> list[str]:
    """The blocks of the matrix that hold numbers, in order."""
    blocks = []
    if len(numbers.kept):
        taken = _take(build, shared.numbers, numbers.kept, shared.number_count)
        if isinstance(numbers, ImputedNumbers):
            blocks.append(_impute(build, numbers, taken))
        else:
            blocks.append(_cut(build, taken))
    if isinstance(numbers, ImputedNumbers) and len(numbers.indicated):
        missing = build.node("IsNaN", shared.numbers)
        indicated = _take(build, missing, numbers.indicated, shared.number_count)
        blocks.append(build.double(indicated))
    return blocks


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


def write_matrix(build: GraphBuilder, preparation: Preparation, shared: SharedInputs) -> str:
    """The whole matrix [N, preparation.width]."""
    blocks = write_numbers(build, preparation.numbers, shared)
    for block in preparation.categories:
        coded = shared.strings[block.column]
        rows = build.constant(coded.rows_of(block))
        blocks.append(build.node("Gather", rows, coded.places, axis=0))
    return build.node("Concat", *blocks, axis=1) if len(blocks) > 1 else blocks[0]

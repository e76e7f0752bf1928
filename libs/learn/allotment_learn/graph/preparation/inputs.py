"""What the folds of a graph share: the features, as `features` gives them to the libraries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allotment_learn.dates import DatePattern
from allotment_learn.features import NumberSource
from allotment_learn.graph.builder import ML_DOMAIN, GraphBuilder
from allotment_learn.graph.dates import write_date_parts
from allotment_learn.graph.preparation.text import CountedText, write_counts
from allotment_learn.preparation import CategoryBlock, Preparation, codes_of
from allotment_learn.table import Column, ColumnKind
from allotment_learn.task import Floats, Integers


@dataclass(frozen=True, slots=True)
class CodedInput:
    """A string column as places [N] in `values`; one behind them is "unseen", two missing."""

    places: str
    values: tuple[str, ...]

    def codes_in(self, known: Sequence[str]) -> Integers:
        """A fold's code of each place, [values + 2]."""
        codes = codes_of(known, [*self.values, "", ""])
        codes[-2] = len(known)
        return codes

    def rows_of(self, block: CategoryBlock) -> Floats:
        """What a fold's block makes of each place, [values + 2, width]."""
        return block.rows_of(self.codes_in(block.values))


@dataclass(frozen=True, slots=True)
class SharedInputs:
    """What all folds start from: the matrix of numbers ("" where there is none), coded strings and
    counted words."""

    numbers: str
    number_count: int
    strings: Mapping[str, CodedInput]
    texts: Mapping[str, CountedText]
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
    strings = {
        name: CodedInput(_places(build, inputs[name], values), values)
        for name, values in _values(preparations).items()
    }
    texts = {
        column.name: write_counts(build, inputs[column.name], vocabularies)
        for column in columns
        if (
            vocabularies := [
                block.vocabulary
                for preparation in preparations
                for block in preparation.texts
                if block.column == column.name
            ]
        )
    }
    return SharedInputs(numbers, len(sources), strings, texts, row_count)


def _values(preparations: Sequence[Preparation]) -> dict[str, tuple[str, ...]]:
    """The values of string columns that some fold tells apart."""
    values: dict[str, dict[str, None]] = {}
    for preparation in preparations:
        for block in preparation.categories:
            values.setdefault(block.column, {}).update(dict.fromkeys(block.values))
        for cross in preparation.crosses:
            for side in (cross.left, cross.right):
                values.setdefault(side.column, {}).update(dict.fromkeys(side.values))
    return {name: tuple(there) for name, there in values.items()}


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

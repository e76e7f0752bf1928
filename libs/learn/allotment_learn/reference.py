"""The reference file: input rows with what the source libraries predict for them.

An .npz without pickled objects, to be read with `numpy.load(path, allow_pickle=False)`:

- `columns`: str [inputs]: the source columns in the order of the graph's inputs.
- `input_0`, `input_1`, ...: one array [rows] for each input: float64 (NaN = missing), or str ("" =
  missing).
- `expected`: float64 [rows, classes], or [rows, 1] for regression: the predictions of the very
  objects
  that the graph was written from, averaged over the folds (`averaging`) in double precision.
- `kind`: str [rows]: VALIDATION, MISSING, UNSEEN, THRESHOLD or EXTREME.
- `row`: int64 [rows]: the row's place in the trial's table; -1 for a made row.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from allotment_learn.table import ColumnKind, Table
from allotment_learn.task import Floats, Integers

VALIDATION_ROW_LIMIT = 2_000
COLUMN_LIMIT = 64
"""Columns that get quirk rows of their own; evenly spread where there are more."""
THRESHOLDS_PER_COLUMN = 4
LONGEST_CELL = 1_000
"""Rows with longer cells are left out: the file holds strings at the width of the longest."""

EXTREMES = (
    np.inf,
    -np.inf,
    1e9,
    -1e9,
    1e9 + 1,
    1e300,
    -1e300,
    1.7976931348623157e308,
    3.4028235677973366e38,
    5e-324,
    1e-36,
    0.0,
    -0.0,
)
UNSEEN = "unseen \u2603 \U0001f9ea"


class RowKind(StrEnum):
    """Why a row is in the reference."""

    VALIDATION = "VALIDATION"
    MISSING = "MISSING"
    UNSEEN = "UNSEEN"
    THRESHOLD = "THRESHOLD"
    EXTREME = "EXTREME"


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceRows:
    """Rows whose predictions are to be recorded."""

    table: Table
    kinds: tuple[RowKind, ...]
    rows: Integers


def write_reference(path: Path, rows: ReferenceRows, expected: Floats) -> None:
    """Writes the file; nothing in it depends on when or where."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "columns": np.array([column.name for column in rows.table.columns], dtype=np.str_),
        "expected": expected,
        "kind": np.array([kind.value for kind in rows.kinds], dtype=np.str_),
        "row": rows.rows,
    }
    for index, (column, cells) in enumerate(rows.table):
        numeric = column.type is ColumnKind.NUMERIC
        arrays[f"input_{index}"] = cells if numeric else cells.astype(np.str_)
    # mypy takes the keywords for the function's own flags.
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]

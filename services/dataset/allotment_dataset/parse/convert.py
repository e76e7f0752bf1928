"""Second reading: raw cells to what is stored: float64 (NaN = missing) or strings ("" =
missing).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from allotment_core.errors import InvalidArgument, clip
from allotment_dataset.domain.table import ColumnType
from allotment_dataset.parse import cells
from allotment_dataset.parse.evidence import Plan
from allotment_dataset.parse.sources import RawColumn

Floats = npt.NDArray[np.float64]


def convert(raw: RawColumn, plan: Plan, *, first_row: int) -> RawColumn:
    """The column's cells of one batch as they are stored.

    `first_row` counts data rows from 1, for errors.

    Raises: InvalidArgument NOT_NUMBERS, NOT_DATES when the plan does not fit (it was made for
        other rows).
    """
    if isinstance(raw, np.ndarray):
        return raw if plan.type is ColumnType.NUMERIC else _spelt(raw)
    trimmed = cells.trim(raw)
    missing = pc.equal(trimmed, "")
    if plan.markers:
        missing = pc.or_(missing, pc.is_in(trimmed, pa.array(sorted(plan.markers))))
    if plan.type is ColumnType.NUMERIC:
        return _numbers(trimmed, missing, plan, first_row)
    if plan.type is ColumnType.DATE:
        _check_dates(trimmed, missing, plan, first_row)
        return pc.if_else(missing, "", trimmed)
    return pc.if_else(missing, "", raw)


def _numbers(trimmed: Any, missing: Any, plan: Plan, first_row: int) -> Floats:
    present = trimmed
    some_missing = pc.any(missing).as_py()
    if some_missing:
        present = trimmed.filter(pc.invert(missing))
    plain = cells.plain_numbers(present) if plan.decimal == "." else None
    numeric = plain is not None or pc.all(cells.is_number(present, plan.decimal)).as_py()
    if not numeric or cells.inexact_integers(present):
        bad = pc.invert(pc.or_(missing, cells.is_number(trimmed, plan.decimal)))
        raise _misfit(trimmed, bad, plan, first_row, "numbers", "NOT_NUMBERS")
    values = plain if plain is not None else cells.to_numbers(present, plan.decimal)
    if cells.overflowing(present, values):
        raise InvalidArgument(
            f"column {clip(plan.name)!r} holds numbers, but has one beyond 1.8e308; mend it",
            reason="NOT_NUMBERS",
        )
    if not some_missing:
        return values
    column = np.full(len(trimmed), np.nan)
    column[~missing.to_numpy(zero_copy_only=False)] = values
    return column


def _check_dates(trimmed: Any, missing: Any, plan: Plan, first_row: int) -> None:
    if not plan.date_format:
        if not pc.all(missing).as_py():
            raise _misfit(trimmed, pc.invert(missing), plan, first_row, "dates", "NOT_DATES")
        return
    bad = pc.invert(pc.or_(missing, cells.is_date(trimmed, plan.date_format)))
    if pc.any(bad).as_py():
        raise _misfit(trimmed, bad, plan, first_row, f"dates by {plan.date_format}", "NOT_DATES")


def _misfit(
    trimmed: Any, bad: Any, plan: Plan, first_row: int, kind: str, reason: str
) -> InvalidArgument:
    places = np.flatnonzero(bad.to_numpy(zero_copy_only=False))[:3]
    shown = ", ".join(
        f"{clip(trimmed[int(p)].as_py(), 40)!r} in row {first_row + int(p)}" for p in places
    )
    return InvalidArgument(
        f"column {clip(plan.name)!r} holds {kind}, but has {shown or 'integers beyond 2^53'}; "
        "mend these cells, or import the table as a new dataset",
        reason=reason,
    )


def _spelt(values: Floats) -> Any:
    """Numbers of a typed source that are wanted as strings, by their shortest spelling."""
    return pa.array(
        ["" if np.isnan(v) else cells.number_text(float(v)) for v in values], pa.string()
    )

"""Columns of numbers are read by a shortcut; it finds what looking at every cell finds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from allotment_core.errors import InvalidArgument
from allotment_dataset.domain.table import ColumnType
from allotment_dataset.parse import cells
from allotment_dataset.parse.convert import convert
from allotment_dataset.parse.evidence import Evidence, find_decimal, plan_column

ROWS = 9000
BATCH = 4500
_RNG = np.random.default_rng(0)
_PLAIN = [repr(value) for value in _RNG.normal(size=ROWS).tolist()]


def with_cells(**placed: str) -> list[str]:
    """Numbers, with other cells at some places: `at_7="NA"`."""
    column = list(_PLAIN)
    for place, cell in placed.items():
        column[int(place.removeprefix("at_"))] = cell
    return column


COLUMNS: dict[str, list[str]] = {
    "plain": _PLAIN,
    "exponents": [repr(value) for value in (_RNG.normal(size=ROWS) * 1e-5).tolist()],
    "long exponent": with_cells(at_8000="1e1234567"),
    "plus": with_cells(at_5="+1.5", at_8999="+.5"),
    "spaces": with_cells(at_5=" 1.5", at_8000="2 ", at_8001="  "),
    "other spaces": with_cells(at_8000="\N{NO-BREAK SPACE}1"),
    "missing": ["" if place % 7 == 3 else cell for place, cell in enumerate(_PLAIN)],
    "marker late": with_cells(at_8999="NA"),
    "two markers": with_cells(**{f"at_{place}": "NA" for place in range(100, 9000, 10)}, at_7="-"),
    "no marker": with_cells(at_8999="none of these"),
    "only minus": with_cells(at_8999="-"),
    "slash": with_cells(at_6000="1/2"),
    "two points": with_cells(at_6000="1.2.3"),
    "infinite": with_cells(at_6000="-Infinity", at_6001="inf"),
    "nan": with_cells(at_6000="nan"),
    "too large": with_cells(at_6000="9" * 400),
    "beyond 2^53": with_cells(at_6000=str(2**53 + 1)),
    "integers": [str(place * 3) for place in range(ROWS)],
    "few": [str(place % 7) for place in range(ROWS)],
    "few then many": ["1"] * BATCH + _PLAIN[BATCH:],
    "many then words": _PLAIN[:BATCH] + [f"word {place}" for place in range(BATCH)],
    "commas": [cell.replace(".", ",") for cell in _PLAIN],
    "dates then numbers": ["2026-01-02"] * BATCH + _PLAIN[BATCH:],
    "letters": [f"\N{LATIN SMALL LETTER U WITH DIAERESIS}{place % 50}" for place in range(ROWS)],
    "empty": [""] * ROWS,
}


def read(column: list[str]) -> Any:
    batches = [pa.array(column[at : at + BATCH], pa.string()) for at in range(0, ROWS, BATCH)]
    evidence = Evidence(name="x")
    for batch in batches:
        evidence.add(batch)
    decimal = find_decimal([evidence], target="")
    plan = plan_column(
        evidence, decimal=decimal, wanted=ColumnType.UNSPECIFIED, is_target=False, may_be_id=True
    )
    stored = [convert(batch, plan, first_row=1) for batch in batches]
    values = [list(map(str, part.tolist())) for part in stored]
    return decimal, plan, evidence.has_dot, values


def without_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr(cells, "plain_numbers", nothing)
    monkeypatch.setattr(Evidence, "_mostly_distinct", nothing)


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_shortcut_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = read(COLUMNS[kind])
    without_shortcuts(monkeypatch)
    assert read(COLUMNS[kind]) == short


def test_the_shortcut_is_taken() -> None:
    for kind in ("plain", "integers", "few"):
        assert cells.plain_numbers(pa.array(COLUMNS[kind])) is not None
    array = pa.array(["junk", "1", "-2.5", "3e2", "4", "5", "6"])
    assert cells.plain_numbers(array) is None
    values = cells.plain_numbers(array.slice(1))
    assert values is not None
    assert values.tolist() == [1.0, -2.5, 300.0, 4.0, 5.0, 6.0]


def test_a_number_too_large_is_no_number() -> None:
    _, plan, _, _ = read(COLUMNS["too large"])
    assert plan.type is ColumnType.CATEGORICAL
    evidence = Evidence(name="x")
    evidence.add(pa.array(COLUMNS["too large"]))
    with pytest.raises(InvalidArgument, match="asked to be numeric"):
        plan_column(
            evidence, decimal=".", wanted=ColumnType.NUMERIC, is_target=False, may_be_id=False
        )

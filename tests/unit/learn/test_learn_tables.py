"""Reading Parquet parts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allotment_core.errors import DataLoss, InvalidArgument
from allotment_learn.table import Column, ColumnKind, Table, read_arrays

NUMBER = Column(name="a.b", type=ColumnKind.NUMERIC)
TEXT = Column(name="größe", type=ColumnKind.CATEGORICAL)


def part(folder: Path, name: str, numbers: list[float | None], texts: list[str | None]) -> Path:
    path = folder / name
    pq.write_table(pa.table({"a.b": pa.array(numbers, pa.float64()), "größe": texts}), path)
    return path


def test_parts_are_read_in_order_with_missing_cells(tmp_path: Path) -> None:
    paths = [
        part(tmp_path, "1", [1.0, None], ["x", None]),
        part(tmp_path, "2", [float("nan"), float("inf")], ["", "none"]),
    ]
    table = Table.read(paths, [TEXT, NUMBER])
    assert [column.name for column in table.columns] == ["größe", "a.b"]
    assert table.row_count == 4
    expected = [1.0, np.nan, np.nan, np.inf]
    assert np.array_equal(table.arrays["a.b"], expected, equal_nan=True)
    assert table.arrays["größe"].tolist() == ["x", "", "", "none"]


def test_taken_rows_keep_the_given_order(tmp_path: Path) -> None:
    table = Table.read([part(tmp_path, "1", [1.0, 2.0, 3.0], ["x", "y", "z"])], [NUMBER, TEXT])
    taken = table.take(np.array([2, 0]))
    assert taken.arrays["a.b"].tolist() == [3.0, 1.0]
    assert taken.arrays["größe"].tolist() == ["z", "x"]


def test_a_part_without_rows_is_read(tmp_path: Path) -> None:
    table = Table.read([part(tmp_path, "1", [], pa.array([], pa.string()))], [NUMBER, TEXT])
    assert table.row_count == 0


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = part(tmp_path, "1", [1.0], ["x"])
    with pytest.raises(InvalidArgument, match="no column 'weight'"):
        read_arrays([path], {"weight": True})


@pytest.mark.parametrize(("name", "numeric"), [("a.b", False), ("größe", True)])
def test_a_column_of_another_type_is_refused(tmp_path: Path, name: str, numeric: bool) -> None:
    path = part(tmp_path, "1", [1.0], ["x"])
    with pytest.raises(InvalidArgument, match=f"column '{name}' holds"):
        read_arrays([path], {name: numeric})


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_a_damaged_part_is_data_loss(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part"
    path.write_bytes(content)
    with pytest.raises(DataLoss, match="fetch it again"):
        Table.read([path], [NUMBER])


def test_arrays_of_other_lengths_are_no_table() -> None:
    with pytest.raises(InvalidArgument, match="has to be 2 cells"):
        Table.of([NUMBER], {"a.b": np.zeros(3)}, 2)
    with pytest.raises(InvalidArgument, match="named twice"):
        Table.of([NUMBER, NUMBER], {"a.b": np.zeros(2)}, 2)

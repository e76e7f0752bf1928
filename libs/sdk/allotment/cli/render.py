"""Output: tables for people, JSON for programs."""

import dataclasses
import enum
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

NO_VALUE = "-"


def plain(value: Any) -> Any:
    """The value as JSON knows it: dataclasses are objects, enums strings, times RFC 3339, NaN
    null.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def short(name: str) -> str:
    """A resource name without its tenant."""
    return name.split("/", 2)[2] if name.startswith("tenants/") and name.count("/") > 1 else name


def number(value: float | None) -> str:
    return NO_VALUE if value is None or math.isnan(value) else f"{value:.6g}"


def moment(value: datetime | None) -> str:
    return NO_VALUE if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(value: int) -> str:
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", empty: str = ""
) -> None:
    """A table, or the line `empty` when there are no rows. Cells are never read as markup."""
    listed = list(rows)
    console = Console(soft_wrap=False)
    if not listed and empty:
        print(empty)
        return
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in listed:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def print_fields(fields: Mapping[str, str]) -> None:
    """One resource, a line for each field."""
    width = max(map(len, fields), default=0)
    for key, value in fields.items():
        print(f"{key:<{width}}  {value}")


def print_paths(paths: Sequence[Path], as_json: bool) -> None:
    """Files that were written."""
    if as_json:
        print_json([str(path) for path in paths])
    else:
        print("\n".join(map(str, paths)))


def print_deleted(name: str, as_json: bool) -> None:
    if as_json:
        print_json({"deleted": name})
    else:
        print(f"{name} is deleted")

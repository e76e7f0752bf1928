"""A table as it was read: columns, statistics, warnings, and what a column is like as a target."""

import enum
from dataclasses import dataclass


class FileFormat(enum.Enum):
    """How the bytes of an upload are laid out."""

    UNSPECIFIED = "UNSPECIFIED"
    DELIMITED = "DELIMITED"
    PARQUET = "PARQUET"
    JSONL = "JSONL"
    ARROW = "ARROW"


class ColumnType(enum.Enum):
    """What the cells of a column are."""

    UNSPECIFIED = "UNSPECIFIED"
    NUMERIC = "NUMERIC"
    CATEGORICAL = "CATEGORICAL"
    DATE = "DATE"
    TEXT = "TEXT"
    ID = "ID"


class ColumnRole(enum.Enum):
    """What a column is used for."""

    UNSPECIFIED = "UNSPECIFIED"
    FEATURE = "FEATURE"
    IGNORED = "IGNORED"
    WEIGHT = "WEIGHT"
    GROUP = "GROUP"
    TIME = "TIME"


class TaskType(enum.Enum):
    """What is learnt."""

    UNSPECIFIED = "UNSPECIFIED"
    BINARY = "BINARY"
    MULTICLASS = "MULTICLASS"
    REGRESSION = "REGRESSION"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnOverride:
    """What the caller knows better than inference; UNSPECIFIED leaves it to inference."""

    column: str
    type: ColumnType = ColumnType.UNSPECIFIED
    role: ColumnRole = ColumnRole.UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know although nothing failed. `column` "" is the whole table."""

    reason: str
    message: str
    column: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueCount:
    value: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How the file first spelt a number whose shortest spelling is another one."""

    value: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStatistics:
    """Of all rows of a version. Moments are of the finite values and None without any."""

    missing_count: int
    distinct_count: int
    longest_cell: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    standard_deviation: float | None = None
    top_values: tuple[ValueCount, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a version; `ignored_because` is set exactly when its role is IGNORED."""

    name: str
    type: ColumnType
    role: ColumnRole
    statistics: ColumnStatistics
    ignored_because: str = ""
    date_format: str = ""
    spellings: tuple[Spelling, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a file was read."""

    format: FileFormat
    encoding: str = ""
    delimiter: str = ""
    decimal: str = ""
    missing_markers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A column of a version as the target. `classes` are in the order of models' outputs."""

    task: TaskType
    labelled_row_count: int
    classes: tuple[ValueCount, ...] = ()
    warnings: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A finished Parquet file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableContent:
    """Everything about a version but its name: what reading a file leaves."""

    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    row_count: int
    duplicate_row_count: int
    reading: Reading
    source_sha256: str
    warnings: tuple[Notice, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

"""One trial as its process needs it: plain values alone, so that it travels as JSON."""

import dataclasses
from dataclasses import dataclass
from typing import Any

Value = str | float | int | bool

MIN_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One assignment of a trial: a lost one comes back under the next epoch."""

    trial: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobColumn:
    """A column of the table. `type` is numeric, categorical, date, text or id."""

    name: str
    type: str
    date_format: str = ""
    spellings: tuple[tuple[float, str], ...] = ()
    """Numeric alone: values whose spelling in the file is not the shortest one."""

    @property
    def is_numeric(self) -> bool:
        return self.type == "numeric"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSplit:
    """How rows are divided: `method` is folds or hold_out."""

    method: str
    part_count: int
    seed: int
    group_column: str = ""
    time_column: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialJob:
    """Everything that a trial's process is told. Instants are by the machine's monotonic clock."""

    trial: str
    epoch: int
    family: str
    choices: tuple[tuple[str, Value], ...]
    parts: tuple[str, ...]
    """sha256 of the table's Parquet parts, in row order."""
    columns: tuple[JobColumn, ...]
    """Those that the trial reads, features or not."""
    features: tuple[str, ...]
    target: str
    task: str
    classes: tuple[str, ...]
    metric: str
    split: JobSplit
    seed: int
    threads: int
    memory_bytes: int
    weight_column: str = ""
    deadline_monotonic: float | None = None
    missing_markers: tuple[str, ...] = ()
    decimal: str = "."
    part_paths: tuple[str, ...] = ()
    """Where the parts lie on this machine; filled in when they are there."""
    table_dir: str = ""
    """Where arrays of this table are kept between trials."""
    rungs: tuple[int, ...] = ()
    """After that many folds the trial may be put off: its result waits for the last one's word."""
    fit_rungs: tuple[int, ...] = ()
    """The same within the first fit: when one n-th of its boosting rounds or epochs is done."""
    checkpoint_sha256: str = ""
    """Fitted folds of an earlier attempt; empty: none."""

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.trial, self.epoch)

    def column(self, name: str) -> JobColumn | None:
        """The column of that name, where the trial reads it."""
        return next((c for c in self.columns if c.name == name), None)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrialJob":
        """The job that `to_json` made these values of."""
        columns = tuple(
            JobColumn(**{**c, "spellings": tuple((v, t) for v, t in c["spellings"])})
            for c in values["columns"]
        )
        lists = (
            *("parts", "features", "classes", "missing_markers", "part_paths"),
            *("rungs", "fit_rungs"),
        )
        return cls(
            **{
                **values,
                **{name: tuple(values[name]) for name in lists},
                "choices": tuple((symbol, value) for symbol, value in values["choices"]),
                "columns": columns,
                "split": JobSplit(**values["split"]),
            }
        )

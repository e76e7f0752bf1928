"""Dates as numbers. The same rule is written into graphs by `graph/dates.py`, step by step.

A cell is a date when it matches the pattern's expression as a whole (`expression`), its month is
1-12, its day is in the month, hour <= 23, minute and second <= 59; anything else is missing. A
pattern without a day means the first. Years are 1 to 9999 in the proleptic Gregorian calendar.
Fractions of a second are read and left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from allotment_core.errors import InvalidArgument, clip

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

WIDTHS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "f": 6}
DAYS_BEFORE = (0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
"""By month: days of a common year before its first."""
DAYS_IN = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
EPOCH_DAYS = 719162
"""Days from 0001-01-01 to 1970-01-01."""

DATE_PARTS = ("year", "month", "day", "weekday", "day_of_year", "epoch_days")
TIME_PARTS = ("hour", "minute")


@dataclass(frozen=True, slots=True)
class Group:
    """Adjacent fields ("Ymd" of %Y%m%d); alone, a field other than the year may have one digit."""

    fields: str

    @property
    def expression(self) -> str:
        if self.fields == "f":
            return "[0-9]{1,9}"
        if len(self.fields) == 1 and self.fields != "Y":
            return "[0-9]{1,2}"
        return f"[0-9]{{{sum(WIDTHS[field] for field in self.fields)}}}"


@dataclass(frozen=True)
class DatePattern:
    """A strptime pattern: groups of fields with a literal before, between and after them.

    `literals` has one entry more than `groups`; first and last may be empty.
    """

    text: str
    groups: tuple[Group, ...]
    literals: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "DatePattern":
        """Raises: InvalidArgument when the pattern has fields that are not supported here."""
        groups: list[str] = []
        literals = [""]
        position = 0
        while position < len(text):
            if text[position] != "%":
                literals[-1] += text[position]
                position += 1
                continue
            field = text[position + 1 : position + 2]
            if field not in WIDTHS:
                raise _unsupported(text)
            if groups and not literals[-1]:
                groups[-1] += field
            else:
                groups.append(field)
                literals.append("")
            position += 2
        pattern = cls(text, tuple(Group(group) for group in groups), tuple(literals))
        pattern.check()
        return pattern

    def check(self) -> None:
        """Raises: InvalidArgument when it lacks year or month, or names a field twice."""
        fields = "".join(group.fields for group in self.groups)
        repeated = len(set(fields)) != len(fields)
        mixed = any(len(group.fields) > 1 and "f" in group.fields for group in self.groups)
        ambiguous = any(sign.isdigit() for literal in self.literals for sign in literal)
        if repeated or mixed or ambiguous or not set("Ym") <= set(fields):
            raise _unsupported(self.text)

    @property
    def has_time(self) -> bool:
        return any("H" in group.fields for group in self.groups)

    @cached_property
    def expression(self) -> str:
        """What a whole cell has to match; the same to Python and to RE2. A capture for each
        group."""
        parts = [re.escape(self.literals[0])]
        for group, literal in zip(self.groups, self.literals[1:], strict=True):
            parts.append(f"({group.expression})" + re.escape(literal))
        return "".join(parts)

    @cached_property
    def example(self) -> str:
        """A cell that matches: 2000-01-01 at 01:01:01."""
        parts = [self.literals[0]]
        for group, literal in zip(self.groups, self.literals[1:], strict=True):
            parts.append("".join("2000" if f == "Y" else "01" for f in group.fields) + literal)
        return "".join(parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the columns that `read_parts` gives, in order."""
        return DATE_PARTS + (TIME_PARTS if self.has_time else ())


def _unsupported(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"date pattern '{clip(text)}' can't be read; it has to name %Y and %m, may name %d, "
        "%H, %M, %S and %f; other text in it has no digits",
        reason="DATE_PATTERN",
    )


def read_parts(cells: Sequence[str], pattern: DatePattern) -> Floats:
    """[cells, pattern.parts]; NaN in all of them where a cell is missing or no date."""
    matcher = re.compile(pattern.expression)
    order = [group.fields for group in pattern.groups]
    numbers = np.zeros((len(cells), len(order)), dtype=np.int64)
    matched = np.zeros(len(cells), dtype=np.bool_)
    for row, cell in enumerate(cells):
        match = matcher.fullmatch(cell)
        if match:
            matched[row] = True
            numbers[row] = [int(text) for text in match.groups()]
    fields: dict[str, Integers] = {}
    for index, names in enumerate(order):
        rest = numbers[:, index]
        for name in reversed(names):
            size = 10 ** WIDTHS[name]
            fields[name] = rest % size if len(names) > 1 else rest
            rest = rest // size
    return _parts(fields, matched, pattern)


def _parts(
    fields: dict[str, Integers], matched: npt.NDArray[np.bool_], pattern: DatePattern
) -> Floats:
    zero = np.zeros(len(matched), dtype=np.int64)
    year, month, day = fields["Y"], fields["m"], fields.get("d", zero + 1)
    hour, minute, second = (fields.get(name, zero) for name in "HMS")
    known = matched & (year >= 1) & (month >= 1) & (month <= 12)
    safe_year, safe_month = np.where(known, year, 2000), np.where(known, month, 1)
    leap = (safe_year % 4 == 0) & ((safe_year % 100 != 0) | (safe_year % 400 == 0))
    length = np.array(DAYS_IN)[safe_month] + (leap & (safe_month == 2))
    valid = known & (day >= 1) & (day <= length) & (hour <= 23) & (minute <= 59) & (second <= 59)
    day_of_year = np.array(DAYS_BEFORE)[safe_month] + (leap & (safe_month > 2)) + day
    past = safe_year - 1
    days = past * 365 + past // 4 - past // 100 + past // 400 + day_of_year - 1
    seconds = hour * 3600 + minute * 60 + second
    # 0001-01-01 was a Monday: weekday 0.
    columns = [year, month, day, days % 7, day_of_year]
    epoch = (days - EPOCH_DAYS).astype(np.float64)
    if pattern.has_time:
        epoch = epoch + seconds.astype(np.float64) / 86400.0
    table = np.stack([*(column.astype(np.float64) for column in columns), epoch], axis=1)
    if pattern.has_time:
        table = np.concatenate([table, np.stack([hour, minute], axis=1).astype(np.float64)], axis=1)
    return np.where(valid[:, None], table, np.nan)


def epoch_days(cells: Sequence[str], pattern: DatePattern) -> Floats:
    """Days since 1970-01-01 with the time of day as fraction; NaN where a cell is no date.

    For rows that are divided by time (`TrialTask.times`).
    """
    return read_parts(cells, pattern)[:, pattern.parts.index("epoch_days")]

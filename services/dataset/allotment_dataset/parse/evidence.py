"""First reading: what the cells of each column look like, and so how they are to be converted.

Nothing here depends on where batches end: the same cells in the same order give the same plan.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from allotment_core.errors import InvalidArgument, clip
from allotment_dataset.domain.table import ColumnType, Notice
from allotment_dataset.parse import cells

_KEPT_ODD = 40
_KEPT_EXAMPLES = 3
_SAMPLED_CELLS = 4096
_ID_NAME = re.compile(
    r"(?i:^(id|key|index|idx|uuid|guid|row|rowid|row_?n(o|r|um|umber)?|unnamed: ?\d+|column_1)$)"
    r"|(?i:[_\W](id|key|uuid|guid|nr|no|number|index)$)|(?i:^(id)[_\W])|[a-z](Id|ID)$"
)
LEAST_UNIQUE_ROWS = 20
"""Rows below which a column of unique cells is not taken for an identifier."""


class Odd:
    """The few distinct cells that don't fit a reading; gives up beyond a bound."""

    def __init__(self) -> None:
        self.values: dict[str, None] = {}
        self.too_many = False

    def add(self, texts: Any) -> None:
        if self.too_many:
            return
        self.values.update(dict.fromkeys(pc.unique(texts).slice(0, _KEPT_ODD + 1).to_pylist()))
        if len(self.values) > _KEPT_ODD:
            self.too_many = True

    def within(self, markers: frozenset[str]) -> bool:
        return not self.too_many and self.values.keys() <= markers


@dataclass(slots=True, kw_only=True)
class Evidence:
    """What the text cells of one column looked like so far.

    Text alone: typed numbers need no evidence.
    """

    name: str
    wants_ids: bool = False
    present: bool = False
    blanks: bool = False
    odd: Mapping[str, Odd] = field(default_factory=lambda: {".": Odd(), ",": Odd()})
    numbers: set[str] = field(default_factory=set)
    has_dot: bool = False
    has_comma: bool = False
    clear_comma: bool = False
    inexact: bool = False
    dates: dict[str, Odd] | None = None
    dates_markers: Odd = field(default_factory=Odd)
    integers: list[Any] | None = field(default_factory=list)

    def add(self, array: Any) -> None:
        """Takes the column's cells of one more batch."""
        distinct = array if self._mostly_distinct(array) else pc.unique(array)
        trimmed = cells.trim(distinct)
        empty = pc.equal(trimmed, "")
        if pc.any(empty).as_py():
            self.blanks = self.blanks or pc.any(pc.and_(empty, pc.not_equal(distinct, ""))).as_py()
            trimmed = trimmed.filter(pc.invert(empty))
        if not len(trimmed):
            self.integers = None
            return
        self.present = True
        strange = self._add_numbers(trimmed)
        if len(strange):
            self._add_dates(trimmed)
        else:
            self.dates = {}
        if self.integers is not None and self.wants_ids:
            self._add_integers(array, complete=not len(strange) and len(array) == len(distinct))

    def _mostly_distinct(self, array: Any) -> bool:
        """Whether looking at each of its cells costs less than finding the distinct ones."""
        if self.wants_ids or len(array) <= _SAMPLED_CELLS:
            return False
        sample = array.slice(0, _SAMPLED_CELLS)
        values = cells.plain_numbers(sample.filter(pc.greater(pc.binary_length(sample), 0)))
        return values is not None and len(np.unique(values)) > _SAMPLED_CELLS // 2

    def _add_numbers(self, trimmed: Any) -> Any:
        """Sorts cells into numbers and odd ones; gives those that are no numbers with a dot."""
        if self.odd["."].too_many and self.odd[","].too_many:
            return trimmed
        if (values := cells.plain_numbers(trimmed)) is not None:
            self._look_at(trimmed, values)
            return trimmed.slice(0, 0)
        mask = cells.is_number(trimmed, ".")
        numeric = trimmed.filter(mask)
        strange = trimmed.filter(pc.invert(mask))
        if len(numeric):
            self._look_at(numeric, None)
        if len(strange):
            self.odd["."].add(strange)
            comma = cells.is_number(strange, ",")
            numbers = strange.filter(comma)
            if len(numbers):
                self.has_comma = True
                grouped = cells.is_grouped(numbers)
                self.clear_comma = self.clear_comma or not pc.all(grouped).as_py()
            self.odd[","].add(strange.filter(pc.invert(comma)))
            self._count_numbers(numbers)
        return strange

    def _look_at(self, numeric: Any, values: cells.Floats | None) -> None:
        if not (self.has_dot and self.odd[","].too_many):
            dotted = pc.match_substring(numeric, ".")
            if pc.any(dotted).as_py():
                self.has_dot = True
                self.odd[","].add(numeric.filter(dotted))
        self._count_numbers(numeric)
        if not self.inexact:
            values = cells.to_numbers(numeric, ".") if values is None else values
            if cells.overflowing(numeric, values):
                self.odd["."].add(numeric.filter(pa.array(np.isinf(values))))
            self.inexact = cells.inexact_integers(numeric)

    def _count_numbers(self, numeric: Any) -> None:
        """While there may be few: a column that is not looked at cell by cell has many in its
        sample.
        """
        if len(self.numbers) <= cells.FEW_VALUES:
            distinct = pc.unique(numeric.slice(0, _SAMPLED_CELLS))
            self.numbers.update(distinct.slice(0, 4 * cells.FEW_VALUES).to_pylist())

    def _add_dates(self, trimmed: Any) -> None:
        if self.dates is None:
            first = next((t for t in trimmed.to_pylist() if t not in cells.STRONG_MARKERS), None)
            if first is None:
                self.dates_markers.add(trimmed)
                return
            fitting = [f for f in cells.DATE_FORMATS if re.match(cells.date_regex(f), first)]
            self.dates = {f: Odd() for f in fitting}
        for date_format in list(self.dates):
            odd = self.dates[date_format]
            odd.add(trimmed.filter(pc.invert(cells.is_date(trimmed, date_format))))
            if not odd.within(cells.STRONG_MARKERS):
                del self.dates[date_format]

    def _add_integers(self, array: Any, *, complete: bool) -> None:
        if not complete or self.inexact or self.has_dot:
            self.integers = None
            return
        values = cells.to_numbers(pc.utf8_trim_whitespace(array), ".")
        if not np.all(np.mod(values, 1) == 0):
            self.integers = None
        elif self.integers is not None:
            self.integers.append(values)

    def all_distinct_integers(self) -> bool:
        if not self.integers:
            return False
        values = np.concatenate(self.integers)
        return len(values) >= LEAST_UNIQUE_ROWS and len(np.unique(values)) == len(values)

    def markers(self, *, is_target: bool) -> frozenset[str]:
        """Cells that may mean "missing" if this column holds numbers."""
        if len(self.numbers) > cells.FEW_VALUES:
            return cells.STRONG_MARKERS | cells.WEAK_MARKERS
        return frozenset() if is_target else cells.STRONG_MARKERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a column's cells are converted.

    `type` is NUMERIC, DATE, ID, or CATEGORICAL for any other text.

    `typed`: the source itself gives numbers. `markers`: cells that are missing beside blank ones.
    """

    name: str
    type: ColumnType
    decimal: str = "."
    markers: frozenset[str] = frozenset()
    date_format: str = ""
    typed: bool = False
    notices: tuple[Notice, ...] = ()


def named_like_id(name: str) -> bool:
    """True for names such as "id", "customer_id", "PassengerId"."""
    return _ID_NAME.search(name) is not None


def find_decimal(evidence: Iterable[Evidence], *, target: str) -> str:
    """The file's decimal mark: "," when a column has numbers with it, beyond doubt, and none has
    them with ".".
    """
    comma = False
    for e in evidence:
        markers = e.markers(is_target=e.name == target)
        if e.has_dot and e.odd["."].within(markers):
            return "."
        if e.clear_comma and e.odd[","].within(markers):
            comma = True
    return "," if comma else "."


def plan_column(
    evidence: Evidence, *, decimal: str, wanted: ColumnType, is_target: bool, may_be_id: bool
) -> Plan:
    """The conversion of a text column. A wanted type is obeyed.

    Raises: InvalidArgument NOT_NUMBERS, NOT_DATES when cells don't fit the wanted type.
    """
    name = evidence.name
    if wanted in (ColumnType.CATEGORICAL, ColumnType.TEXT, ColumnType.ID):
        return Plan(name=name, type=wanted)
    if wanted is ColumnType.NUMERIC:
        return _wanted_numbers(evidence, decimal)
    if wanted is ColumnType.DATE:
        return _wanted_dates(evidence)
    markers = evidence.markers(is_target=is_target)
    numeric = bool(evidence.numbers) and evidence.odd[decimal].within(markers)
    if numeric and evidence.inexact:
        return Plan(name=name, type=ColumnType.CATEGORICAL, notices=(large_integers(name),))
    if numeric and may_be_id and named_like_id(name) and evidence.all_distinct_integers():
        return Plan(name=name, type=ColumnType.ID)
    if numeric:
        return _numbers(evidence, decimal, markers)
    if evidence.dates:
        return _dates(evidence)
    notices: tuple[Notice, ...] = ()
    if evidence.has_comma and decimal == "." and evidence.odd[","].within(markers):
        message = (
            f"{name!r} has numbers with commas such as '1,234', which may be thousands or "
            "decimals; they are kept as strings: write them without commas"
        )
        notices = (Notice(reason="COMMAS_IN_NUMBERS", message=message, column=name),)
    return Plan(name=name, type=ColumnType.CATEGORICAL, notices=notices)


def large_integers(name: str) -> Notice:
    message = (
        f"{name!r} has integers beyond 2^53, which float64 can't hold; they are kept as strings"
    )
    return Notice(reason="LARGE_INTEGERS", message=message, column=name)


def _numbers(evidence: Evidence, decimal: str, markers: frozenset[str]) -> Plan:
    name = evidence.name
    notices: list[Notice] = []
    if evidence.blanks:
        message = f"{name!r} holds numbers, but some cells are white space alone; they are read "
        "as missing"
        notices.append(Notice(reason="BLANK_IN_NUMBERS", message=message, column=name))
    used = frozenset(evidence.odd[decimal].values)
    if used:
        notices.append(_marker_notice(name, used))
    return Plan(
        name=name,
        type=ColumnType.NUMERIC,
        decimal=decimal,
        markers=used & markers,
        notices=tuple(notices),
    )


def _dates(evidence: Evidence) -> Plan:
    formats = list(evidence.dates or ())
    name, chosen = evidence.name, formats[0]
    used = frozenset((evidence.dates or {})[chosen].values) | evidence.dates_markers.values.keys()
    notices = [_marker_notice(name, used)] if used else []
    if len(formats) > 1 and "%m" in chosen:
        message = (
            f"the dates in {name!r} read by {' or '.join(formats)}; {chosen} was taken: "
            "write them as 2026-12-31 to be sure"
        )
        notices.append(Notice(reason="AMBIGUOUS_DATES", message=message, column=name))
    return Plan(
        name=name,
        type=ColumnType.DATE,
        markers=frozenset(used),
        date_format=chosen,
        notices=tuple(notices),
    )


def _wanted_numbers(evidence: Evidence, decimal: str) -> Plan:
    markers = cells.STRONG_MARKERS | cells.WEAK_MARKERS
    odd = evidence.odd[decimal]
    if not odd.within(markers):
        examples = [v for v in odd.values if v not in markers][:_KEPT_EXAMPLES]
        raise InvalidArgument(
            f"column {clip(evidence.name)!r} was asked to be numeric, but has cells such as "
            f"{', '.join(repr(clip(e, 40)) for e in examples)}; mend them, or leave its type out",
            reason="NOT_NUMBERS",
        )
    return _numbers(evidence, decimal, markers)


def _wanted_dates(evidence: Evidence) -> Plan:
    if not evidence.dates and evidence.present:
        raise InvalidArgument(
            f"column {clip(evidence.name)!r} was asked to be dates, but its cells are not all "
            "spelt by one "
            f"of {', '.join(cells.DATE_FORMATS[:8])}, ...; write them as 2026-12-31",
            reason="NOT_DATES",
        )
    return _dates(evidence) if evidence.dates else Plan(name=evidence.name, type=ColumnType.DATE)


def _marker_notice(name: str, used: Iterable[str]) -> Notice:
    shown = ", ".join(repr(m) for m in sorted(used)[:5])
    return Notice(
        reason="MISSING_MARKERS",
        message=f"cells {shown} of {name!r} are read as missing",
        column=name,
    )

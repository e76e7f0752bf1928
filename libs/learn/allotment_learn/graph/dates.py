"""`dates.read_parts` as a graph: expression, splits at the literals, integer arithmetic."""

import numpy as np
from onnx import TensorProto

from allotment_learn.dates import (
    DAYS_BEFORE,
    DAYS_IN,
    EPOCH_DAYS,
    WIDTHS,
    DatePattern,
)
from allotment_learn.graph.builder import GraphBuilder


def write_date_parts(build: GraphBuilder, cells: str, pattern: DatePattern) -> str:
    """From strings [N, 1] to doubles [N, len(pattern.parts)]."""
    matched = build.node("RegexFullMatch", cells, pattern=pattern.expression)
    # Cells that are no date are read as one that is, so that no step can fail; undone at the end.
    safe = build.node("Where", matched, cells, build.strings([pattern.example], [1, 1]))
    return _Arithmetic(build, _fields(build, safe, pattern), matched, pattern).write()


def _fields(build: GraphBuilder, cells: str, pattern: DatePattern) -> dict[str, str]:
    fields: dict[str, str] = {}
    rest = cells
    if pattern.literals[0]:
        rest = _split(build, rest, pattern.literals[0], 1)
    for group, literal in zip(pattern.groups, pattern.literals[1:], strict=True):
        text = rest
        if literal:
            text, rest = _split(build, rest, literal, 0), _split(build, rest, literal, 1)
        number = build.node("Cast", text, to=TensorProto.INT64)
        for name in reversed(group.fields):
            if len(group.fields) == 1:
                fields[name] = number
                continue
            size = build.constant(10 ** WIDTHS[name])
            fields[name] = build.node("Mod", number, size)
            number = build.node("Div", number, size)
    return fields


def _split(build: GraphBuilder, cells: str, literal: str, place: int) -> str:
    """What stands before (0) or behind (1) the first literal; every cell has one."""
    # One row more that surely splits: without any row the result would have no second column.
    example = build.strings([f"a{literal}a"], [1, 1])
    padded = build.node("Concat", cells, example, axis=0)
    pieces, count = build.name(), build.name()
    build.split(padded, pieces, count, literal)
    piece = build.node("Gather", pieces, build.constant(place), axis=2)
    ends = (build.constant(np.array([0])), build.constant(np.array([-1])))
    return build.node("Slice", piece, *ends)


class _Arithmetic:
    """The steps of `dates._parts`, in the same order."""

    def __init__(
        self, build: GraphBuilder, fields: dict[str, str], matched: str, pattern: DatePattern
    ) -> None:
        self._build = build
        self._fields = fields
        self._matched = matched
        self._pattern = pattern

    def _op(self, kind: str, left: str, right: str | int) -> str:
        other = right if isinstance(right, str) else self._build.constant(right)
        return self._build.node(kind, left, other)

    def _all(self, *flags: str) -> str:
        result = flags[0]
        for flag in flags[1:]:
            result = self._op("And", result, flag)
        return result

    def _between(self, number: str, low: int, high: int | str) -> str:
        above = self._op("GreaterOrEqual", number, low)
        return self._op("And", above, self._op("LessOrEqual", number, high))

    def _where(self, flag: str, number: str, other: int) -> str:
        return self._build.node("Where", flag, number, self._build.constant(other))

    def _lookup(self, table: tuple[int, ...], places: str) -> str:
        return self._build.node("Gather", self._build.constant(np.array(table)), places)

    def _integer(self, flag: str) -> str:
        return self._build.node("Cast", flag, to=TensorProto.INT64)

    def write(self) -> str:
        fields, has_time = self._fields, self._pattern.has_time
        zero = self._op("Mul", fields["Y"], 0)
        first = self._op("Add", zero, 1)
        year, month, day = fields["Y"], fields["m"], fields.get("d", first)
        clock = {name: fields.get(name, zero) for name in "HMS"}
        known = self._all(
            self._matched, self._op("GreaterOrEqual", year, 1), self._between(month, 1, 12)
        )
        safe_year, safe_month = self._where(known, year, 2000), self._where(known, month, 1)
        leap = self._leap(safe_year)
        february = self._op("And", leap, self._op("Equal", safe_month, 2))
        length = self._op("Add", self._lookup(DAYS_IN, safe_month), self._integer(february))
        valid = self._all(
            known,
            self._between(day, 1, length),
            *(
                self._op("LessOrEqual", clock[name], limit)
                for name, limit in (("H", 23), ("M", 59), ("S", 59))
                if name in fields
            ),
        )
        later = self._op("And", leap, self._op("Greater", safe_month, 2))
        before = self._op("Add", self._lookup(DAYS_BEFORE, safe_month), self._integer(later))
        day_of_year = self._op("Add", before, day)
        days = self._days(safe_year, day_of_year)
        columns = [year, month, day, self._op("Mod", days, 7), day_of_year]
        epoch = self._build.double(self._op("Sub", days, EPOCH_DAYS))
        if has_time:
            epoch = self._op("Add", epoch, self._share_of_day(clock))
        parts = [*(self._build.double(column) for column in columns), epoch]
        if has_time:
            parts += [self._build.double(clock["H"]), self._build.double(clock["M"])]
        table = self._build.node("Concat", *parts, axis=1)
        return self._build.node("Where", valid, table, self._build.constant(float("nan")))

    def _leap(self, year: str) -> str:
        fourth = self._op("Equal", self._op("Mod", year, 4), 0)
        century = self._op("Equal", self._op("Mod", year, 100), 0)
        fourth_century = self._op("Equal", self._op("Mod", year, 400), 0)
        usual = self._op("Or", self._build.node("Not", century), fourth_century)
        return self._op("And", fourth, usual)

    def _days(self, year: str, day_of_year: str) -> str:
        past = self._op("Sub", year, 1)
        days = self._op("Mul", past, 365)
        days = self._op("Add", days, self._op("Div", past, 4))
        days = self._op("Sub", days, self._op("Div", past, 100))
        days = self._op("Add", days, self._op("Div", past, 400))
        return self._op("Sub", self._op("Add", days, day_of_year), 1)

    def _share_of_day(self, clock: dict[str, str]) -> str:
        hours = self._op("Mul", clock["H"], 3600)
        minutes = self._op("Mul", clock["M"], 60)
        seconds = self._op("Add", self._op("Add", hours, minutes), clock["S"])
        return self._build.node("Div", self._build.double(seconds), self._build.constant(86400.0))

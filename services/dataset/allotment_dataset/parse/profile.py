"""Statistics of converted columns, batch by batch, in bounded memory."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from allotment_dataset.domain.table import ColumnStatistics, Spelling, ValueCount
from allotment_dataset.parse.cells import number_text
from allotment_dataset.parse.sources import RawColumn

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

MOST_DISTINCT = 100_000
MOST_SPELLINGS = 1_000
MOST_HASHED_ROWS = 20_000_000
_TOP_VALUES = 10
_SHOWN_CHARACTERS = 80
_LONGEST_SPELLING = 64


class NumberProfile:
    """Of a float64 column."""

    def __init__(self, *, most_distinct: int = MOST_DISTINCT) -> None:
        self._most = most_distinct
        self.row_count = 0
        self.missing_count = 0
        self._values: Floats = np.empty(0)
        self._counts: Counts = np.empty(0, dtype=np.int64)
        self._count = 0
        self._mean = 0.0
        self._square_sum = 0.0
        self._low = np.inf
        self._high = -np.inf

    def add(self, column: Floats) -> None:
        present = column[~np.isnan(column)]
        self.row_count += len(column)
        self.missing_count += len(column) - len(present)
        if not len(present):
            return
        self._add_moments(present[np.isfinite(present)])
        values, counts = np.unique(present + 0.0, return_counts=True)
        self._merge(values, counts.astype(np.int64))

    def _add_moments(self, finite: Floats) -> None:
        if not len(finite):
            return
        self._low = min(self._low, float(finite.min()))
        self._high = max(self._high, float(finite.max()))
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(finite.mean())
            square_sum = float(((finite - mean) ** 2).sum())
            count = len(finite)
            delta, total = mean - self._mean, self._count + count
            self._square_sum += square_sum + delta * delta * self._count * count / total
            self._mean += delta * count / total
        self._count = total

    def _merge(self, values: Floats, counts: Counts) -> None:
        """Takes ascending values. Beyond the bound only those that are known already count on."""
        if len(self._values) >= self._most:
            places = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
            known = self._values[places] == values
            self._counts[places[known]] += counts[known]
            return
        if len(self._values):
            both = np.concatenate([self._values, values])
            merged, inverse = np.unique(both, return_inverse=True)
            sums = np.zeros(len(merged), dtype=np.int64)
            np.add.at(sums, inverse, np.concatenate([self._counts, counts]))
            values, counts = merged, sums
        self._values, self._counts = values[: self._most].copy(), counts[: self._most].copy()

    def values(self) -> list[float]:
        """The distinct values, ascending; the lowest ones when there are more than are counted."""
        return [float(v) for v in self._values]

    @property
    def distinct_count(self) -> int:
        return len(self._values)

    @property
    def present_count(self) -> int:
        return self.row_count - self.missing_count

    def statistics(
        self, spellings: tuple[Spelling, ...], top: int = _TOP_VALUES
    ) -> ColumnStatistics:
        spelt = {s.value: s.text for s in spellings}
        order = np.lexsort((self._values, -self._counts))[:top]
        tops = tuple(
            ValueCount(
                value=spelt.get(float(self._values[i])) or number_text(float(self._values[i])),
                count=int(self._counts[i]),
            )
            for i in order
        )
        spread = np.sqrt(self._square_sum / self._count) if self._count else np.nan
        return ColumnStatistics(
            missing_count=self.missing_count,
            distinct_count=self.distinct_count,
            longest_cell=max((len(t.value) for t in tops), default=0),
            minimum=_finite(self._low),
            maximum=_finite(self._high),
            mean=_finite(self._mean) if self._count else None,
            standard_deviation=_finite(float(spread)),
            top_values=tops,
        )


class TextProfile:
    """Of a string column."""

    def __init__(self, *, most_distinct: int = MOST_DISTINCT) -> None:
        self._most = most_distinct
        self.row_count = 0
        self.missing_count = 0
        self._longest = 0
        self._letters = 0
        self._words = 0
        self._table: Any = None

    def add(self, column: Any) -> None:
        counted = pc.value_counts(column)
        values, counts = counted.field(0), counted.field(1)
        present = pc.not_equal(values, "")
        self.row_count += len(column)
        total = int(pc.sum(counts.filter(present)).as_py() or 0)
        self.missing_count += len(column) - total
        values, counts = values.filter(present), counts.filter(present)
        if not len(values):
            return
        lengths = pc.utf8_length(values)
        self._longest = max(self._longest, int(pc.max(lengths).as_py()))
        self._letters += int(pc.sum(pc.multiply(lengths.cast(pa.int64()), counts)).as_py())
        words = pc.add(pc.count_substring(values, " "), 1)
        self._words += int(pc.sum(pc.multiply(words.cast(pa.int64()), counts)).as_py())
        self._merge(pa.table({"value": values, "count": counts}))

    def _merge(self, table: Any) -> None:
        if self._table is not None:
            if len(self._table) >= self._most:
                known = pc.is_in(table["value"], self._table["value"].combine_chunks())
                table = table.filter(known)
            both = pa.concat_tables([self._table, table]).group_by("value", use_threads=False)
            table = both.aggregate([("count", "sum")]).rename_columns(["value", "count"])
        self._table = table.slice(0, self._most)

    @property
    def distinct_count(self) -> int:
        return 0 if self._table is None else len(self._table)

    @property
    def all_unique(self) -> bool:
        """No present cell is there twice (beyond the counted values: none of the counted ones
        is).
        """
        return self._table is not None and pc.max(self._table["count"]).as_py() == 1

    @property
    def present_count(self) -> int:
        return self.row_count - self.missing_count

    @property
    def mean_words(self) -> float:
        return self._words / max(1, self.present_count)

    @property
    def mean_letters(self) -> float:
        return self._letters / max(1, self.present_count)

    def statistics(self, top: int = _TOP_VALUES) -> ColumnStatistics:
        tops: tuple[ValueCount, ...] = ()
        if self._table is not None:
            order = [("count", "descending"), ("value", "ascending")]
            rows = self._table.take(pc.sort_indices(self._table, sort_keys=order)[:top])
            tops = tuple(
                ValueCount(value=r["value"][:_SHOWN_CHARACTERS], count=r["count"])
                for r in rows.to_pylist()
            )
        return ColumnStatistics(
            missing_count=self.missing_count,
            distinct_count=self.distinct_count,
            longest_cell=self._longest,
            top_values=tops,
        )


class SpellingBook:
    """How each number of a column was spelt first, while there are few."""

    def __init__(self) -> None:
        self._first: dict[float, str] = {}
        self._open = True

    def seed(self, profile: NumberProfile, spellings: tuple[Spelling, ...]) -> None:
        """Takes over an earlier version's values: those without a spelling had the shortest one."""
        self._open = profile.distinct_count <= MOST_SPELLINGS
        if self._open:
            self._first = {v: number_text(v) for v in profile.values() if np.isfinite(v)}
            self._first.update((s.value, s.text) for s in spellings)

    def add(self, raw: RawColumn, column: Floats) -> None:
        """`raw` are the cells of the numbers in `column`."""
        if not self._open or isinstance(raw, np.ndarray):
            return
        values, places = np.unique(column[~np.isnan(column)], return_index=True)
        if len(values) > MOST_SPELLINGS:
            self._open = False
            return
        texts = raw.filter(pa.array(~np.isnan(column)))
        for place, value in sorted(zip(places.tolist(), values.tolist(), strict=True)):
            self._first.setdefault(value + 0.0, texts[place].as_py().strip())
        self._open = len(self._first) <= MOST_SPELLINGS

    def spellings(self) -> tuple[Spelling, ...]:
        """Those that differ from the shortest spelling; none when the column has too many
        values.
        """
        if not self._open:
            return ()
        return tuple(
            Spelling(value=v, text=t)
            for v, t in sorted(self._first.items())
            if np.isfinite(v) and t != number_text(v) and len(t) <= _LONGEST_SPELLING
        )


class RowHashes:
    """Counts rows that are the same as an earlier one, by 64-bit hashes; of the first 20 million
    rows.
    """

    def __init__(self) -> None:
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._row_count = 0

    def add(self, columns: list[RawColumn]) -> None:
        if self._row_count >= MOST_HASHED_ROWS:
            return
        mixed = np.zeros(len(columns[0]), dtype=np.uint64)
        with np.errstate(over="ignore"):
            for column in columns:
                mixed = (mixed ^ _cell_hashes(column)) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(29)
        self._hashes.append(mixed)
        self._row_count += len(mixed)

    def duplicate_count(self) -> int:
        if not self._hashes:
            return 0
        hashes = np.sort(np.concatenate(self._hashes))
        return int((hashes[1:] == hashes[:-1]).sum())


def _cell_hashes(column: RawColumn) -> npt.NDArray[np.uint64]:
    if isinstance(column, np.ndarray):
        bits = np.where(np.isnan(column), np.nan, column + 0.0).view(np.uint64)
        mixed = (bits ^ (bits >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        return np.asarray(mixed, dtype=np.uint64)
    coded = column.dictionary_encode()
    of_value = np.array([hash(text) for text in coded.dictionary.to_pylist()], dtype=np.int64)
    hashes = of_value.view(np.uint64)
    return np.asarray(hashes[coded.indices.to_numpy(zero_copy_only=False)], dtype=np.uint64)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

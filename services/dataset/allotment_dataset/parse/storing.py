"""The second reading: rows are converted, stored and counted."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from allotment_dataset.domain.parsing import ImportJob
from allotment_dataset.domain.table import (
    Column,
    ColumnOverride,
    ColumnRole,
    ColumnType,
    Notice,
    Part,
    Spelling,
)
from allotment_dataset.parse.convert import convert
from allotment_dataset.parse.evidence import Plan
from allotment_dataset.parse.profile import (
    MOST_DISTINCT,
    NumberProfile,
    RowHashes,
    SpellingBook,
    TextProfile,
)
from allotment_dataset.parse.roles import column_notices, text_type, with_role
from allotment_dataset.parse.sources import Batch, RawColumn, Source

PROGRESS_PARSED = 0.4
PROGRESS_PROFILED = 0.9
_MOST_SPELLINGS = 20_000
_FULL_STATISTICS_COLUMNS = 300
_SAMPLED_ROWS = 4096
_DISTINCT_BUDGET = 20_000_000

Report = Callable[[str, float], None]


class TableWriter:
    """One import's rows on their way into a part."""

    def __init__(self, job: ImportJob, plans: Mapping[str, Plan]) -> None:
        self._job = job
        base = {c.name: c for c in job.base.columns} if job.base else {}
        # Columns keep the order of the version before: parts are alike.
        self._plans = {n: plans[n] for n in base} if base else dict(plans)
        self._base = base
        most = max(2_000, min(MOST_DISTINCT, _DISTINCT_BUDGET // max(1, len(plans))))
        self._profiles: dict[str, NumberProfile | TextProfile] = {
            name: NumberProfile(most_distinct=most)
            if plan.type is ColumnType.NUMERIC
            else TextProfile(most_distinct=most)
            for name, plan in self._plans.items()
        }
        self._books = {
            name: SpellingBook()
            for name, plan in self._plans.items()
            if plan.type is ColumnType.NUMERIC and not plan.typed
        }
        self._hashes = RowHashes()
        self.row_count = 0
        self.duplicate_row_count = 0

    def write(self, source: Source, path: Path, report: Report) -> Part:
        """Stores the source's rows as one Parquet file, the same bytes for the same rows and
        batches.
        """
        self._take_base()
        first_row = 1
        writer: Any = None
        try:
            for batch, count, share in source.batches():
                columns = self._convert(batch, first_row)
                self._count(columns, count)
                first_row += count
                writer = writer or self._writer(path, columns)
                writer.write_batch(
                    pa.record_batch([pa.array(c) for c in columns.values()], schema=self._schema())
                )
                done = PROGRESS_PARSED + (PROGRESS_PROFILED - PROGRESS_PARSED) * share
                report("PROFILE", done)
            writer = writer or self._writer(path, {})
        finally:
            if writer is not None:
                writer.close()
        self.duplicate_row_count = self._hashes.duplicate_count()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Part(sha256=digest, size_bytes=path.stat().st_size)

    def _writer(self, path: Path, first: Mapping[str, RawColumn]) -> Any:
        """Dictionaries are for columns that repeat themselves: for others they only cost time."""
        mostly_distinct = {
            name
            for name, column in first.items()
            if isinstance(column, np.ndarray)
            and len(np.unique(column[:_SAMPLED_ROWS])) > len(column[:_SAMPLED_ROWS]) // 2
        }
        return pq.ParquetWriter(
            path,
            self._schema(),
            compression="zstd",
            use_dictionary=[name for name in self._plans if name not in mostly_distinct],
            write_statistics=False,
            store_schema=False,
        )

    def _take_base(self) -> None:
        for path in self._job.base_paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(use_threads=False):
                    columns = {
                        name: _stored(batch.column(name), plan)
                        for name, plan in self._plans.items()
                    }
                    self._count(columns, batch.num_rows)
        for name, book in self._books.items():
            profile = self._profiles[name]
            if name in self._base and isinstance(profile, NumberProfile):
                book.seed(profile, self._base[name].spellings)

    def _convert(self, batch: Batch, first_row: int) -> dict[str, RawColumn]:
        columns: dict[str, RawColumn] = {}
        for name, plan in self._plans.items():
            columns[name] = convert(batch[name], plan, first_row=first_row)
            if name in self._books:
                self._books[name].add(batch[name], columns[name])
        return columns

    def _count(self, columns: Mapping[str, RawColumn], count: int) -> None:
        self.row_count += count
        for name, column in columns.items():
            self._profiles[name].add(column)
        self._hashes.add(list(columns.values()))

    def _schema(self) -> Any:
        return pa.schema(
            pa.field(
                name,
                pa.float64() if plan.type is ColumnType.NUMERIC else pa.string(),
                nullable=False,
            )
            for name, plan in self._plans.items()
        )

    def columns(
        self, overrides: Mapping[str, ColumnOverride]
    ) -> tuple[tuple[Column, ...], list[Notice]]:
        """The columns with types, roles and statistics, and the warnings about them."""
        spellings = self._spellings()
        top = 10 if len(self._plans) <= _FULL_STATISTICS_COLUMNS else 3
        columns: list[Column] = []
        notices: list[Notice] = []
        for name, plan in self._plans.items():
            column = self._column(plan, spellings.get(name, ()), top, overrides.get(name))
            column = with_role(
                column,
                self.row_count,
                overrides.get(name),
                is_target=name == self._job.target_hint,
            )
            columns.append(column)
            notices += (*plan.notices, *column_notices(column, self.row_count))
        if self.duplicate_row_count:
            message = (
                f"{self.duplicate_row_count} of {self.row_count} rows are the same as an earlier "
                "one "
                "in every column"
            )
            notices.append(Notice(reason="DUPLICATE_ROWS", message=message))
        return tuple(columns), notices

    def _column(
        self,
        plan: Plan,
        spellings: tuple[Spelling, ...],
        top: int,
        override: ColumnOverride | None,
    ) -> Column:
        profile = self._profiles[plan.name]
        column_type = plan.type
        if isinstance(profile, NumberProfile):
            statistics = profile.statistics(spellings, top)
        else:
            statistics = profile.statistics(0 if column_type is ColumnType.ID else top)
            asked = override is not None and override.type is not ColumnType.UNSPECIFIED
            if column_type is ColumnType.CATEGORICAL and not asked and not self._base:
                free = override is None or override.role in (
                    ColumnRole.UNSPECIFIED,
                    ColumnRole.IGNORED,
                )
                free = free and plan.name != self._job.target_hint
                column_type = text_type(profile, may_be_id=free, may_be_text=free)
        return Column(
            name=plan.name,
            type=column_type,
            role=ColumnRole.FEATURE,
            statistics=statistics,
            date_format=plan.date_format,
            spellings=spellings,
        )

    def _spellings(self) -> dict[str, tuple[Spelling, ...]]:
        """Spellings by column, at most 20,000 in all: the target's first, then columns with few
        values.
        """
        by_name = {name: book.spellings() for name, book in self._books.items()}
        target = self._job.target_hint
        left = _MOST_SPELLINGS
        kept: dict[str, tuple[Spelling, ...]] = {}
        for name in sorted(by_name, key=lambda n: (n != target, len(by_name[n]))):
            if len(by_name[name]) <= left:
                kept[name] = by_name[name]
                left -= len(by_name[name])
        return kept


def _stored(column: Any, plan: Plan) -> RawColumn:
    if plan.type is ColumnType.NUMERIC:
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    return column

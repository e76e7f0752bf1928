"""A job of the parse child: what comes in, what goes out, and the steps between."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from allotment_core.errors import InvalidArgument, clip
from allotment_dataset.domain.column_names import require_column
from allotment_dataset.domain.parsing import ImportJob, ImportOutcome, InspectJob
from allotment_dataset.domain.table import (
    Column,
    ColumnOverride,
    ColumnRole,
    ColumnType,
    FileFormat,
    Inspection,
    Notice,
    Part,
    Reading,
    Spelling,
    TableContent,
    TaskType,
)
from allotment_dataset.parse.convert import convert
from allotment_dataset.parse.evidence import (
    Evidence,
    Plan,
    find_decimal,
    named_like_id,
    plan_column,
)
from allotment_dataset.parse.profile import (
    MOST_DISTINCT,
    NumberProfile,
    RowHashes,
    SpellingBook,
    TextProfile,
)
from allotment_dataset.parse.roles import (
    check_overrides,
    column_notices,
    text_type,
    with_role,
)
from allotment_dataset.parse.sniff import find_format
from allotment_dataset.parse.sources import (
    Batch,
    DelimitedSource,
    JsonLinesSource,
    RawColumn,
    Source,
)
from allotment_dataset.parse.target import inspect
from allotment_dataset.parse.typed_sources import ColumnarSource

PROGRESS_PARSED = 0.4
PROGRESS_PROFILED = 0.9
_MOST_SPELLINGS = 20_000
_FULL_STATISTICS_COLUMNS = 300
_DISTINCT_BUDGET = 20_000_000

Report = Callable[[str, float], None]


def run_inspection(job: InspectJob) -> Inspection:
    return inspect([Path(p) for p in job.paths], job.columns, job.target, job.task)


def run_import(job: ImportJob, report: Report) -> ImportOutcome:
    """Reads the file twice (what are its columns; convert, store and count), and looks at the
    target.
    """
    out_dir = Path(job.out_dir)
    source = _open(Path(job.source), job, out_dir)
    names = source.facts.names
    overrides = check_overrides(names, job.overrides)
    if job.target_hint:
        require_column(job.target_hint, names, reason="TARGET_NOT_FOUND", what="target")
    if job.base is not None:
        _check_agrees(names, job.base)
        overrides = _inherited(job.base.columns, overrides)
    plans, decimal = _first_reading(source, job, overrides, report)
    table = _Table(job, plans)
    part = table.write(source, out_dir / "part.parquet", report)
    columns, notices = table.columns(overrides)
    reading = _reading(source, job, plans, decimal)
    content = TableContent(
        columns=columns,
        parts=(*(job.base.parts if job.base else ()), part),
        row_count=table.row_count,
        duplicate_row_count=table.duplicate_row_count,
        reading=reading,
        source_sha256=job.source_sha256,
        warnings=source.facts.notices + tuple(notices),
    )
    paths = [*map(Path, job.base_paths), out_dir / "part.parquet"]
    return ImportOutcome(
        content=content,
        part_path=str(out_dir / "part.parquet"),
        inspection=_look_ahead(paths, columns, job.target_hint),
    )


def _look_ahead(paths: list[Path], columns: Sequence[Column], target: str) -> Inspection | None:
    """What InspectTarget will be asked next.

    A target that can't be learnt is that call's error, not the import's.
    """
    if not target:
        return None
    try:
        return inspect(paths, columns, target, TaskType.UNSPECIFIED)
    except InvalidArgument:
        return None


def _open(path: Path, job: ImportJob, work_dir: Path) -> Source:
    file_format = find_format(path, job.format)
    if file_format is FileFormat.JSONL:
        return JsonLinesSource(path, work_dir, max_columns=job.max_columns)
    if file_format is FileFormat.DELIMITED:
        return DelimitedSource(path, work_dir, max_columns=job.max_columns)
    return ColumnarSource(path, file_format, max_columns=job.max_columns)


def _check_agrees(names: Sequence[str], base: TableContent) -> None:
    there = {c.name for c in base.columns}
    missing, extra = sorted(there - set(names)), sorted(set(names) - there)
    if missing or extra:
        parts = [f"lacks {clip(', '.join(map(repr, missing)))}"] if missing else []
        parts += [f"has {clip(', '.join(map(repr, extra)))} beside them"] if extra else []
        raise InvalidArgument(
            f"the rows to append need the {len(there)} columns of the version before; the file "
            f"{' and '.join(parts)}: rename its columns, or import it as a new dataset",
            reason="COLUMNS_DISAGREE",
        )


def _inherited(
    columns: Sequence[Column], overrides: Mapping[str, ColumnOverride]
) -> Mapping[str, ColumnOverride]:
    """What earlier imports asked for goes on, unless this one asks for another role.

    Types can't change.
    """
    merged: dict[str, ColumnOverride] = {}
    special = (ColumnRole.WEIGHT, ColumnRole.GROUP, ColumnRole.TIME)
    for column in columns:
        asked = overrides.get(column.name)
        if asked and asked.type not in (ColumnType.UNSPECIFIED, column.type):
            raise InvalidArgument(
                f"column {clip(column.name)!r} is {column.type.value} in the version before and "
                "can't become "
                f"{asked.type.value} by an append; import everything as a new dataset",
                reason="COLUMNS_DISAGREE",
            )
        role = asked.role if asked else ColumnRole.UNSPECIFIED
        if role is ColumnRole.UNSPECIFIED:
            if column.role in special:
                role = column.role
            elif column.ignored_because == "BY_REQUEST":
                role = ColumnRole.IGNORED
        merged[column.name] = ColumnOverride(column=column.name, type=column.type, role=role)
    return merged


def _may_be_id(name: str, job: ImportJob, overrides: Mapping[str, ColumnOverride]) -> bool:
    override = overrides.get(name)
    free = override is None or (
        override.type is ColumnType.UNSPECIFIED
        and override.role in (ColumnRole.UNSPECIFIED, ColumnRole.IGNORED)
    )
    return free and name != job.target_hint


def _first_reading(
    source: Source, job: ImportJob, overrides: Mapping[str, ColumnOverride], report: Report
) -> tuple[dict[str, Plan], str]:
    facts = source.facts
    report("PARSE", 0.0)
    evidence = {
        name: Evidence(
            name=name, wants_ids=_may_be_id(name, job, overrides) and named_like_id(name)
        )
        for name in facts.names
        if name not in facts.number_names
    }
    for batch, _, share in source.batches():
        for name, e in evidence.items():
            e.add(batch[name])
        report("PARSE", PROGRESS_PARSED * share)
    decimal = find_decimal(evidence.values(), target=job.target_hint)
    base = {c.name: c for c in job.base.columns} if job.base else {}
    plans = {}
    for name in facts.names:
        known = evidence.get(name)
        wanted = overrides[name].type if name in overrides else ColumnType.UNSPECIFIED
        if name in base:
            plans[name] = _append_plan(base[name], known, decimal)
        elif known is None:
            numeric = wanted in (ColumnType.UNSPECIFIED, ColumnType.NUMERIC)
            if wanted is ColumnType.DATE:
                raise InvalidArgument(
                    f"column {clip(name)!r} holds numbers and can't be dates; leave its type out",
                    reason="NOT_DATES",
                )
            plans[name] = Plan(
                name=name, type=ColumnType.NUMERIC if numeric else wanted, typed=True
            )
        else:
            plans[name] = plan_column(
                known,
                decimal=decimal,
                wanted=wanted,
                is_target=name == job.target_hint,
                may_be_id=_may_be_id(name, job, overrides),
            )
    return plans, decimal


def _append_plan(column: Column, evidence: Evidence | None, decimal: str) -> Plan:
    if evidence is None or column.type not in (ColumnType.NUMERIC, ColumnType.DATE):
        return Plan(name=column.name, type=column.type, date_format=column.date_format)
    markers = evidence.markers(is_target=False)
    if column.type is ColumnType.NUMERIC:
        markers &= evidence.odd[decimal].values.keys()
    return Plan(
        name=column.name,
        type=column.type,
        decimal=decimal,
        markers=markers,
        date_format=column.date_format,
    )


def _reading(source: Source, job: ImportJob, plans: Mapping[str, Plan], decimal: str) -> Reading:
    facts = source.facts
    markers = {m for plan in plans.values() for m in plan.markers}
    if job.base is not None:
        known = job.base.reading
        return replace(known, missing_markers=tuple(sorted({*known.missing_markers, *markers})))
    is_text = facts.format in (FileFormat.DELIMITED, FileFormat.JSONL)
    return Reading(
        format=facts.format,
        encoding=facts.encoding,
        delimiter=facts.delimiter,
        decimal=decimal if is_text else "",
        missing_markers=tuple(sorted(markers)),
    )


class _Table:
    """The second reading: converts, stores and counts."""

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
        with pq.ParquetWriter(
            path, self._schema(), compression="zstd", write_statistics=False, store_schema=False
        ) as writer:
            for batch, count, share in source.batches():
                columns = self._convert(batch, first_row)
                self._count(columns, count)
                first_row += count
                writer.write_batch(
                    pa.record_batch([pa.array(c) for c in columns.values()], schema=self._schema())
                )
                done = PROGRESS_PARSED + (PROGRESS_PROFILED - PROGRESS_PARSED) * share
                report("PROFILE", done)
        self.duplicate_row_count = self._hashes.duplicate_count()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Part(sha256=digest, size_bytes=path.stat().st_size)

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

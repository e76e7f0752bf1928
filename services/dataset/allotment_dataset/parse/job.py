"""A job of the parse child: what comes in, what goes out, and the steps between."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

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
    Reading,
    TableContent,
    TaskType,
)
from allotment_dataset.parse.evidence import (
    Evidence,
    Plan,
    find_decimal,
    named_like_id,
    plan_column,
)
from allotment_dataset.parse.roles import check_overrides
from allotment_dataset.parse.sniff import find_format
from allotment_dataset.parse.sources import DelimitedSource, JsonLinesSource, Source
from allotment_dataset.parse.storing import PROGRESS_PARSED, Report, TableWriter
from allotment_dataset.parse.target import inspect
from allotment_dataset.parse.typed_sources import ColumnarSource


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
    table = TableWriter(job, plans)
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

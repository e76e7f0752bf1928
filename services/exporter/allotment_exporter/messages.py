"""Between the wire's messages and the domain."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from allotment_api.common.v1 import table_pb2
from allotment_api.exporter.v1 import exporter_pb2 as pb
from allotment_api.search.v1 import search_pb2
from allotment_core.errors import FieldViolation, InvalidArgument
from allotment_exporter.domain.exports import (
    Calibration,
    Export,
    Member,
    ModelSource,
    ParityReport,
    Precision,
    Task,
)

_TASKS = {
    table_pb2.TASK_TYPE_BINARY: Task.BINARY,
    table_pb2.TASK_TYPE_MULTICLASS: Task.MULTICLASS,
    table_pb2.TASK_TYPE_REGRESSION: Task.REGRESSION,
}
_PRECISIONS: Mapping[int, Precision] = {
    pb.PRECISION_UNSPECIFIED: Precision.EXACT,
    pb.PRECISION_EXACT: Precision.EXACT,
    pb.PRECISION_INT8: Precision.INT8,
}
_TASK_TYPES = {task: number for number, task in _TASKS.items()}


def to_source(message: search_pb2.ModelSource, precision: int = 0) -> ModelSource:
    """Raises: InvalidArgument for a task, metric or precision that this version does not know."""
    if precision not in _PRECISIONS:
        raise _bad("precision", f"{precision} is not a precision; EXACT and INT8 are")
    task = _TASKS.get(message.task)
    if task is None:
        raise _bad(
            "source.task", f"{message.task} is not a task; binary, multiclass, regression are"
        )
    metric = table_pb2.Metric.values()
    if message.metric not in metric or message.metric == table_pb2.METRIC_UNSPECIFIED:
        raise _bad("source.metric", f"{message.metric} is not a metric that this version knows")
    return ModelSource(
        model=message.model,
        graph_sha256=message.graph_sha256,
        reference_sha256=message.reference_sha256,
        task=task,
        classes=tuple(message.classes),
        target=message.target,
        metric=table_pb2.Metric.Name(message.metric).removeprefix("METRIC_").lower(),
        score=message.score,
        metrics=dict(message.metrics),
        dataset_version=message.dataset_version,
        trials=tuple(message.trials),
        family=message.family,
        library_versions=dict(message.library_versions),
        validation_row_count=message.validation_row_count,
        seed=message.seed,
        members=tuple(
            Member(
                trial=member.trial,
                weight=member.weight,
                family=member.family,
                graph_sha256=member.graph_sha256,
                reference_sha256=member.reference_sha256,
            )
            for member in message.members
        ),
        calibration=_to_calibration(message),
        precision=_PRECISIONS[precision],
    )


def _to_calibration(message: search_pb2.ModelSource) -> Calibration | None:
    if not message.HasField("calibration"):
        return None
    said = message.calibration
    return Calibration(
        temperature=said.temperature, ece_before=said.ece_before, ece_after=said.ece_after
    )


def _bad(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}: {description}",
        reason="BAD_SOURCE",
        violations=(FieldViolation(field, description),),
    )


def from_source(source: ModelSource) -> search_pb2.ModelSource:
    """The message that `to_source` would read."""
    return search_pb2.ModelSource(
        model=source.model,
        graph_sha256=source.graph_sha256,
        reference_sha256=source.reference_sha256,
        task=_TASK_TYPES[source.task],
        classes=source.classes,
        target=source.target,
        metric=table_pb2.Metric.Value(f"METRIC_{source.metric.upper()}"),
        score=source.score,
        metrics=source.metrics,
        dataset_version=source.dataset_version,
        trials=source.trials,
        family=source.family,
        library_versions=source.library_versions,
        validation_row_count=source.validation_row_count,
        seed=source.seed,
        members=[search_pb2.ModelMember(**asdict(member)) for member in source.members],
        calibration=search_pb2.Calibration(**asdict(source.calibration))
        if source.calibration
        else None,
    )


def from_export(export: Export) -> pb.Export:
    """The export as clients see it."""
    message = pb.Export(
        name=str(export.name),
        state=pb.ExportState.Value(f"EXPORT_STATE_{export.state.value}"),
        progress=export.progress,
        stage=export.stage.name,
        source=from_source(export.source),
        artefact_sha256=export.artefact_sha256,
        manifest_sha256=export.manifest_sha256,
        precision=pb.Precision.Value(f"PRECISION_{export.source.precision.value}"),
    )
    if export.problem is not None:
        message.problem.reason = export.problem.reason
        message.problem.message = export.problem.message
    if export.parity is not None:
        message.parity.CopyFrom(_from_parity(export.parity))
    if export.measurement is not None:
        message.measurement.size_bytes = export.measurement.size_bytes
        message.measurement.latency_p50_ms = export.measurement.latency_p50_ms
        message.measurement.latency_p95_ms = export.measurement.latency_p95_ms
        message.measurement.rows_per_s = export.measurement.rows_per_s
    message.create_time.FromDatetime(_naive(export.create_time))
    message.update_time.FromDatetime(_naive(export.update_time))
    return message


def _from_parity(parity: ParityReport) -> pb.ParityReport:
    return pb.ParityReport(
        row_count=parity.row_count,
        offending_row_count=parity.offending_row_count,
        worst_difference=parity.worst_difference,
        tolerance=parity.tolerance,
        offending_rows=[
            pb.OffendingRow(
                row=row.row,
                kind=row.kind,
                cells=row.cells,
                expected=row.expected,
                actual=row.actual,
            )
            for row in parity.offending_rows
        ],
    )


def _naive(instant: datetime) -> datetime:
    """Protobuf takes a datetime without a zone for UTC."""
    return instant.replace(tzinfo=None)

"""Domain values as messages, and back."""

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from allotment_api.common.v1 import problem_pb2, table_pb2
from allotment_api.dataset.v1 import blob_pb2, dataset_pb2
from allotment_core.errors import FieldViolation, InvalidArgument
from allotment_core.names import DatasetName, TenantName, UploadName, check_id, new_id
from allotment_dataset.domain.column_names import check_column_name
from allotment_dataset.domain.datasets import Dataset, Version
from allotment_dataset.domain.holds import Blob
from allotment_dataset.domain.imports import Import, ImportRequest
from allotment_dataset.domain.parsing import MOST_COLUMNS
from allotment_dataset.domain.table import (
    Column,
    ColumnOverride,
    ColumnRole,
    ColumnStatistics,
    ColumnType,
    FileFormat,
    Inspection,
    Notice,
    Reading,
    TaskType,
    ValueCount,
)
from allotment_dataset.domain.uploads import Upload


def timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message


def upload_message(upload: Upload) -> dataset_pb2.Upload:
    return dataset_pb2.Upload(
        name=str(upload.name),
        received_bytes=upload.received_bytes,
        size_bytes=upload.received_bytes if upload.complete else upload.announced_bytes,
        sha256=upload.sha256,
        complete=upload.complete,
        create_time=timestamp(upload.create_time),
        expire_time=timestamp(upload.expire_time),
    )


def import_message(operation: Import) -> dataset_pb2.Import:
    message = dataset_pb2.Import(
        name=str(operation.name),
        state=dataset_pb2.ImportState.Value(f"IMPORT_STATE_{operation.state.value}"),
        progress=operation.progress,
        stage=operation.stage,
        version=str(operation.version) if operation.version else "",
        upload=str(operation.request.upload),
        dataset=str(operation.request.dataset),
        create_time=timestamp(operation.create_time),
        update_time=timestamp(operation.update_time),
    )
    if operation.problem_reason:
        message.problem.CopyFrom(
            problem_pb2.Problem(reason=operation.problem_reason, message=operation.problem_message)
        )
    return message


def dataset_message(dataset: Dataset) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        name=str(dataset.name),
        latest_version=str(dataset.latest) if dataset.latest else "",
        version_count=dataset.version_count,
        create_time=timestamp(dataset.create_time),
        update_time=timestamp(dataset.update_time),
        etag=dataset.etag,
    )


def version_message(version: Version) -> dataset_pb2.DatasetVersion:
    content = version.content
    return dataset_pb2.DatasetVersion(
        name=str(version.name),
        table=table_pb2.TableSource(
            version=str(version.name),
            part_sha256=[part.sha256 for part in content.parts],
            row_count=content.row_count,
            columns=[column_message(c) for c in content.columns],
        ),
        warnings=[warning_message(w) for w in content.warnings],
        reading=_reading_message(content.reading),
        size_bytes=content.size_bytes,
        duplicate_row_count=content.duplicate_row_count,
        source_sha256=content.source_sha256,
        create_time=timestamp(version.create_time),
    )


def column_message(column: Column) -> table_pb2.Column:
    return table_pb2.Column(
        name=column.name,
        type=table_pb2.ColumnType.Value(f"COLUMN_TYPE_{column.type.value}"),
        role=table_pb2.ColumnRole.Value(f"COLUMN_ROLE_{column.role.value}"),
        ignored_because=column.ignored_because,
        date_format=column.date_format,
        statistics=_statistics_message(column.statistics),
        spellings=[table_pb2.Spelling(value=s.value, text=s.text) for s in column.spellings],
    )


def _statistics_message(statistics: ColumnStatistics) -> table_pb2.ColumnStatistics:
    return table_pb2.ColumnStatistics(
        missing_count=statistics.missing_count,
        distinct_count=statistics.distinct_count,
        minimum=statistics.minimum,
        maximum=statistics.maximum,
        mean=statistics.mean,
        standard_deviation=statistics.standard_deviation,
        top_values=[
            table_pb2.ValueCount(value=v.value, count=v.count) for v in statistics.top_values
        ],
        longest_cell=statistics.longest_cell,
    )


def warning_message(notice: Notice) -> problem_pb2.Warning:
    return problem_pb2.Warning(reason=notice.reason, message=notice.message, column=notice.column)


def _reading_message(reading: Reading) -> dataset_pb2.Reading:
    return dataset_pb2.Reading(
        format=dataset_pb2.FileFormat.Value(f"FILE_FORMAT_{reading.format.value}"),
        encoding=reading.encoding,
        delimiter=reading.delimiter,
        decimal=reading.decimal,
        missing_markers=reading.missing_markers,
    )


def _class_count(value: ValueCount) -> dataset_pb2.ClassCount:
    return dataset_pb2.ClassCount(label=value.value, count=value.count)


def inspection_message(inspection: Inspection) -> dataset_pb2.InspectTargetResponse:
    return dataset_pb2.InspectTargetResponse(
        task=table_pb2.TaskType.Value(f"TASK_TYPE_{inspection.task.value}"),
        labelled_row_count=inspection.labelled_row_count,
        classes=[_class_count(c) for c in inspection.classes],
        warnings=[warning_message(w) for w in inspection.warnings],
    )


def blob_message(blob: Blob) -> blob_pb2.Blob:
    return blob_pb2.Blob(name=str(blob.name), size_bytes=blob.size_bytes)


def task_type(value: int) -> TaskType:
    """Raises: InvalidArgument for a number that no task has."""
    _known(table_pb2.TaskType.values(), value, "task")
    return TaskType(table_pb2.TaskType.Name(value).removeprefix("TASK_TYPE_"))  # type: ignore[arg-type]


def import_request(request: dataset_pb2.CreateImportRequest) -> ImportRequest:
    """What was asked for.

    An empty dataset id is made up here: a repeated call gets the stored answer.
    """
    parent = TenantName.parse(request.parent)
    if request.append and not request.dataset_id:
        raise InvalidArgument(
            "append needs the dataset_id of the dataset to append to",
            violations=(FieldViolation("dataset_id", "is needed with append"),),
        )
    if len(request.overrides) > MOST_COLUMNS:
        raise InvalidArgument(
            f"there are {len(request.overrides)} overrides; a table has at most {MOST_COLUMNS} "
            "columns",
            violations=(FieldViolation("overrides", f"at most {MOST_COLUMNS}"),),
        )
    for column in (request.target_hint, *(o.column for o in request.overrides)):
        check_column_name(column)
    dataset_id = check_id(request.dataset_id or new_id("dataset"), "dataset_id")
    _known(dataset_pb2.FileFormat.values(), request.format, "format")
    file_format = dataset_pb2.FileFormat.Name(request.format)
    return ImportRequest(
        upload=UploadName.parse(request.upload),
        dataset=DatasetName(parent, dataset_id),
        append=request.append,
        format=FileFormat(file_format.removeprefix("FILE_FORMAT_")),
        overrides=tuple(_override(o) for o in request.overrides),
        target_hint=request.target_hint,
    )


def _override(override: dataset_pb2.ColumnOverride) -> ColumnOverride:
    _known(table_pb2.ColumnType.values(), override.type, "overrides.type")
    _known(table_pb2.ColumnRole.values(), override.role, "overrides.role")
    type_name = table_pb2.ColumnType.Name(override.type)
    role_name = table_pb2.ColumnRole.Name(override.role)
    return ColumnOverride(
        column=override.column,
        type=ColumnType(type_name.removeprefix("COLUMN_TYPE_")),
        role=ColumnRole(role_name.removeprefix("COLUMN_ROLE_")),
    )


def _known(numbers: Sequence[int], value: int, field: str) -> None:
    if value not in numbers:
        raise InvalidArgument(
            f"{field} is {value}; this server knows {min(numbers)} to {max(numbers)}",
            violations=(FieldViolation(field, "is not a value that this server knows"),),
        )

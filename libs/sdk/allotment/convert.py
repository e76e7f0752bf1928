"""From the wire's messages to the client's values, and the few that go the other way."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from allotment import types
from allotment.enums import Word
from allotment_api.allocator.v1 import allocator_pb2 as allocator
from allotment_api.common.v1 import problem_pb2, table_pb2
from allotment_api.dataset.v1 import dataset_pb2
from allotment_api.exporter.v1 import exporter_pb2
from allotment_api.search.v1 import search_pb2
from allotment_core.errors import InvalidArgument, clip

_E = TypeVar("_E", bound=Word)
_V = TypeVar("_V", covariant=True)


def _enum(kind: type[_E], wire: str, prefix: str) -> _E:
    """The member for a wire name such as TRIAL_STATE_QUEUED with the prefix TRIAL_STATE_."""
    return kind(wire.removeprefix(prefix).lower())


class _EnumWrapper(Protocol[_V]):
    """A generated enum."""

    def Value(self, name: str, /) -> _V: ...
    def keys(self) -> list[str]: ...


def _known(kind: _EnumWrapper[_V], prefix: str, name: str, what: str) -> _V:
    """The wire's value. Raises: InvalidArgument (UNKNOWN_VALUE) that lists the values that there
    are.
    """
    try:
        return kind.Value(prefix + name.upper())
    except ValueError:
        known = [key.removeprefix(prefix).lower() for key in kind.keys()[1:]]
        raise InvalidArgument(
            f"{what} {clip(name)!r} is none of: {', '.join(known)}", reason="UNKNOWN_VALUE"
        ) from None


def _time(message: Message, field: str) -> datetime | None:
    return _at(getattr(message, field)) if message.HasField(field) else None


def _at(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def problem(message: Message, field: str = "problem") -> types.Problem | None:
    if not message.HasField(field):
        return None
    wire: problem_pb2.Problem = getattr(message, field)
    return types.Problem(reason=wire.reason, message=wire.message)


def _warning(wire: problem_pb2.Warning) -> types.Warning:
    return types.Warning(reason=wire.reason, message=wire.message, column=wire.column)


def _wait(message: Message) -> types.Wait | None:
    if not message.HasField("wait"):
        return None
    wire: problem_pb2.Wait = getattr(message, "wait")  # noqa: B009 - Message has no such attribute
    return types.Wait(reason=wire.reason, message=wire.message, position=wire.position)


def task_type(wire: table_pb2.TaskType.ValueType) -> types.TaskType:
    return _enum(types.TaskType, table_pb2.TaskType.Name(wire), "TASK_TYPE_")


def metric(wire: table_pb2.Metric.ValueType) -> types.Metric:
    return _enum(types.Metric, table_pb2.Metric.Name(wire), "METRIC_")


def column_type_to_wire(name: str) -> table_pb2.ColumnType.ValueType:
    return _known(table_pb2.ColumnType, "COLUMN_TYPE_", name, "column type")


def column_role_to_wire(name: str) -> table_pb2.ColumnRole.ValueType:
    return _known(table_pb2.ColumnRole, "COLUMN_ROLE_", name, "column role")


def task_to_wire(task: str) -> table_pb2.TaskType.ValueType:
    return _known(table_pb2.TaskType, "TASK_TYPE_", task, "task")


def metric_to_wire(name: str) -> table_pb2.Metric.ValueType:
    return _known(table_pb2.Metric, "METRIC_", name, "metric")


def role_to_wire(role: str) -> allocator.Role.ValueType:
    return _known(allocator.Role, "ROLE_", role, "role")


def column(wire: table_pb2.Column) -> types.Column:
    found = wire.statistics
    return types.Column(
        name=wire.name,
        type=_enum(types.ColumnType, table_pb2.ColumnType.Name(wire.type), "COLUMN_TYPE_"),
        role=_enum(types.ColumnRole, table_pb2.ColumnRole.Name(wire.role), "COLUMN_ROLE_"),
        ignored_because=wire.ignored_because,
        missing_count=found.missing_count,
        distinct_count=found.distinct_count,
        minimum=found.minimum if found.HasField("minimum") else None,
        maximum=found.maximum if found.HasField("maximum") else None,
        mean=found.mean if found.HasField("mean") else None,
        top_values=tuple((top.value, top.count) for top in found.top_values),
    )


def dataset(wire: dataset_pb2.Dataset) -> types.Dataset:
    return types.Dataset(
        name=wire.name,
        latest_version=wire.latest_version,
        version_count=wire.version_count,
        create_time=_at(wire.create_time),
        update_time=_at(wire.update_time),
        etag=wire.etag,
    )


def version(wire: dataset_pb2.DatasetVersion) -> types.DatasetVersion:
    file_format = dataset_pb2.FileFormat.Name(wire.reading.format)
    return types.DatasetVersion(
        name=wire.name,
        row_count=wire.table.row_count,
        columns=tuple(map(column, wire.table.columns)),
        warnings=tuple(map(_warning, wire.warnings)),
        format=file_format.removeprefix("FILE_FORMAT_").lower(),
        encoding=wire.reading.encoding,
        delimiter=wire.reading.delimiter,
        size_bytes=wire.size_bytes,
        duplicate_row_count=wire.duplicate_row_count,
        source_sha256=wire.source_sha256,
        part_sha256=tuple(wire.table.part_sha256),
        create_time=_at(wire.create_time),
    )


def target_report(wire: dataset_pb2.InspectTargetResponse) -> types.TargetReport:
    return types.TargetReport(
        task=task_type(wire.task),
        labelled_row_count=wire.labelled_row_count,
        classes=tuple((found.label, found.count) for found in wire.classes),
        warnings=tuple(map(_warning, wire.warnings)),
    )


def experiment(wire: search_pb2.Experiment) -> types.Experiment:
    state = search_pb2.ExperimentState.Name(wire.state)
    return types.Experiment(
        name=wire.name,
        state=_enum(types.ExperimentState, state, "EXPERIMENT_STATE_"),
        dataset_version=wire.spec.dataset_version,
        target=wire.spec.target,
        task=task_type(wire.spec.task),
        metric=metric(wire.spec.metric),
        seed=wire.spec.seed,
        classes=tuple(wire.classes),
        deadline=_time(wire, "deadline"),
        trial_budget=wire.spec.budget.trial_count,
        best_model=wire.best_model,
        best_score=wire.best_score if wire.HasField("best_score") else None,
        finished_trial_count=wire.finished_trial_count,
        running_trial_count=wire.running_trial_count,
        warnings=tuple(map(_warning, wire.warnings)),
        problem=problem(wire),
        wait=_wait(wire),
        create_time=_at(wire.create_time),
        end_time=_time(wire, "end_time"),
        etag=wire.etag,
        revision=wire.revision,
        early_stopping=types.EarlyStopping(
            paused_trials=wire.early_stopping.paused_trial_count,
            audits=wire.early_stopping.audit_count,
            improved_audits=wire.early_stopping.improved_audit_count,
        ),
        refit_of=wire.refit_of,
        budget_start=_enum(
            types.BudgetStart, search_pb2.BudgetStart.Name(wire.budget_start), "BUDGET_START_"
        ),
        start_time=_time(wire, "start_time") or _started_before_it_was_told(wire),
        queue_deadline=_time(wire, "queue_deadline"),
    )


def _started_before_it_was_told(wire: search_pb2.Experiment) -> datetime | None:
    """Servers that don't tell count from the creation."""
    told = wire.budget_start != search_pb2.BUDGET_START_UNSPECIFIED
    return None if told else _at(wire.create_time)


def _attempts(wire: search_pb2.Trial, by_cause: Mapping[str, int]) -> int:
    started = wire.state in (
        search_pb2.TRIAL_STATE_ASSIGNED,
        search_pb2.TRIAL_STATE_RUNNING,
        search_pb2.TRIAL_STATE_PAUSED,
        search_pb2.TRIAL_STATE_SUCCEEDED,
        search_pb2.TRIAL_STATE_STOPPED,
    )
    return sum(by_cause.values()) + started


def _choice(wire: search_pb2.Choice) -> str | float | int | bool:
    kind = wire.WhichOneof("value")
    value: str | float | int | bool = getattr(wire, kind) if kind else ""
    return value


def trial(wire: search_pb2.Trial) -> types.Trial:
    by_cause = {
        str(
            _enum(
                types.AttemptCause,
                search_pb2.AttemptCause.Name(attempt.cause),
                "ATTEMPT_CAUSE_",
            )
        ): attempt.count
        for attempt in wire.attempts
    }
    return types.Trial(
        name=wire.name,
        state=_enum(types.TrialState, search_pb2.TrialState.Name(wire.state), "TRIAL_STATE_"),
        family=wire.family.removeprefix("families/"),
        origin=wire.origin.lower(),
        score=wire.score if wire.HasField("score") else None,
        metrics=dict(sorted(wire.metrics.items())),
        fit_s=wire.fit_s,
        attempts=_attempts(wire, by_cause),
        attempts_by_cause=by_cause,
        epoch=wire.epoch,
        finished_folds=wire.finished_folds,
        fold_count=wire.fold_count,
        derivation={choice.symbol: _choice(choice) for choice in wire.derivation},
        problem=problem(wire),
        log_tail=wire.log_tail,
        create_time=_at(wire.create_time),
        start_time=_time(wire, "start_time"),
        end_time=_time(wire, "end_time"),
    )


def model(wire: search_pb2.Model) -> types.Model:
    source = wire.source
    return types.Model(
        name=wire.name,
        state=_enum(types.ModelState, search_pb2.ModelState.Name(wire.state), "MODEL_STATE_"),
        family=source.family.removeprefix("families/"),
        task=task_type(source.task),
        metric=metric(source.metric),
        score=source.score,
        metrics=dict(sorted(source.metrics.items())),
        classes=tuple(source.classes),
        trials=tuple(source.trials),
        export=wire.export,
        artefact_sha256=wire.artefact_sha256,
        manifest_sha256=wire.manifest_sha256,
        artefact_size_bytes=wire.artefact_size_bytes,
        problem=problem(wire),
        create_time=_at(wire.create_time),
        ready_time=_time(wire, "ready_time"),
        members=_members(source),
        calibration=_calibration(source),
    )


def _members(source: search_pb2.ModelSource) -> tuple[types.Member, ...]:
    if not source.members and source.trials:
        family = source.family.removeprefix("families/")
        return (types.Member(trial=source.trials[0], weight=1.0, family=family),)
    return tuple(
        types.Member(trial=m.trial, weight=m.weight, family=m.family.removeprefix("families/"))
        for m in source.members
    )


def _calibration(source: search_pb2.ModelSource) -> types.Calibration | None:
    if not source.HasField("calibration"):
        return None
    return types.Calibration(
        temperature=source.calibration.temperature,
        ece_before=source.calibration.ece_before,
        ece_after=source.calibration.ece_after,
    )


def _parity(wire: exporter_pb2.ParityReport) -> types.Parity:
    return types.Parity(
        row_count=wire.row_count,
        offending_row_count=wire.offending_row_count,
        worst_difference=wire.worst_difference,
        tolerance=wire.tolerance,
        offending_rows=tuple(
            types.OffendingRow(
                row=row.row,
                kind=row.kind.lower(),
                cells=dict(row.cells),
                expected=tuple(row.expected),
                actual=tuple(row.actual),
            )
            for row in wire.offending_rows
        ),
    )


def export(wire: exporter_pb2.Export) -> types.Export:
    return types.Export(
        name=wire.name,
        state=_enum(types.ExportState, exporter_pb2.ExportState.Name(wire.state), "EXPORT_STATE_"),
        progress=wire.progress,
        stage=wire.stage.lower(),
        model=wire.source.model,
        problem=problem(wire),
        parity=_parity(wire.parity) if wire.HasField("parity") else None,
        size_bytes=wire.measurement.size_bytes,
        latency_p50_ms=wire.measurement.latency_p50_ms,
        latency_p95_ms=wire.measurement.latency_p95_ms,
        rows_per_s=wire.measurement.rows_per_s,
        artefact_sha256=wire.artefact_sha256,
        manifest_sha256=wire.manifest_sha256,
        create_time=_at(wire.create_time),
        update_time=_at(wire.update_time),
    )


def family(wire: search_pb2.Family) -> types.Family:
    return types.Family(
        name=wire.name,
        title=wire.title,
        tasks=tuple(map(task_type, wire.tasks)),
        available=wire.available,
        unavailable=problem(wire, "unavailable"),
    )


def pool(wire: allocator.Pool) -> types.Pool:
    return types.Pool(
        name=wire.name,
        kind=allocator.PoolKind.Name(wire.kind).removeprefix("POOL_KIND_").lower(),
        slot_count=wire.slot_count,
        used_slot_count=wire.used_slot_count,
        threads_per_slot=wire.threads_per_slot,
        memory_bytes_per_slot=wire.memory_bytes_per_slot,
        resource=wire.resource,
        product=wire.product,
        node_count=wire.node_count,
        open_node_count=wire.open_node_count,
        expected_slot_count=wire.expected_slot_count,
        price_per_slot_hour=wire.price_per_slot_hour,
    )


def node(wire: allocator.Node) -> types.Node:
    return types.Node(
        name=wire.name,
        pool=wire.pool,
        state=_enum(types.NodeState, allocator.NodeCondition.Name(wire.state), "NODE_CONDITION_"),
        slot_count=wire.slot_count,
        used_slot_count=wire.used_slot_count,
        free_slot_count=wire.free_slot_count,
        resource=wire.resource,
        product=wire.product,
        price_per_slot_hour=wire.price_per_slot_hour,
    )


def tenant(wire: allocator.Tenant) -> types.Tenant:
    return types.Tenant(
        name=wire.name,
        weight=wire.weight,
        guaranteed_slots=wire.guaranteed_slots,
        quota_slots=wire.quota_slots,
        isolation=_enum(types.Isolation, allocator.Isolation.Name(wire.isolation), "ISOLATION_"),
        shares_experience=wire.shares_experience,
        create_time=_at(wire.create_time),
        update_time=_at(wire.update_time),
        etag=wire.etag,
    )


def isolation(name: str) -> allocator.Isolation.ValueType:
    """Raises: InvalidArgument (UNKNOWN_VALUE)."""
    return _known(allocator.Isolation, "ISOLATION_", name, "isolation")


def token(wire: allocator.IssueTokenResponse) -> types.Token:
    return types.Token(token=wire.token, expire_time=_at(wire.expire_time))


def lease(wire: allocator.Lease) -> types.Lease:
    return types.Lease(
        name=wire.name,
        state=_enum(types.LeaseState, allocator.LeaseState.Name(wire.state), "LEASE_STATE_"),
        epoch=wire.epoch,
        holder=wire.holder,
        pool=wire.pool,
        slot_count=wire.slot_count,
        expire_time=_time(wire, "expire_time"),
        wait=_wait(wire),
        problem=problem(wire),
        create_time=_at(wire.create_time),
        grant_time=_time(wire, "grant_time"),
        end_time=_time(wire, "end_time"),
    )


def usage(wire: allocator.Usage) -> types.Usage:
    return types.Usage(name=wire.name, slot_seconds=wire.slot_seconds, lease_count=wire.lease_count)

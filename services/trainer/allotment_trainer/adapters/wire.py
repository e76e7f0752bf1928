"""The session's messages, to the domain and back."""

from collections.abc import Iterable, Mapping
from typing import Any

from allotment_api.common.v1 import problem_pb2, table_pb2
from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_core.errors import InvalidArgument, clip
from allotment_trainer.domain.job import (
    MIN_MEMORY_BYTES,
    Attempt,
    JobColumn,
    JobSplit,
    TrialJob,
    Value,
)
from allotment_trainer.domain.lease import Grant
from allotment_trainer.domain.reports import Failure, Progress, Report, ReportKey, Result, Started
from allotment_trainer.processes.preload import Offer

_TYPES = {
    table_pb2.COLUMN_TYPE_NUMERIC: "numeric",
    table_pb2.COLUMN_TYPE_CATEGORICAL: "categorical",
    table_pb2.COLUMN_TYPE_DATE: "date",
    table_pb2.COLUMN_TYPE_TEXT: "text",
    table_pb2.COLUMN_TYPE_ID: "id",
}
_TASKS = {
    table_pb2.TASK_TYPE_BINARY: "binary",
    table_pb2.TASK_TYPE_MULTICLASS: "multiclass",
    table_pb2.TASK_TYPE_REGRESSION: "regression",
}
_METHODS = {pb.Split.METHOD_FOLDS: "folds", pb.Split.METHOD_HOLD_OUT: "hold_out"}


def attempt_of(message: pb.Assignment | pb.StopTrial | pb.ReportKey) -> Attempt:
    return Attempt(message.trial, message.trial_epoch)


def job_of(assignment: pb.Assignment, received_monotonic: float, grant: Grant) -> TrialJob:
    """The job of an assignment that came at this instant. Raises: InvalidArgument for one that says
    too little.
    """
    split = assignment.split
    wanted = {
        *assignment.feature_columns,
        assignment.target,
        assignment.weight_column,
        split.group_column,
        split.time_column,
    }
    deadline = None
    if assignment.HasField("deadline"):
        sent_at = assignment.server_time.ToDatetime()
        left_s = (assignment.deadline.ToDatetime() - sent_at).total_seconds()
        deadline = received_monotonic + left_s
    return TrialJob(
        trial=assignment.trial,
        epoch=assignment.trial_epoch,
        family=assignment.family,
        choices=tuple((c.symbol, _value(c)) for c in assignment.derivation),
        parts=tuple(assignment.table.part_sha256),
        columns=tuple(_column(c) for c in assignment.table.columns if c.name in wanted),
        features=tuple(assignment.feature_columns),
        target=assignment.target,
        task=_known(_TASKS, assignment.task, "task"),
        classes=tuple(assignment.classes),
        metric=table_pb2.Metric.Name(assignment.metric).removeprefix("METRIC_").lower(),
        split=JobSplit(
            method=_known(_METHODS, split.method, "split.method"),
            part_count=split.part_count,
            seed=split.seed,
            group_column=split.group_column,
            time_column=split.time_column,
        ),
        seed=assignment.seed,
        threads=max(1, assignment.threads or grant.threads),
        memory_bytes=max(MIN_MEMORY_BYTES, assignment.memory_bytes or grant.memory_bytes),
        weight_column=assignment.weight_column,
        deadline_monotonic=deadline,
        missing_markers=tuple(assignment.table.missing_markers),
        decimal=assignment.table.decimal or ".",
        rungs=tuple(assignment.rungs),
        fit_rungs=_fit_rungs(assignment.fit_rungs),
        checkpoint_sha256=assignment.checkpoint_sha256,
    )


def _fit_rungs(rungs: Iterable[int]) -> tuple[int, ...]:
    """Raises: InvalidArgument."""
    found = tuple(rungs)
    if any(rung < 2 for rung in found):
        raise InvalidArgument("fit_rungs have to be 2 or more", reason="BAD_ASSIGNMENT")
    return found


def hello(grant: Grant, offer: Offer, running: Iterable[Attempt]) -> pb.OpenSessionRequest:
    return pb.OpenSessionRequest(
        hello=pb.Hello(
            lease=grant.lease,
            lease_epoch=grant.epoch,
            families=[
                pb.OfferedFamily(
                    family=family.name,
                    available=not family.unavailable,
                    unavailable=problem_pb2.Problem(
                        reason="FAMILY_UNAVAILABLE", message=family.unavailable
                    )
                    if family.unavailable
                    else None,
                )
                for family in offer.families
            ],
            library_versions=offer.library_versions,
            threads=grant.threads,
            memory_bytes=grant.memory_bytes,
            running=_running(running),
        )
    )


def heartbeat(running: Iterable[Attempt]) -> pb.OpenSessionRequest:
    return pb.OpenSessionRequest(heartbeat=pb.Heartbeat(running=_running(running)))


def key_of(key: pb.ReportKey) -> ReportKey:
    return ReportKey(attempt_of(key), key.sequence)


def report(key: ReportKey, report: Report) -> pb.OpenSessionRequest:
    name = pb.ReportKey(
        trial=key.attempt.trial, trial_epoch=key.attempt.epoch, sequence=key.sequence
    )
    match report:
        case Started():
            return pb.OpenSessionRequest(started=pb.TrialStarted(key=name))
        case Progress():
            progress = pb.TrialProgress(
                key=name,
                finished_folds=report.finished_folds,
                fold_count=report.fold_count,
                fit_rung=report.fit_rung,
            )
            if report.score is not None:
                progress.score = report.score
            return pb.OpenSessionRequest(progress=progress)
        case Result():
            return pb.OpenSessionRequest(result=_result(name, report))
        case Failure():
            failure = pb.TrialFailure(
                key=name,
                cause=search_pb2.AttemptCause.Value(f"ATTEMPT_CAUSE_{report.cause.value}"),
                problem=problem_pb2.Problem(reason=report.reason, message=report.message),
                log_tail=report.log_tail,
                checkpoint_sha256=report.checkpoint_sha256,
                checkpoint_folds=report.checkpoint_folds,
                checkpoint_steps=report.checkpoint_steps,
            )
            return pb.OpenSessionRequest(failure=failure)


def _result(name: pb.ReportKey, result: Result) -> pb.TrialResult:
    return pb.TrialResult(
        key=name,
        score=result.score,
        metrics=result.metrics,
        fit_s=result.fit_s,
        cpu_s=result.cpu_s,
        peak_memory_bytes=result.peak_memory_bytes,
        graph_sha256=result.graph_sha256,
        reference_sha256=result.reference_sha256,
        predictions_sha256=result.predictions_sha256,
        fold_count=result.fold_count,
        validation_row_count=result.validation_row_count,
    )


def _running(attempts: Iterable[Attempt]) -> list[pb.RunningTrial]:
    return [pb.RunningTrial(trial=a.trial, trial_epoch=a.epoch) for a in attempts]


def _column(column: table_pb2.Column) -> JobColumn:
    return JobColumn(
        name=column.name,
        type=_TYPES.get(column.type, "text"),
        date_format=column.date_format,
        spellings=tuple((s.value, s.text) for s in column.spellings),
    )


def _value(choice: search_pb2.Choice) -> Value:
    field = choice.WhichOneof("value")
    if field is None:
        raise InvalidArgument(
            f"choice '{clip(choice.symbol)}' has no value", reason="BAD_ASSIGNMENT"
        )
    value: Value = getattr(choice, field)
    return value


def _known(names: Mapping[Any, str], value: int, field: str) -> str:
    name = names.get(value)
    if name is None:
        raise InvalidArgument(
            f"{field} {value} is not known to this trainer; update it", reason="BAD_ASSIGNMENT"
        )
    return name

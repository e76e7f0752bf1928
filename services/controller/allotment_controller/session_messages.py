"""Messages of the trainer session from the wire and back."""

import math
from collections.abc import Iterable
from datetime import datetime

from allotment_api.common.v1 import table_pb2
from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2
from allotment_controller import convert
from allotment_controller.domain.messages import (
    Acknowledge,
    Alive,
    Assign,
    Failure,
    Heartbeat,
    Hello,
    OfferedFamily,
    Order,
    Progress,
    Report,
    ReportKey,
    Result,
    Revoke,
    RunningTrial,
    Started,
    Stop,
)
from allotment_controller.domain.refitting import training_seed
from allotment_controller.domain.task import Problem, Split
from allotment_controller.domain.trial import AttemptCause, TrialResult
from allotment_core.errors import FieldViolation, InvalidArgument, clip
from allotment_core.names import LeaseName, TrialName, check_sha256

FAMILY_LIMIT = 100
RUNNING_LIMIT = 100
METRIC_LIMIT = 100


def hello(message: session_pb2.Hello) -> Hello:
    """Raises: InvalidArgument."""
    if len(message.families) > FAMILY_LIMIT or len(message.library_versions) > FAMILY_LIMIT:
        raise _invalid("hello.families", f"names more than {FAMILY_LIMIT} families or libraries")
    return Hello(
        lease=LeaseName.parse(message.lease),
        lease_epoch=message.lease_epoch,
        families=tuple(_offer(f) for f in message.families),
        library_versions={n[:100]: v[:100] for n, v in sorted(message.library_versions.items())},
        threads=message.threads,
        memory_bytes=message.memory_bytes,
        running=_running(message.running),
    )


def _offer(message: session_pb2.OfferedFamily) -> OfferedFamily:
    name = clip(message.family.removeprefix("families/"), 63)
    if message.available:
        return OfferedFamily(name)
    return OfferedFamily(name, convert.from_problem(message.unavailable))


def _running(messages: Iterable[session_pb2.RunningTrial]) -> tuple[RunningTrial, ...]:
    running = tuple(RunningTrial(TrialName.parse(m.trial), m.trial_epoch) for m in messages)
    if len(running) > RUNNING_LIMIT:
        raise _invalid("running", f"names more than {RUNNING_LIMIT} trials")
    return running


def said(message: session_pb2.OpenSessionRequest) -> Heartbeat | Report:
    """What a message after the Hello says. Raises: InvalidArgument."""
    match message.WhichOneof("message"):
        case "heartbeat":
            return Heartbeat(_running(message.heartbeat.running))
        case "started":
            return Started(_key(message.started.key))
        case "progress":
            return _progress(message.progress)
        case "result":
            return _result(message.result)
        case "failure":
            return _failure(message.failure)
        case other:
            raise _invalid("message", f"is {other or 'empty'}; after Hello come reports alone")


def _key(message: session_pb2.ReportKey) -> ReportKey:
    return ReportKey(TrialName.parse(message.trial), message.trial_epoch, message.sequence)


def _progress(message: session_pb2.TrialProgress) -> Progress:
    score = message.score if message.HasField("score") else None
    if message.fit_rung and (message.fit_rung < 2 or message.finished_folds):
        raise _invalid("progress.fit_rung", "is a share of the first fold's fit: 2 or more")
    return Progress(
        _key(message.key), message.finished_folds, message.fold_count, score, message.fit_rung
    )


def _result(message: session_pb2.TrialResult) -> Result:
    if len(message.metrics) > METRIC_LIMIT:
        raise _invalid("result.metrics", f"has more than {METRIC_LIMIT} entries")
    result = TrialResult(
        score=message.score,
        metrics={name[:63]: x for name, x in sorted(message.metrics.items())},
        fit_s=_finite(message.fit_s),
        cpu_s=_finite(message.cpu_s),
        peak_memory_bytes=message.peak_memory_bytes,
        graph_sha256=message.graph_sha256,
        reference_sha256=message.reference_sha256,
        predictions_sha256=message.predictions_sha256,
        fold_count=message.fold_count,
        validation_row_count=message.validation_row_count,
    )
    if math.isfinite(result.score):
        check_sha256(result.graph_sha256, "result.graph_sha256")
        check_sha256(result.reference_sha256, "result.reference_sha256")
    if result.predictions_sha256:
        check_sha256(result.predictions_sha256, "result.predictions_sha256")
    return Result(_key(message.key), result)


def _finite(seconds: float) -> float:
    return seconds if math.isfinite(seconds) and seconds >= 0 else 0.0


def _failure(message: session_pb2.TrialFailure) -> Failure:
    names = {number: name for name, number in search_pb2.AttemptCause.items()}
    name = names.get(message.cause, "").removeprefix("ATTEMPT_CAUSE_")
    if name not in AttemptCause.__members__:
        raise _invalid("failure.cause", f"is {message.cause}, which is not a cause")
    said_why = message.problem.reason or message.problem.message
    problem = convert.from_problem(message.problem) if said_why else Problem(name, _WHY[name])
    if message.checkpoint_sha256:
        check_sha256(message.checkpoint_sha256, "failure.checkpoint_sha256")
    return Failure(
        _key(message.key),
        AttemptCause[name],
        problem,
        message.log_tail,
        message.checkpoint_sha256,
        message.checkpoint_folds,
        message.checkpoint_steps,
    )


_WHY = {
    "PREEMPTED": "its lease was taken back",
    "LOST": "its trainer went away",
    "PAUSED": "the experiment was paused, or the trial was put off",
    "CRASH": "its process died; the log tail has its last lines",
    "OUT_OF_MEMORY": "it asked for more memory than its lease has",
    "TIMEOUT": "it took longer than its time limit",
    "REFUSED": "the library refused the configuration",
}


def order(
    value: Order, now: datetime, threads: int, memory: int
) -> session_pb2.OpenSessionResponse:
    """``threads`` and ``memory`` (bytes) are what the trainer said it has."""
    match value:
        case Acknowledge():
            response = session_pb2.OpenSessionResponse()
            response.acknowledgement.key.trial = str(value.key.trial)
            response.acknowledgement.key.trial_epoch = value.key.epoch
            response.acknowledgement.key.sequence = value.key.sequence
            return response
        case Alive():
            return session_pb2.OpenSessionResponse(acknowledgement=session_pb2.Acknowledgement())
        case Stop():
            stop = session_pb2.StopTrial(
                trial=str(value.trial), trial_epoch=value.epoch, reason=value.reason
            )
            return session_pb2.OpenSessionResponse(stop=stop)
        case Revoke():
            revoke = session_pb2.Revoke(reason=value.reason)
            revoke.grace.FromNanoseconds(round(value.grace_s * 1e9))
            return session_pb2.OpenSessionResponse(revoke=revoke)
        case Assign():
            assignment = _assignment(value, now)
            assignment.threads, assignment.memory_bytes = threads, memory
            return session_pb2.OpenSessionResponse(assignment=assignment)


def _assignment(value: Assign, now: datetime) -> session_pb2.Assignment:
    plan, trial = value.plan, value.trial
    return session_pb2.Assignment(
        trial=str(trial.name),
        trial_epoch=trial.epoch,
        family=f"families/{trial.family}",
        derivation=convert.derivation(trial.derivation),
        table=table_pb2.TableSource.FromString(plan.table),
        target=plan.spec.target,
        task=convert.task(plan.spec.task),
        classes=plan.classes,
        metric=convert.metric(plan.spec.metric),
        weight_column=plan.spec.weight_column,
        feature_columns=plan.feature_columns,
        split=_split(plan.split),
        seed=training_seed(plan, trial),
        deadline=convert.timestamp(value.deadline),
        server_time=convert.timestamp(now),
        rungs=[rung.numerator for rung in value.rungs if rung >= 1],
        fit_rungs=[rung.denominator for rung in value.rungs if rung < 1],
        checkpoint_sha256=trial.checkpoint_sha256,
    )


def _split(value: Split) -> session_pb2.Split:
    return session_pb2.Split(
        method=session_pb2.Split.Method.Value(f"METHOD_{value.method.name}"),
        part_count=value.part_count,
        seed=value.seed,
        group_column=value.group_column,
        time_column=value.time_column,
    )


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field} {problem}", reason="INVALID_MESSAGE", violations=(FieldViolation(field, problem),)
    )

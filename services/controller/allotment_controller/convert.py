"""Domain values as messages of the search API and back."""

from datetime import datetime
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from allotment_api.common.v1 import problem_pb2, table_pb2
from allotment_api.search.v1 import search_pb2
from allotment_controller.domain.creation import Wish
from allotment_controller.domain.experiment import Budget, Experiment, ExperimentSpec
from allotment_controller.domain.messages import OfferedFamily
from allotment_controller.domain.model import Model
from allotment_controller.domain.task import Metric, Notice, Problem, TaskType
from allotment_controller.domain.trial import Trial
from allotment_controller.domain.views import ModelView, etag
from allotment_core.errors import FieldViolation, InvalidArgument
from allotment_core.names import FamilyName, ModelName, VersionName
from allotment_search import Choice, Derivation, Grammar

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

LOG_TAIL_CHARACTERS = 4096
ENSEMBLE = "ensemble"


def timestamp(instant: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def problem(value: Problem | None) -> problem_pb2.Problem | None:
    if value is None:
        return None
    return problem_pb2.Problem(reason=value.reason, message=value.message)


def from_problem(message: problem_pb2.Problem) -> Problem:
    return Problem(message.reason[:100], message.message[:2000])


def notice(message: problem_pb2.Warning) -> Notice:
    return Notice(message.reason, message.message, message.column)


def task(value: TaskType) -> "table_pb2.TaskType.ValueType":
    return table_pb2.TaskType.Value(f"TASK_TYPE_{value.name}")


def from_task(value: int) -> TaskType | None:
    """None for UNSPECIFIED. Raises: InvalidArgument for a number that is no task."""
    if value == table_pb2.TASK_TYPE_UNSPECIFIED:
        return None
    return TaskType[_enum_name(table_pb2.TaskType, value, "spec.task", "TASK_TYPE_")]


def metric(value: Metric) -> "table_pb2.Metric.ValueType":
    return table_pb2.Metric.Value(f"METRIC_{value.name}")


def from_metric(value: int) -> Metric | None:
    """None for UNSPECIFIED. Raises: InvalidArgument for a number that is no metric."""
    if value == table_pb2.METRIC_UNSPECIFIED:
        return None
    return Metric[_enum_name(table_pb2.Metric, value, "spec.metric", "METRIC_")]


def _enum_name(enum: object, value: int, field: str, prefix: str) -> str:
    names: dict[int, str] = {number: name for name, number in enum.items()}  # type: ignore[attr-defined]
    if value not in names:
        raise InvalidArgument(
            f"{field} is {value}, which this server does not know; it knows 1 to {max(names)}",
            reason="UNKNOWN_ENUM_VALUE",
            violations=(FieldViolation(field, f"has to be 0 to {max(names)}"),),
        )
    return names[value].removeprefix(prefix)


def wish(message: search_pb2.ExperimentSpec) -> Wish:
    """Raises: InvalidArgument for what can't be read."""
    return Wish(
        dataset_version=VersionName.parse(message.dataset_version),
        target=message.target,
        task=from_task(message.task),
        metric=from_metric(message.metric),
        budget=budget(message.budget),
        max_parallel_trials=message.max_parallel_trials,
        seed=message.seed,
        ignored_columns=tuple(dict.fromkeys(message.ignored_columns)),
        weight_column=message.weight_column,
        group_column=message.group_column,
        time_column=message.time_column,
        families=tuple(FamilyName.parse(f).family_id for f in message.families),
        without_early_stopping=message.without_early_stopping,
    )


def budget(message: search_pb2.Budget) -> Budget:
    return Budget(
        wall_time_s=_seconds(message.wall_time) if message.HasField("wall_time") else None,
        started_before_s=_seconds(message.started_before),
        trial_count=message.trial_count,
        queue_timeout_s=(
            _seconds(message.queue_timeout) if message.HasField("queue_timeout") else None
        ),
    )


def _seconds(message: "Duration") -> float:
    return message.seconds + message.nanos / 1e9


def spec(value: ExperimentSpec) -> search_pb2.ExperimentSpec:
    message = search_pb2.ExperimentSpec(
        dataset_version=str(value.dataset_version),
        target=value.target,
        task=task(value.task),
        metric=metric(value.metric),
        budget=search_pb2.Budget(trial_count=value.budget.trial_count),
        max_parallel_trials=value.max_parallel_trials,
        seed=value.seed,
        ignored_columns=value.ignored_columns,
        weight_column=value.weight_column,
        group_column=value.group_column,
        time_column=value.time_column,
        families=[f"families/{f}" for f in value.families],
        without_early_stopping=value.without_early_stopping,
    )
    if value.budget.wall_time_s is not None:
        _set_duration(message.budget.wall_time, value.budget.wall_time_s)
    if value.budget.started_before_s:
        _set_duration(message.budget.started_before, value.budget.started_before_s)
    if value.budget.queue_timeout_s is not None:
        _set_duration(message.budget.queue_timeout, value.budget.queue_timeout_s)
    return message


def _set_duration(message: "Duration", seconds: float) -> None:
    message.FromNanoseconds(round(seconds * 1e9))


def experiment(value: Experiment) -> search_pb2.Experiment:
    plan = value.plan
    message = search_pb2.Experiment(
        name=str(value.name),
        state=search_pb2.ExperimentState.Value(f"EXPERIMENT_STATE_{value.state.name}"),
        spec=spec(plan.spec),
        classes=plan.classes,
        best_model=str(ModelName(value.name, str(value.best_model))) if value.best_model else "",
        best_score=value.best_score,
        finished_trial_count=value.finished_trial_count,
        running_trial_count=value.running_trial_count,
        early_stopping=search_pb2.EarlyStopping(
            paused_trial_count=value.early_stopping.paused_count,
            audit_count=value.early_stopping.held_count,
            improved_audit_count=value.early_stopping.improved_count,
        ),
        warnings=[
            problem_pb2.Warning(reason=w.reason, message=w.message, column=w.column)
            for w in plan.warnings
        ],
        problem=problem(value.problem),
        create_time=timestamp(plan.create_time),
        etag=etag(value),
        revision=value.revision,
        refit_of=plan.refit.model if plan.refit is not None else "",
        budget_start=search_pb2.BudgetStart.Value(f"BUDGET_START_{plan.budget_start.name}"),
    )
    if value.wait is not None:
        message.wait.reason = value.wait.reason
        message.wait.message = value.wait.message
        message.wait.position = value.wait.position
    if plan.deadline is not None:
        message.deadline.CopyFrom(timestamp(plan.deadline))
    if plan.start_time is not None:
        message.start_time.CopyFrom(timestamp(plan.start_time))
    if plan.queue_deadline is not None:
        message.queue_deadline.CopyFrom(timestamp(plan.queue_deadline))
    if value.end_time is not None:
        message.end_time.CopyFrom(timestamp(value.end_time))
    return message


def choice(value: Choice) -> search_pb2.Choice:
    match value.value:
        case bool(flag):
            return search_pb2.Choice(symbol=value.symbol, flag=flag)
        case int(integer):
            return search_pb2.Choice(symbol=value.symbol, integer=integer)
        case float(number):
            return search_pb2.Choice(symbol=value.symbol, number=number)
        case production:
            return search_pb2.Choice(symbol=value.symbol, production=production)


def derivation(value: Derivation) -> list[search_pb2.Choice]:
    return [choice(c) for c in value]


def trial(value: Trial) -> search_pb2.Trial:
    message = search_pb2.Trial(
        name=str(value.name),
        state=search_pb2.TrialState.Value(f"TRIAL_STATE_{value.state.name}"),
        epoch=value.epoch,
        family=f"families/{value.family}",
        derivation=derivation(value.derivation),
        origin=value.origin,
        score=value.interim_score,
        attempts=[
            search_pb2.AttemptCount(
                cause=search_pb2.AttemptCause.Value(f"ATTEMPT_CAUSE_{cause.name}"), count=count
            )
            for cause, count in value.attempts.items()
        ],
        problem=problem(value.problem),
        log_tail=value.log_tail[-LOG_TAIL_CHARACTERS:],
        create_time=timestamp(value.create_time),
        finished_folds=value.finished_folds,
        fold_count=value.fold_count,
        revision=value.revision,
    )
    if value.result is not None:
        message.score = value.result.score
        message.metrics.update(value.result.metrics)
        message.fit_s = value.result.fit_s
    if value.start_time is not None:
        message.start_time.CopyFrom(timestamp(value.start_time))
    if value.end_time is not None:
        message.end_time.CopyFrom(timestamp(value.end_time))
    return message


def model_source(value: Experiment, view: ModelView) -> search_pb2.ModelSource:
    """Everything that an exporter needs; the same for the same model whenever it is made."""
    plan, first = value.plan, view.trials[0]
    several = len(view.trials) > 1
    versions: dict[str, str] = {}
    for made_of in view.trials:
        versions |= made_of.library_versions
    source = search_pb2.ModelSource(
        model=str(view.model.name),
        task=task(plan.spec.task),
        classes=plan.classes,
        target=plan.spec.target,
        metric=metric(plan.spec.metric),
        score=view.model.score,
        dataset_version=str(plan.spec.dataset_version),
        trials=[str(made_of.name) for made_of in view.trials],
        family=f"families/{ENSEMBLE if several else first.family}",
        library_versions=versions,
        seed=plan.spec.seed,
        members=_members(view) if several else [],
        calibration=_calibration(view.model),
    )
    if first.result is not None:
        source.metrics.update(view.model.metrics or first.result.metrics)
        source.validation_row_count = first.result.validation_row_count
    if first.result is not None and not several:
        source.graph_sha256 = first.result.graph_sha256
        source.reference_sha256 = first.result.reference_sha256
    return source


def _members(view: ModelView) -> list[search_pb2.ModelMember]:
    return [
        search_pb2.ModelMember(
            trial=str(made_of.name),
            weight=member.weight,
            family=f"families/{made_of.family}",
            graph_sha256=made_of.result.graph_sha256 if made_of.result else "",
            reference_sha256=made_of.result.reference_sha256 if made_of.result else "",
        )
        for member, made_of in zip(view.model.parts, view.trials, strict=True)
    ]


def _calibration(value: Model) -> search_pb2.Calibration | None:
    if value.calibration is None:
        return None
    return search_pb2.Calibration(
        temperature=value.calibration.temperature,
        ece_before=value.calibration.ece_before,
        ece_after=value.calibration.ece_after,
    )


def model(value: Experiment, view: ModelView) -> search_pb2.Model:
    made = view.model
    message = search_pb2.Model(
        name=str(made.name),
        state=search_pb2.ModelState.Value(f"MODEL_STATE_{made.state.name}"),
        source=model_source(value, view),
        export=made.export,
        problem=problem(made.problem),
        create_time=timestamp(made.create_time),
        revision=made.revision,
    )
    if made.artefact is not None:
        message.artefact_sha256 = made.artefact.artefact_sha256
        message.manifest_sha256 = made.artefact.manifest_sha256
        message.artefact_size_bytes = made.artefact.size_bytes
    if made.ready_time is not None:
        message.ready_time.CopyFrom(timestamp(made.ready_time))
    return message


def family(grammar: Grammar, name: str, offer: OfferedFamily | None) -> search_pb2.Family:
    """A family as the last trainer offered it; before the first trainer it counts as available."""
    unavailable = offer.unavailable if offer is not None else None
    return search_pb2.Family(
        name=f"families/{name}",
        title=grammar.title(name),
        tasks=[task(t) for t in TaskType],
        available=unavailable is None,
        unavailable=problem(unavailable),
    )

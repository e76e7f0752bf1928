"""From what was asked for to the plan of an experiment; everything is checked here."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from allotment_controller.domain.budget import check_budget, given
from allotment_controller.domain.decisions import choose_split, with_split
from allotment_controller.domain.experiment import Budget, BudgetStart, ExperimentSpec, Plan
from allotment_controller.domain.ports import ColumnView, TableView, TargetView
from allotment_controller.domain.task import Metric, TaskType
from allotment_core.errors import FieldViolation, InvalidArgument, clip
from allotment_core.names import VersionName
from allotment_search import Grammar, TaskShape, Traits

MIN_ROW_COUNT = 5
MAX_CLASS_COUNT = 1000
MAX_PARALLEL_TRIALS = 1000
_FEATURE_TYPES = frozenset({"numeric", "categorical", "date", "text"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the caller asked for; None and empty fields are inferred."""

    dataset_version: VersionName
    target: str
    task: TaskType | None
    metric: Metric | None
    budget: Budget
    max_parallel_trials: int
    seed: int
    ignored_columns: tuple[str, ...]
    weight_column: str
    group_column: str
    time_column: str
    families: tuple[str, ...]
    without_early_stopping: bool = False


def check_wish(wish: Wish, grammar: Grammar) -> None:
    """What can be said before the data is looked at. Raises: InvalidArgument."""
    check_budget(wish.budget)
    if not 0 <= wish.max_parallel_trials <= MAX_PARALLEL_TRIALS:
        raise _invalid(
            "INVALID_PARALLELISM",
            "max_parallel_trials",
            f"max_parallel_trials is {wish.max_parallel_trials}; it has to be 1 to "
            f"{MAX_PARALLEL_TRIALS:,}, or 0 for as many as the pool has slots",
        )
    for family in wish.families:
        if family not in grammar.families:
            raise _invalid(
                "UNKNOWN_FAMILY",
                "families",
                f"there is no model family {clip(family)!r}; there are "
                + ", ".join(grammar.families),
            )
    if wish.task is not None and wish.metric is not None:
        _check_metric(wish.metric, wish.task)


def check_columns(wish: Wish, table: TableView) -> None:
    """Every column that was named is there, and for one purpose. Raises: InvalidArgument."""
    names = [c.name for c in table.columns]
    if wish.target not in names:
        raise _unknown_column("target", "TARGET_NOT_FOUND", "target column", wish.target, names)
    for field, column in (
        ("weight_column", wish.weight_column),
        ("group_column", wish.group_column),
        ("time_column", wish.time_column),
        *(("ignored_columns", c) for c in wish.ignored_columns),
    ):
        if column and column not in names:
            raise _unknown_column(field, "COLUMN_NOT_FOUND", "column", column, names)
        if column and column == wish.target:
            raise _invalid(
                "COLUMN_CONFLICT",
                field,
                f"column {clip(column)!r} is the target and can't be {field} too",
            )
    if wish.weight_column:
        weight = next(c for c in table.columns if c.name == wish.weight_column)
        if weight.type != "numeric":
            raise _invalid(
                "WEIGHT_NOT_NUMERIC",
                "weight_column",
                f"the weight column {clip(weight.name)!r} is {weight.type}; weights are numbers",
            )


def make_plan(
    wish: Wish,
    table: TableView,
    target: TargetView,
    grammar: Grammar,
    now: datetime,
    budget_start: BudgetStart = BudgetStart.CREATED,
) -> Plan:
    """The plan of an experiment on this data. Raises: InvalidArgument when it can't be learnt."""
    metric = wish.metric or Metric.default(target.task)
    _check_metric(metric, target.task)
    _check_target(wish.target, target)
    weight = wish.weight_column or _with_role(table, "weight", wish)
    group = wish.group_column or _with_role(table, "group", wish)
    time = wish.time_column or _with_role(table, "time", wish)
    spoken_for = {wish.target, weight, group, time, *wish.ignored_columns}
    features = [
        c
        for c in table.columns
        if c.name not in spoken_for and not c.ignored and c.type in _FEATURE_TYPES
    ]
    if not features:
        raise _invalid(
            "NO_FEATURES",
            "dataset_version",
            f"no column is left to learn from: {len(table.columns)} columns without the target, "
            "ignored, constant and id columns leave none",
        )
    seed = wish.seed
    shape = _shape(target, table, wish.target, features)
    split = choose_split(shape, grammar, seed, wish.budget.wall_time_s, group, time)
    spec = ExperimentSpec(
        dataset_version=table.version,
        target=wish.target,
        task=target.task,
        metric=metric,
        budget=wish.budget,
        max_parallel_trials=wish.max_parallel_trials,
        seed=seed,
        ignored_columns=wish.ignored_columns,
        weight_column=weight,
        group_column=group,
        time_column=time,
        families=wish.families,
        without_early_stopping=wish.without_early_stopping,
    )
    plan = Plan(
        spec=spec,
        classes=target.classes,
        feature_columns=tuple(c.name for c in features),
        shape=with_split(shape, split),
        split=split,
        warnings=tuple(dict.fromkeys((*table.warnings, *target.warnings))),
        table=table.table,
        create_time=now,
        deadline=None,
        budget_start=budget_start,
        traits=_traits(shape, table, target, features),
    )
    return given(plan, wish.budget, now)


def _shape(
    target: TargetView, table: TableView, target_column: str, features: Collection[ColumnView]
) -> TaskShape:
    minimum = next(c.minimum for c in table.columns if c.name == target_column)
    return TaskShape(
        task=target.task.value,
        row_count=target.labelled_row_count,
        numeric_count=sum(c.type == "numeric" for c in features),
        category_count=sum(c.type == "categorical" for c in features),
        date_count=sum(c.type == "date" for c in features),
        text_count=sum(c.type == "text" for c in features),
        class_count=len(target.classes),
        target_minimum=minimum if target.task is TaskType.REGRESSION else None,
    )


def _traits(
    shape: TaskShape, table: TableView, target: TargetView, features: Collection[ColumnView]
) -> Traits:
    cell_count = table.row_count * len(features)
    return Traits.of(
        shape,
        level_count=max((c.distinct_count for c in features if c.type == "categorical"), default=0),
        missing_share=sum(c.missing_count for c in features) / max(1, cell_count),
        rarest_share=target.rarest_share,
    )


def _check_target(name: str, target: TargetView) -> None:
    if target.labelled_row_count < MIN_ROW_COUNT:
        raise _invalid(
            "TOO_FEW_ROWS",
            "target",
            f"{target.labelled_row_count} rows have a value in {clip(name)!r}; "
            f"at least {MIN_ROW_COUNT} are needed",
        )
    if target.task is TaskType.REGRESSION:
        return
    if len(target.classes) < 2:
        raise _invalid(
            "ONE_CLASS",
            "target",
            f"the target {clip(name)!r} has {len(target.classes)} class; at least 2 are needed",
        )
    if len(target.classes) > MAX_CLASS_COUNT:
        raise _invalid(
            "TOO_MANY_CLASSES",
            "target",
            f"the target {clip(name)!r} has {len(target.classes):,} classes; at most "
            f"{MAX_CLASS_COUNT:,} can be learnt: is it an id, or a regression target?",
        )


def _check_metric(metric: Metric, task: TaskType) -> None:
    if task not in metric.tasks:
        fitting = ", ".join(m.value for m in Metric if task in m.tasks)
        raise _invalid(
            "METRIC_TASK_MISMATCH",
            "metric",
            f"the metric {metric.value} can't score a {task.value} task; "
            f"choose one of {fitting}, or another task",
        )


def _with_role(table: TableView, role: str, wish: Wish) -> str:
    taken = {wish.target, *wish.ignored_columns}
    names = (c.name for c in table.columns if c.role == role and c.name not in taken)
    return next(names, "")


def _unknown_column(
    field: str, reason: str, what: str, name: str, names: list[str]
) -> InvalidArgument:
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    hint = " or ".join(repr(clip(folded[c])) for c in close)
    shown = ", ".join(clip(n, 40) for n in names[:8]) + (", ..." if len(names) > 8 else "")
    return _invalid(
        reason,
        field,
        f"there is no {what} {clip(name)!r}; "
        + (f"did you mean {hint}?" if hint else f"the columns are {shown}"),
    )


def _invalid(reason: str, field: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        message, reason=reason, violations=(FieldViolation(f"spec.{field}", message),)
    )

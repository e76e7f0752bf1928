"""Refits: a model's trials trained again on newer rows, without a search.

A refit is an experiment of its own whose every trial is known beforehand: the members of the model
that is refitted. It makes one model, of all of them, by the same weights and temperature. Pure.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from allotment_controller.domain.creation import Wish, check_columns, make_plan
from allotment_controller.domain.decisions import trial_seed
from allotment_controller.domain.experiment import Budget, Plan, Refit
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.model import Member, Model, ModelState, Recipe
from allotment_controller.domain.ports import TableView, TargetView
from allotment_controller.domain.trial import Trial, TrialState
from allotment_core.errors import FailedPrecondition, FieldViolation, InvalidArgument, clip
from allotment_search import Grammar

ORIGIN = "REFIT"
_SHOWN = 5


def check_refit(model: Model) -> None:
    """Raises: FailedPrecondition unless it was proven."""
    if model.state is not ModelState.READY:
        raise FailedPrecondition(
            f"{model.name} is {model.state.name}; only a model that is READY can be refitted",
            reason="MODEL_NOT_READY",
            state=model.state.name,
        )


def check_target_column(target: str, table: TableView) -> None:
    """Raises: InvalidArgument when the table has no such column."""
    if all(c.name != target for c in table.columns):
        message = f"{table.version} has no column {clip(target)!r}, which the model predicts"
        raise InvalidArgument(
            message,
            reason="TARGET_NOT_FOUND",
            violations=(FieldViolation("dataset_version", message),),
        )


def plan_refit(
    source: Plan,
    model: Model,
    trials: Mapping[int, Trial],
    table: TableView,
    target: TargetView,
    grammar: Grammar,
    now: datetime,
) -> Plan:
    """The plan of the model's refit on this data, divided by the same rule.

    Raises: InvalidArgument when the data lacks what the model reads, or can't be learnt.
    """
    spec = source.spec
    special = {spec.target, spec.weight_column, spec.group_column, spec.time_column}
    read = set(source.feature_columns)
    wish = Wish(
        dataset_version=table.version,
        target=spec.target,
        task=spec.task,
        metric=spec.metric,
        budget=Budget(trial_count=len(model.parts)),
        max_parallel_trials=spec.max_parallel_trials,
        seed=spec.seed,
        ignored_columns=tuple(c.name for c in table.columns if c.name not in read | special),
        weight_column=spec.weight_column,
        group_column=spec.group_column,
        time_column=spec.time_column,
        families=(),
        without_early_stopping=True,
    )
    check_columns(wish, table)
    made = make_plan(wish, table, target, grammar, now, source.budget_start)
    _check_same_columns(source, made)
    split = replace(
        source.split,
        part_count=min(source.split.part_count, max(2, target.labelled_row_count // 2)),
    )
    return replace(
        made,
        feature_columns=source.feature_columns,
        split=split,
        shape=replace(made.shape, fit_count=split.fit_count),
        refit=Refit(
            model=str(model.name),
            trials=tuple(_first_number(source, m.trial) for m in model.parts),
            derivations=tuple(trials[m.trial].derivation for m in model.parts),
            weights=tuple(m.weight for m in model.parts),
            temperature=model.calibration.temperature if model.calibration else None,
        ),
    )


def _first_number(source: Plan, number: int) -> int:
    """Of the trial that was trained first, over refits of refits."""
    return number if source.refit is None else source.refit.trials[number - 1]


def training_seed(plan: Plan, trial: Trial) -> int:
    """The seed of a trial's training; a refitted trial keeps its own."""
    number = trial.number if plan.refit is None else plan.refit.trials[trial.number - 1]
    return trial_seed(plan.spec.seed, number)


def _check_same_columns(source: Plan, made: Plan) -> None:
    missing = [c for c in source.feature_columns if c not in made.feature_columns]
    if missing:
        named = ", ".join(repr(clip(c)) for c in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        message = (
            f"{made.spec.dataset_version} has no usable column {named}{more}, which the model "
            "reads; name a version that has them, or search anew"
        )
        raise InvalidArgument(
            message,
            reason="COLUMN_NOT_FOUND",
            violations=(FieldViolation("dataset_version", message),),
        )


def next_refit(
    edit: Edit, refit: Refit, offered: Collection[str], grammar: Grammar
) -> Trial | None:
    """The next of the members; what waits in the queue first."""
    for trial in edit.active_trials():
        if trial.state is TrialState.QUEUED and trial.family in offered:
            return trial
    begun = edit.trial_count
    if begun >= len(refit.derivations):
        return None
    derivation = refit.derivations[begun]
    if str(derivation[0].value) not in offered:
        return None
    return Trial(
        experiment=edit.experiment.name,
        number=begun + 1,
        derivation=derivation,
        origin=ORIGIN,
        create_time=edit.now,
        cost_s=grammar.cost_s(derivation, edit.experiment.plan.shape),
    )


def refit_recipe(edit: Edit, refit: Refit) -> Recipe | None:
    """What the one model of a refit is made of, once every member is trained."""
    if edit.model_count or edit.success_count < len(refit.derivations):
        return None
    if len(refit.derivations) > 1 or refit.temperature is not None:
        return edit.ledger.mix.recipe
    trial = edit.trial(1)
    if trial is None or trial.result is None:
        return None
    return Recipe(members=(Member(1),), score=trial.result.score)


def members_of(refit: Refit) -> Sequence[Member]:
    """A refit's own trials, with the weights of the model that it was made of."""
    return [Member(number, weight) for number, weight in enumerate(refit.weights, start=1)]

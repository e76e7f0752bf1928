"""Early stopping: which trials are judged, put off and taken up again.

Pure functions of an edit: its history, the trials' seeds, and nothing else.
"""

from collections.abc import Container

from allotment_controller.domain.decisions import CONSTANT, trial_seed
from allotment_controller.domain.experiment import Plan
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.trial import Trial, TrialState
from allotment_search.halving import Halving

_SPARED = frozenset({"CONSTANT", "DEFAULT", "REFIT"})
"""Origins of trials that everything else is measured by."""


def rungs_of(plan: Plan, trial: Trial, rule: Halving) -> tuple[int, ...]:
    """After how many folds a trial is still to be judged; empty: it runs to its end."""
    folds = plan.split.fit_count
    if plan.spec.without_early_stopping or trial.family == CONSTANT or trial.origin in _SPARED:
        return ()
    if trial.cost_s * (folds - 1) / folds < rule.least_saving_s:
        return ()
    return tuple(rung for rung in rule.rungs(folds) if rung > trial.cleared_folds)


def judged(edit: Edit, trial: Trial, rule: Halving) -> Trial:
    """A trial that has reported a fold: put off if that is a rung and others did better there."""
    folds = trial.finished_folds
    plan = edit.experiment.plan
    if folds not in rungs_of(plan, trial, rule):
        return trial
    loss = trial.loss_after(folds, plan.spec.metric)
    rung = edit.rung(folds)
    seasoned = (
        edit.success_count >= rule.grace
        and edit.ledger.finished_in(trial.family) >= rule.family_grace
    )
    if loss is None or rung is None or not seasoned or rung.keeps((loss, trial.number), rule):
        return trial.cleared(folds)
    if rule.is_audit(trial_seed(plan.spec.seed, trial.number)):
        return trial.spared(folds)
    return trial.put_off(edit.now)


def next_promoted(edit: Edit, rule: Halving, passed_over: Container[int]) -> Trial | None:
    """The trial that was put off and is among the best of its rung now; of the highest rung."""
    for folds in edit.rungs_from_top():
        rung = edit.rung(folds)
        entry = rung.promotable(rule, passed_over) if rung is not None else None
        if entry is not None:
            return edit.trial(entry[1])
    return None


def next_paused(edit: Edit, passed_over: Container[int]) -> Trial | None:
    """The best trial that was put off, of the highest rung: for when there is nothing new."""
    for folds in edit.rungs_from_top():
        rung = edit.rung(folds)
        entry = rung.best_paused(passed_over) if rung is not None else None
        if entry is not None:
            return edit.trial(entry[1])
    return None


def improved(edit: Edit, trial: Trial) -> Trial:
    """A trial that has just succeeded; marked where it was spared and beat all before it."""
    if not trial.held_at or trial.state is not TrialState.SUCCEEDED or trial.result is None:
        return trial
    loss = edit.experiment.plan.spec.metric.loss(trial.result.score)
    best = edit.ledger.best_loss
    return trial.marked_improved() if best is None or loss < best else trial

"""Early stopping: which trials are judged, put off and taken up again.

Pure functions of an edit: its history, the trials' seeds, and nothing else.
"""

from collections.abc import Container
from fractions import Fraction

from allotment_controller.domain.decisions import CONSTANT, trial_seed
from allotment_controller.domain.experiment import Plan
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.trial import Trial, TrialState
from allotment_search.halving import SCALES, Amount, Halving, Level

_SPARED = frozenset({"CONSTANT", "DEFAULT", "REFIT"})
"""Origins of trials that everything else is measured by."""


def rungs_of(plan: Plan, trial: Trial, rule: Halving) -> tuple[Amount, ...]:
    """After how much a trial is still to be judged, ascending; empty: it runs to its end."""
    folds = plan.split.fit_count
    if plan.spec.without_early_stopping or trial.family == CONSTANT or trial.origin in _SPARED:
        return ()
    fit_s = trial.cost_s / folds
    rungs: list[Amount] = [
        amount
        for amount in (Fraction(1, n) for n in rule.fit_rungs)
        if trial.family in SCALES and fit_s * (1 - amount) >= rule.least_saving_s
    ]
    if fit_s * (folds - 1) >= rule.least_saving_s:
        rungs += rule.rungs(folds)
    return tuple(amount for amount in rungs if amount > trial.cleared_folds)


def judged(edit: Edit, trial: Trial, rule: Halving) -> Trial:
    """A trial that has told how far it is: put off if that is a rung and others did better
    there."""
    amount = trial.reached
    plan = edit.experiment.plan
    level = Level.of(trial.family, amount)
    if level is None or amount not in rungs_of(plan, trial, rule):
        return trial
    loss = trial.loss_after(amount, plan.spec.metric)
    rung = edit.rung(level)
    seasoned = (
        edit.success_count >= rule.grace
        and edit.ledger.finished_in(trial.family) >= rule.family_grace
    )
    if loss is None or rung is None or not seasoned or rung.keeps((loss, trial.number), rule):
        return trial.cleared(amount)
    if rule.is_audit(trial_seed(plan.spec.seed, trial.number)):
        return trial.spared(amount)
    return trial.put_off(edit.now)


def next_promoted(edit: Edit, rule: Halving, passed_over: Container[int]) -> Trial | None:
    """The trial that was put off and is among the best of its rung now; of the highest rung."""
    for rung in edit.rungs_from_top():
        entry = rung.promotable(rule, passed_over)
        if entry is not None:
            return edit.trial(entry[1])
    return None


def next_paused(edit: Edit, passed_over: Container[int]) -> Trial | None:
    """The best trial that was put off, of the highest rung: for when there is nothing new."""
    for rung in edit.rungs_from_top():
        entry = rung.best_paused(passed_over)
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

"""What to do next: pure functions of history, seed and, under a time budget, the time left."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from functools import partial

from allotment_controller.domain.experiment import ExperimentState, Plan
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.prepared import Prepared, affordable
from allotment_controller.domain.task import Split, SplitMethod
from allotment_controller.domain.trial import Trial, TrialState
from allotment_search import Grammar, TaskShape, next_default, next_random

CONSTANT = "constant"
_AMPLE_SHARE = 0.5
HOPELESS_AFTER = 10
"""Trials that may fail in a row at the start before the experiment fails."""
_LARGE_ROW_COUNT = 200_000
_FOLD_COUNTS = (8, 5)
"""The first affordable one is taken: more folds leave each of them more rows to learn from."""
_FOLDS_SHARE = 1 / 12
"""Folds, while all fits of a plain boosting trial take no more than this share of the budget."""


def choose_split(
    shape: TaskShape,
    grammar: Grammar,
    seed: int,
    wall_time_s: float | None,
    group_column: str,
    time_column: str,
) -> Split:
    """Folds while the data is small against the budget, else or with a time order a hold-out.

    ``shape.fit_count`` is not read.
    """
    rows = shape.row_count
    affordable = (
        count
        for count in _FOLD_COUNTS
        if wall_time_s is None
        or _boosting_cost_s(grammar, _with_fits(shape, count)) <= wall_time_s * _FOLDS_SHARE
    )
    folds = None if time_column or rows > _LARGE_ROW_COUNT else next(affordable, None)
    hold_out = 10 if rows >= 10_000 else 5
    return Split(
        method=SplitMethod.FOLDS if folds else SplitMethod.HOLD_OUT,
        part_count=min(folds or hold_out, max(2, rows // 2)),
        seed=seed,
        group_column=group_column,
        time_column=time_column,
    )


def _boosting_cost_s(grammar: Grammar, shape: TaskShape) -> float:
    return grammar.cost_s(grammar.default("lightgbm", "default", shape), shape)


def _with_fits(shape: TaskShape, fit_count: int) -> TaskShape:
    return replace(shape, fit_count=fit_count)


def with_split(shape: TaskShape, split: Split) -> TaskShape:
    """The shape of a task that is split like this."""
    return _with_fits(shape, split.fit_count)


def trial_seed(seed: int, number: int) -> int:
    """The seed of one trial's training: 63 bits, spread by splitmix64."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) >> 1


def next_trial(
    edit: Edit,
    grammar: Grammar,
    offered: Collection[str],
    training_ends: datetime | None,
    prepared: Prepared | None = None,
) -> Trial | None:
    """The trial that a trainer which offers these families gets; a new one is not yet in the edit.

    Queued trials go first, by number, then the portfolio, then what the sampler has ``prepared``;
    without one, or when slots don't wait for it, random draws. ``training_ends``: when trials are
    stopped; None: never.
    """
    plan = edit.experiment.plan
    families = frozenset(allowed_families(plan, grammar) & set(offered))
    for trial in edit.active_trials():
        if trial.state is TrialState.QUEUED and trial.family in families:
            return trial
    if plan.spec.budget.trial_count and edit.trial_count >= plan.spec.budget.trial_count:
        return None
    known = edit.known()
    left_s = seconds_left(plan, edit.now, training_ends)
    may = partial(affordable, grammar, plan.shape, tuple(edit.ledger.timings), left_s)
    proposal = None
    if not edit.ledger.is_past_defaults(grammar, families):
        proposal = next_default(grammar, plan.shape, families, known, may)
    basis = None
    if proposal is None and prepared is not None:
        ready = prepared.take(known.__contains__, families, may)
        if ready is not None:
            proposal, basis = ready.proposal, ready.basis
        elif prepared.patient:
            return None
    if proposal is None:
        proposal = next_random(grammar, plan.shape, families, known, plan.spec.seed, may)
    if proposal is None:
        return None
    return Trial(
        experiment=edit.experiment.name,
        number=edit.trial_count + 1,
        derivation=proposal.derivation,
        origin=proposal.origin,
        create_time=edit.now,
        cost_s=grammar.cost_s(proposal.derivation, plan.shape),
        basis=basis,
    )


def allowed_families(plan: Plan, grammar: Grammar) -> set[str]:
    """Those that were asked for, or all; the constant predictor in any case."""
    return set(plan.spec.families or grammar.families) | {CONSTANT}


def seconds_left(plan: Plan, now: datetime, training_ends: datetime | None) -> float | None:
    """Seconds of training that are left; None while that is much of the whole."""
    if training_ends is None or plan.deadline is None:
        return None
    left_s = (training_ends - now).total_seconds()
    total_s = (plan.deadline - plan.begin_time).total_seconds()
    return None if left_s > _AMPLE_SHARE * total_s else left_s


def is_hopeless(edit: Edit) -> bool:
    """Whether so many trials have failed, and none succeeded, that more of them are in vain.

    Those before a new budget don't count: what was wrong may have been mended.
    """
    if edit.success_count or edit.trial_count < HOPELESS_AFTER:
        return False
    begin = edit.experiment.plan.begin_time
    trials = (edit.trial(n) for n in range(1, edit.trial_count + 1))
    failed = sum(1 for t in trials if t and not t.is_open and t.create_time >= begin)
    return failed >= HOPELESS_AFTER


def wanted_slots(edit: Edit, slot_count: int, *, exhausted: bool) -> int:
    """How many trainers the experiment could use now. ``exhausted``: no new trial can be begun."""
    spec = edit.experiment.plan.spec
    open_count = len(edit.active_trials())
    if edit.experiment.state is ExperimentState.FINISHING:
        return min(1, open_count)
    if edit.experiment.state is not ExperimentState.RUNNING:
        return 0
    limit = spec.max_parallel_trials or max(1, slot_count)
    if exhausted:
        return min(limit, open_count)
    if spec.budget.trial_count:
        return min(limit, open_count + max(0, spec.budget.trial_count - edit.trial_count))
    return limit

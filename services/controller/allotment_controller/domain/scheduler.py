"""One step of an experiment: a pure function of its edit, its seats and the time.

Whatever happens to an experiment is put into an edit first; `advance` then brings the experiment
to where it has to be at this instant and says what follows from it. All of it is committed in one
transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from allotment_controller.domain.budget import OVERTIME_S, reserve_s
from allotment_controller.domain.decisions import (
    CONSTANT,
    is_hopeless,
    next_trial,
    wanted_slots,
)
from allotment_controller.domain.experiment import ExperimentState
from allotment_controller.domain.incumbent import next_model
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.messages import RunningTrial
from allotment_controller.domain.model import Model
from allotment_controller.domain.prepared import Prepared
from allotment_controller.domain.queueing import queue_problem, waited_too_long
from allotment_controller.domain.refitting import next_refit
from allotment_controller.domain.seat import Seat
from allotment_controller.domain.stopping import next_paused, next_promoted
from allotment_controller.domain.task import Problem
from allotment_controller.domain.trial import Trial, TrialState
from allotment_search import Grammar
from allotment_search.halving import Halving

CANCEL_GRACE_S = 10.0
LAST_EXPORT_LIMIT_S = 600.0
"""Without a deadline: how long the last exports may take."""
_ALLOCATOR_BACK_S = 15.0
"""An allocator that is away when the time in the queue is over has so long to come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What decisions depend on besides the experiment."""

    grammar: Grammar
    slot_count: int
    export_limit: int = 2
    """Models of one experiment that are exported at once."""
    trial_limit_s: float = 3600.0
    """Seconds that a trial may take where no deadline is nearer."""
    prepared: Prepared | None = None
    """The sampler's proposals; None: there is no sampler, trials are drawn at random."""
    halving: Halving = field(default_factory=Halving)
    hears_allocator: bool = True
    """Leases are known as they are now."""


@dataclass(slots=True)
class Effects:
    """What to do once the edit is committed."""

    assigned: list[tuple[Seat, Trial, datetime]] = field(default_factory=list)
    settled: list[Trial] = field(default_factory=list)
    """Trials that have ended and have a checkpoint."""
    stopped: list[tuple[Trial, str]] = field(default_factory=list)
    """Trials as a trainer has them, and why it has to leave them."""
    new_models: list[int] = field(default_factory=list)
    withdrawn: list[Model] = field(default_factory=list)
    """Models whose export is not waited for any more."""
    wanted: int = 0
    wake_at: datetime | None = None


def training_ends(edit: Edit) -> datetime | None:
    """When trials are stopped; None without a deadline."""
    plan = edit.experiment.plan
    if plan.deadline is None:
        return None
    total_s = (plan.deadline - plan.begin_time).total_seconds()
    return plan.deadline - timedelta(
        seconds=reserve_s(total_s, edit.ledger.export_timings_s, edit.ledger.mix.took_s)
    )


def advance(edit: Edit, seats: Sequence[Seat], policy: Policy) -> Effects:
    """Moves the experiment on: ends, assignments, exports, wants."""
    effects = Effects()
    if edit.experiment.ended:
        return effects
    ends = training_ends(edit)
    state = edit.experiment.state
    if state in (ExperimentState.RUNNING, ExperimentState.PAUSED) and ends and edit.now >= ends:
        begin_finish(edit, effects, ExperimentState.SUCCEEDED, "DEADLINE")
    elif _is_given_up(edit, policy):
        _fail(edit, effects, queue_problem(edit))
    elif state is ExperimentState.RUNNING and is_hopeless(edit):
        _fail(edit, effects, _why_no_model(edit))
    exhausted = _assign(edit, effects, seats, policy, ends)
    promoted = next_promoted(edit, policy.halving, ())
    if edit.experiment.state is ExperimentState.RUNNING and not (edit.active_trials() or promoted):
        limit = edit.experiment.plan.spec.budget.trial_count
        if exhausted or (limit and edit.trial_count >= limit):
            begin_finish(edit, effects, ExperimentState.SUCCEEDED, "DEADLINE")
    _export(edit, effects, policy)
    if edit.experiment.state is ExperimentState.FINISHING:
        _end(edit, effects)
    effects.wanted = wanted_slots(edit, policy.slot_count, exhausted=exhausted)
    promotes = promoted is not None and edit.experiment.state is ExperimentState.RUNNING
    if _must_start(edit) or (promotes and not effects.wanted):
        effects.wanted = 1
    effects.wake_at = _wake_at(edit, ends)
    effects.settled = [t for t in edit.ended_trials() if t.checkpoint_sha256]
    return effects


def _is_given_up(edit: Edit, policy: Policy) -> bool:
    """Whether it has waited for its first lease long enough. Where leases are not known, as after
    a restart, it may hold one: that is waited for a little."""
    if not waited_too_long(edit):
        return False
    deadline = edit.experiment.plan.queue_deadline
    late = deadline is not None and edit.now >= deadline + timedelta(seconds=_ALLOCATOR_BACK_S)
    return policy.hears_allocator or late


def begin_finish(edit: Edit, effects: Effects, ends_as: ExperimentState, reason: str) -> None:
    """No more trials; what was trained is exported. Without a model the first trial stays."""
    plan = edit.experiment.plan
    limit_s = CANCEL_GRACE_S if ends_as is ExperimentState.CANCELLED else LAST_EXPORT_LIMIT_S
    finish_by = edit.now + timedelta(seconds=limit_s)
    if plan.deadline is not None:
        finish_by = max(edit.now, min(finish_by, plan.deadline))
    edit.experiment = replace(
        edit.experiment.to(ExperimentState.FINISHING), ends_as=ends_as, finish_by=finish_by
    )
    for trial in edit.open_trials():
        if not (trial.family == CONSTANT and needs_first_model(edit)):
            _cancel(edit, effects, trial, reason)


def needs_first_model(edit: Edit) -> bool:
    """No model is there or on its way, and the experiment is still meant to have one."""
    return (
        edit.experiment.ends_as is not ExperimentState.CANCELLED
        and not edit.experiment.best_model
        and not edit.exporting_models()
        and next_model(edit) is None
    )


def _cancel(edit: Edit, effects: Effects, trial: Trial, reason: str) -> None:
    if trial.is_out:
        effects.stopped.append((trial, reason))
    edit.put_trial(trial.cancelled(edit.now))


def _assign(
    edit: Edit,
    effects: Effects,
    seats: Sequence[Seat],
    policy: Policy,
    ends: datetime | None,
) -> bool:
    """Gives free seats their next trial; whether a free seat got none because there is none."""
    exhausted = False
    for seat in seats:
        if not seat.is_free:
            continue
        missing = _missing(policy)
        trial = _next_for(edit, seat, seats, policy, ends)
        if trial is None:
            running = edit.experiment.state is ExperimentState.RUNNING
            exhausted = exhausted or (running and _missing(policy) == missing)
            continue
        out = edit.put_trial(trial.assigned(str(seat.lease), seat.lease_epoch))
        seat_deadline = edit.now + timedelta(seconds=policy.trial_limit_s)
        if ends is not None:
            seat_deadline = min(seat_deadline, _training_deadline(edit, out, ends))
        effects.assigned.append((seat, out, seat_deadline))
    return exhausted


def _next_for(
    edit: Edit, seat: Seat, seats: Sequence[Seat], policy: Policy, ends: datetime | None
) -> Trial | None:
    if edit.experiment.state is ExperimentState.RUNNING:
        return _next_running(edit, seat, seats, policy, ends)
    if edit.experiment.state is not ExperimentState.FINISHING or not needs_first_model(edit):
        return None
    if edit.trial_count == 0:
        return next_trial(edit, policy.grammar, {CONSTANT} & seat.families, None)
    waiting = [t for t in edit.active_trials() if t.state is TrialState.QUEUED]
    return waiting[0] if waiting else None


def _next_running(
    edit: Edit, seat: Seat, seats: Sequence[Seat], policy: Policy, ends: datetime | None
) -> Trial | None:
    """What waits in the queue, what was put off and is among the best now, a new trial, and where
    there is no new one what was put off."""
    refit = edit.experiment.plan.refit
    if refit is not None:
        return next_refit(edit, refit, seat.families, policy.grammar)
    passed_over = _PassedOver(edit, seat, seats)
    queued = any(
        t.state is TrialState.QUEUED and t.family in seat.families for t in edit.active_trials()
    )
    if not queued and (trial := next_promoted(edit, policy.halving, passed_over)) is not None:
        return trial.taken_up()
    missing = _missing(policy)
    trial = next_trial(edit, policy.grammar, seat.families, ends, policy.prepared)
    limit = edit.experiment.plan.spec.budget.trial_count
    if trial is not None or (limit and edit.trial_count >= limit) or _missing(policy) > missing:
        return trial
    paused = next_paused(edit, passed_over)
    return None if paused is None else paused.taken_up()


def _missing(policy: Policy) -> int:
    """How many slots have found that the sampler's next proposal is still to come."""
    return 0 if policy.prepared is None else policy.prepared.missing


class _PassedOver:
    """Trials that were put off and that a trainer is still leaving, or that this one can't train.

    There may be many that were put off, and few of them are looked at.
    """

    def __init__(self, edit: Edit, seat: Seat, seats: Sequence[Seat]) -> None:
        self._edit = edit
        self._families = seat.families
        self._left_by = {s.busy for s in seats}

    def __contains__(self, number: object) -> bool:
        trial = self._edit.trial(number) if isinstance(number, int) else None
        if trial is None:
            return False
        leaving = RunningTrial(trial.name, trial.epoch) in self._left_by
        return leaving or trial.family not in self._families


def _training_deadline(edit: Edit, trial: Trial, ends: datetime) -> datetime:
    if trial.family == CONSTANT and not edit.experiment.best_model:
        return ends + timedelta(seconds=OVERTIME_S)
    return ends


def _export(edit: Edit, effects: Effects, policy: Policy) -> None:
    """Makes a model of what improves most, while there is room among the exports."""
    while len(edit.exporting_models()) < policy.export_limit:
        recipe = next_model(edit)
        if recipe is None:
            return
        model = Model(
            experiment=edit.experiment.name,
            number=edit.model_count + 1,
            trial=recipe.members[0].trial,
            score=recipe.score,
            create_time=edit.now,
            members=() if recipe.is_trial else recipe.members,
            calibration=recipe.calibration,
            metrics=recipe.metrics,
        )
        edit.put_model(model)
        effects.new_models.append(model.number)


def _end(edit: Edit, effects: Effects) -> None:
    """Ends a finishing experiment when nothing is left to wait for, or its time is over."""
    experiment = edit.experiment
    pending = edit.open_trials() or edit.exporting_models() or edit.mix_is_due
    if (pending or _must_start(edit)) and edit.now < _hard_end(edit):
        return
    for trial in edit.open_trials():
        _cancel(edit, effects, trial, "DEADLINE")
    _withdraw(edit, effects)
    state, problem = experiment.ends_as, None
    if state is ExperimentState.SUCCEEDED and not experiment.best_model:
        state, problem = ExperimentState.FAILED, _why_no_model(edit)
    edit.experiment = replace(
        experiment.to(state), problem=problem, wait=None, end_time=edit.now, finish_by=None
    )


def _must_start(edit: Edit) -> bool:
    """Its time is over before its first trial: that one is trained all the same."""
    finishing = edit.experiment.state is ExperimentState.FINISHING
    return finishing and edit.trial_count == 0 and needs_first_model(edit)


def _hard_end(edit: Edit) -> datetime:
    finish_by = edit.experiment.finish_by or edit.now
    hopes = edit.experiment.ends_as is ExperimentState.SUCCEEDED
    if hopes and not edit.experiment.best_model:
        return finish_by + timedelta(seconds=OVERTIME_S)
    return finish_by


def _withdraw(edit: Edit, effects: Effects) -> None:
    for model in edit.exporting_models():
        late = Problem("BUDGET_SPENT", "the experiment ended before this model was proven")
        effects.withdrawn.append(edit.put_model(model.refused(late)))


def _fail(edit: Edit, effects: Effects, problem: Problem) -> None:
    for trial in edit.open_trials():
        _cancel(edit, effects, trial, "CANCELLED")
    _withdraw(edit, effects)
    edit.experiment = replace(
        edit.experiment.to(ExperimentState.FAILED),
        problem=problem,
        wait=None,
        end_time=edit.now,
    )


def _why_no_model(edit: Edit) -> Problem:
    refused = [m.problem for n in range(1, edit.model_count + 1) if (m := edit.model(n))]
    for problem in refused:
        if problem is not None and problem.reason != "BUDGET_SPENT":
            return Problem(problem.reason, f"no model passed the export: {problem.message}")
    for number in range(1, edit.trial_count + 1):
        trial = edit.trial(number)
        if trial is not None and trial.problem is not None and not trial.is_open:
            what = "it can't be refitted" if edit.experiment.plan.refit else "no trial succeeded"
            return Problem(
                trial.problem.reason,
                f"{what}; trial {number} ({trial.family}): {trial.problem.message}",
            )
    wait = edit.experiment.wait
    waited = f": it waited for {wait.reason}: {wait.message}" if wait is not None else ""
    return Problem(
        "NO_MODEL_IN_TIME",
        "the budget was spent before a first model was ready; give it a larger budget, "
        f"or see whether a trainer could start{waited}",
    )


def _wake_at(edit: Edit, ends: datetime | None) -> datetime | None:
    if edit.experiment.state is ExperimentState.FINISHING:
        return _hard_end(edit)
    if edit.experiment.ended:
        return None
    return min((at for at in (ends, edit.experiment.plan.queue_deadline) if at), default=None)

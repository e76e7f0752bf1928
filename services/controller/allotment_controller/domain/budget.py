"""Hard budgets: when to stop assigning, when to stop training, when to end."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median

from allotment_controller.domain.experiment import (
    Budget,
    BudgetStart,
    Experiment,
    ExperimentState,
    Plan,
)
from allotment_controller.domain.ledger import Timing
from allotment_core.errors import FieldViolation, InvalidArgument

MIN_WALL_TIME_S = 10.0
MIN_REMAINING_S = 1.0
MAX_WALL_TIME_S = 366 * 86_400.0
MIN_QUEUE_TIMEOUT_S = 1.0
MAX_TRIAL_COUNT = 1_000_000
OVERTIME_S = 30.0
"""How long after the deadline an experiment without any model may go on to get its first one."""
_START_S = 0.3
"""What a trial takes besides fitting, before one was measured."""


def check_budget(budget: Budget) -> None:
    """Raises: InvalidArgument unless at least one limit is set and each is within its range."""
    if budget.wall_time_s is None and not budget.trial_count:
        raise _invalid(
            "NO_BUDGET", "the budget is empty; give wall_time (at least 10 s), trial_count, or both"
        )
    if not 0 <= budget.trial_count <= MAX_TRIAL_COUNT:
        raise _invalid(
            "INVALID_BUDGET",
            f"trial_count is {budget.trial_count}; it has to be 1 to {MAX_TRIAL_COUNT:,}",
        )
    if budget.started_before_s < 0:
        raise _invalid("INVALID_BUDGET", "started_before is negative; it has to be 0 or more")
    timeout_s = budget.queue_timeout_s
    if timeout_s is not None and not MIN_QUEUE_TIMEOUT_S <= timeout_s <= MAX_WALL_TIME_S:
        raise _invalid(
            "INVALID_QUEUE_TIMEOUT",
            f"queue_timeout is {timeout_s:g} s; it has to be {MIN_QUEUE_TIMEOUT_S:g} to "
            f"{MAX_WALL_TIME_S:,.0f} s, or left out to wait as long as it takes",
        )
    if budget.wall_time_s is None:
        return
    if budget.wall_time_s < MIN_WALL_TIME_S:
        raise _invalid(
            "BUDGET_TOO_SHORT",
            f"the budget is {budget.wall_time_s:g} s; it has to be at least {MIN_WALL_TIME_S:g} s",
        )
    if budget.wall_time_s > MAX_WALL_TIME_S:
        raise _invalid(
            "INVALID_BUDGET",
            f"wall_time is {budget.wall_time_s:g} s; it can be at most {MAX_WALL_TIME_S:,.0f} s",
        )
    left_s = budget.wall_time_s - budget.started_before_s
    if left_s < MIN_REMAINING_S:
        raise _invalid(
            "BUDGET_TOO_SHORT",
            f"{budget.started_before_s:.1f} s of the budget of {budget.wall_time_s:g} s had passed "
            f"before the search began; at least {MIN_REMAINING_S:g} s have to be left: "
            "give it a larger budget",
        )


def deadline_of(budget: Budget, start: datetime) -> datetime | None:
    """The instant at which everything is over; None without a limit in time."""
    if budget.wall_time_s is None:
        return None
    return start + timedelta(seconds=budget.wall_time_s - budget.started_before_s)


def queue_deadline_of(budget: Budget, now: datetime) -> datetime | None:
    """Until when an experiment that begins to wait now waits for its first lease."""
    if budget.queue_timeout_s is None:
        return None
    return now + timedelta(seconds=budget.queue_timeout_s)


def given(plan: Plan, budget: Budget, now: datetime) -> Plan:
    """The plan with a budget that is given now."""
    if plan.budget_start is BudgetStart.GRANTED:
        budget = replace(budget, started_before_s=0.0)
        deadline = None
    else:
        deadline = deadline_of(budget, now)
    return replace(
        plan,
        spec=replace(plan.spec, budget=budget),
        deadline=deadline,
        grant_time=None,
        queue_deadline=queue_deadline_of(budget, now),
    )


def with_budget(
    experiment: Experiment, budget: Budget, trial_count: int, now: datetime
) -> Experiment:
    """The experiment, that has begun so many trials, with a new budget that is given now.

    One that has ended runs again. Raises: FailedPrecondition while it is FINISHING.
    """
    total = trial_count + budget.trial_count if budget.trial_count else 0
    plan = given(replace(experiment.plan, resume_time=now), replace(budget, trial_count=total), now)
    running = (
        experiment
        if experiment.state is ExperimentState.RUNNING
        else experiment.to(ExperimentState.RUNNING)
    )
    return replace(
        running,
        plan=plan,
        ends_as=ExperimentState.SUCCEEDED,
        finish_by=None,
        problem=None,
        wait=None,
        end_time=None,
    )


def reserve_s(
    remaining_at_start_s: float, export_timings_s: Iterable[float], mix_s: float = 0.0
) -> float:
    """Seconds before the deadline at which trials stop, so that the last export is done in time.

    A tenth of the time, within 0.8 to 1.5 s; more where exports, and ensembles before them, take
    longer, up to a quarter.
    """
    usual_s = min(1.5, max(0.8, 0.1 * remaining_at_start_s))
    measured_s = 1.25 * (max(export_timings_s, default=0.0) + mix_s) + 0.25
    return min(max(usual_s, measured_s), max(usual_s, 0.25 * remaining_at_start_s))


def expected_s(cost_s: float, family: str, timings: Sequence[Timing]) -> float:
    """What a trial will take: the grammar's estimate, corrected by what trials here took so far."""
    known = [t for t in timings if t.family != "constant"]
    like = [t for t in known if t.family == family] or known
    if not like:
        return _START_S + cost_s
    start_s = min((t.taken_s for t in timings if t.family == "constant"), default=_START_S)
    ratios = [max(0.0, t.taken_s - start_s) / max(t.expected_s, 0.02) for t in like]
    return start_s + cost_s * min(20.0, max(0.1, median(ratios)))


def _invalid(reason: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        message, reason=reason, violations=(FieldViolation("spec.budget", message),)
    )

"""Waiting for the first lease: when the budget begins to count, and when the wait is given up.

In a cluster the wall time of an experiment counts from its first lease. What depends on that lease
is stored with the plan once it is held, so that outages and restarts change nothing of it. Pure.
"""

from dataclasses import replace
from datetime import datetime

from allotment_controller.domain.budget import deadline_of, queue_deadline_of
from allotment_controller.domain.experiment import Experiment, ExperimentState
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.task import Problem


def granted(experiment: Experiment, since: datetime | None, now: datetime) -> Experiment:
    """The experiment as it holds leases ``since`` then, by the allocator's clock; None: it holds
    none."""
    plan = experiment.plan
    if since is None or experiment.ended or not plan.waits_for_grant:
        return experiment
    # An older lease that it still has counts from when the budget was given.
    at = min(now, max(since, plan.given_time))
    deadline = plan.deadline
    if plan.start_time is None:
        deadline = deadline_of(plan.spec.budget, at)
    return replace(
        experiment, plan=replace(plan, grant_time=at, deadline=deadline, queue_deadline=None)
    )


def paused(experiment: Experiment) -> Experiment:
    """One that is paused stands in no queue: its time there does not go on."""
    if experiment.plan.queue_deadline is None:
        return experiment
    return replace(experiment, plan=replace(experiment.plan, queue_deadline=None))


def resumed(experiment: Experiment, now: datetime) -> Experiment:
    """It queues again, with its whole time to wait, unless it has held a lease already."""
    plan = experiment.plan
    if not plan.waits_for_grant or plan.spec.budget.queue_timeout_s is None:
        return experiment
    deadline = queue_deadline_of(plan.spec.budget, now)
    return replace(experiment, plan=replace(plan, queue_deadline=deadline))


def waited_too_long(edit: Edit) -> bool:
    """Whether its time in the queue is over."""
    deadline = edit.experiment.plan.queue_deadline
    running = edit.experiment.state is ExperimentState.RUNNING
    return running and deadline is not None and edit.now >= deadline


def queue_problem(edit: Edit) -> Problem:
    """What it has waited for, and what to do."""
    experiment = edit.experiment
    wait, limit_s = experiment.wait, experiment.plan.spec.budget.queue_timeout_s or 0.0
    waited = f"it waited for {wait.reason}: {wait.message}" if wait else "none was granted"
    left = (
        f"Of its earlier models, model {experiment.best_model} stays the best"
        if experiment.best_model
        else "Nothing was trained, so there is no model, not even the constant predictor"
    )
    return Problem(
        "QUEUE_TIMEOUT",
        f"no trainer came within the queue timeout of {limit_s:g} s; {waited}. {left}. "
        "Give it a longer queue timeout, or resume it with a budget to queue again",
    )

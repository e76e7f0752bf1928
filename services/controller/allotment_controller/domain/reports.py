"""What a trainer's report makes of a trial."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from allotment_controller.domain.experiment import Plan
from allotment_controller.domain.messages import Failure, Progress, Report, Result
from allotment_controller.domain.trial import AttemptCause, Trial


def after_report(
    trial: Trial, report: Report, plan: Plan, library_versions: Mapping[str, str], now: datetime
) -> Trial:
    """The trial after a report that is news (`Trial.hears`)."""
    sequence = report.key.sequence
    match report:
        case Progress():
            return trial.progressed(
                sequence,
                report.finished_folds,
                report.fold_count,
                report.score,
                now,
                report.fit_rung,
            )
        case Result():
            return trial.succeeded(sequence, report.result, library_versions, now)
        case Failure() if report.problem and report.problem.reason == "NOT_A_NUMBER":
            return trial.stopped(sequence, now)
        case Failure():
            cause = _cause(trial, report, plan)
            return trial.ended_attempt(cause, report.problem, report.log_tail, now)
        case _:
            if trial.start_time is not None:
                return replace(trial, last_sequence=sequence)
            return trial.started(sequence, now)


def _cause(trial: Trial, report: Failure, plan: Plan) -> AttemptCause:
    """A trial that was begun under an earlier budget knows that one's deadline alone: that it has
    passed is no fault of the trial's."""
    begun = trial.start_time
    earlier = plan.resume_time is not None and begun is not None and begun < plan.resume_time
    if report.cause is AttemptCause.TIMEOUT and earlier:
        return AttemptCause.PREEMPTED
    return report.cause

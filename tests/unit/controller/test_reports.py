"""What reports make of trials."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from allotment_controller.domain.messages import Failure, ReportKey
from allotment_controller.domain.reports import after_report
from allotment_controller.domain.trial import AttemptCause, Trial
from allotment_core.names import ExperimentName
from allotment_search import Grammar

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
NAME = ExperimentName.parse("tenants/t/experiments/e")


@pytest.mark.parametrize(
    ("resumed_after_s", "cause"),
    [
        (None, AttemptCause.TIMEOUT),
        (-60.0, AttemptCause.TIMEOUT),
        (60.0, AttemptCause.PREEMPTED),
    ],
)
def test_a_deadline_that_was_moved_meanwhile_is_no_strike(
    resumed_after_s: float | None, cause: AttemptCause
) -> None:
    trial = Trial(
        experiment=NAME,
        number=1,
        derivation=Grammar.load("tabular").default("linear"),
        origin="DEFAULT",
        create_time=BEGUN,
    )
    out = trial.assigned("tenants/t/leases/l", 1).started(1, BEGUN)
    resumed = None if resumed_after_s is None else BEGUN + timedelta(seconds=resumed_after_s)
    plan: Any = SimpleNamespace(resume_time=resumed)
    report = Failure(ReportKey(out.name, 1, 2), AttemptCause.TIMEOUT, None, "")
    after = after_report(out, report, plan, {}, BEGUN + timedelta(seconds=120))
    assert after.attempts == {cause: 1}

"""What the end of a trial's process means."""

import signal
from typing import Any

import pytest

from allotment_trainer.domain.attempts import Finished, KilledFor, ProcessEnd, clip_tail, judge
from allotment_trainer.domain.reports import Cause, Failure

MEMORY = 100 << 20
FINISHED: dict[str, Any] = {
    "score": 0.5,
    "metrics": {"rmse": 0.5},
    "fit_s": 1.0,
    "fold_count": 2,
    "validation_row_count": 10,
    "graph": "g",
    "reference": "r",
    "predictions": "p",
}


def _end(status: int = 0, killed_for: KilledFor | None = None, **changes: Any) -> ProcessEnd:
    values: dict[str, Any] = {"peak_memory_bytes": 0, "cpu_s": 0.0, "log_tail": "", **changes}
    return ProcessEnd(status=status, killed_for=killed_for, **values)


def test_what_a_process_wrote_before_it_ended_well_counts() -> None:
    assert judge(_end(), {"finished": FINISHED}, MEMORY) == Finished(**FINISHED)


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (_end(-signal.SIGKILL, KilledFor.MEMORY), Cause.OUT_OF_MEMORY),
        (_end(-signal.SIGKILL, KilledFor.DEADLINE), Cause.TIMEOUT),
        (_end(-signal.SIGKILL, KilledFor.ASKED), Cause.PREEMPTED),
        (_end(-signal.SIGXCPU), Cause.TIMEOUT),
        (_end(-signal.SIGKILL), Cause.CRASH),
        (_end(-signal.SIGSEGV), Cause.CRASH),
        (_end(-signal.SIGABRT, log_tail="terminate: std::bad_alloc"), Cause.OUT_OF_MEMORY),
        (_end(-signal.SIGSEGV, peak_memory_bytes=99 << 20), Cause.OUT_OF_MEMORY),
        (_end(70), Cause.CRASH),
        (_end(71, problem="no process"), Cause.CRASH),
    ],
)
def test_how_a_process_died_says_why(end: ProcessEnd, cause: Cause) -> None:
    outcome = judge(end, None, MEMORY)
    assert isinstance(outcome, Failure)
    assert outcome.cause is cause
    assert outcome.message


def test_a_killed_process_has_no_result_whatever_it_wrote() -> None:
    outcome = judge(_end(-signal.SIGKILL, KilledFor.DEADLINE), {"finished": FINISHED}, MEMORY)
    assert isinstance(outcome, Failure)


def test_a_log_tail_fits_into_a_report() -> None:
    tail = clip_tail("ü" * 10_000)
    assert len(tail.encode()) <= 4096
    assert set(tail) == {"ü"}

"""What the end of a trial's process means."""

import enum
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from allotment_trainer.domain.reports import LOG_TAIL_BYTES, Cause, Failure

NEAR_LIMIT = 0.9


class KilledFor(enum.Enum):
    """Why the nursery ended a trial's process."""

    MEMORY = "MEMORY"
    DEADLINE = "DEADLINE"
    ASKED = "ASKED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd:
    """How a trial's process ended. `status` is its exit status, negative for a signal."""

    status: int
    killed_for: KilledFor | None
    peak_memory_bytes: int
    cpu_s: float
    log_tail: str
    problem: str = ""
    """Why there never was a process; empty: there was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a process that ended well said; the paths are within the trial's folder."""

    score: float
    metrics: Mapping[str, float]
    fit_s: float
    fold_count: int
    validation_row_count: int
    graph: str
    reference: str
    predictions: str


def judge(end: ProcessEnd, said: Mapping[str, Any] | None, memory_bytes: int) -> Finished | Failure:
    """The outcome of a process, from how it ended and from what it left in writing.

    A process that was killed failed, whatever it wrote: its files may be cut off.
    """
    if end.killed_for is not None or end.status < 0 or said is None:
        return _killed(end, memory_bytes)
    if "finished" in said:
        return Finished(**said["finished"])
    failure = said["failure"]
    return Failure(
        cause=Cause(failure["cause"]),
        reason=failure["reason"],
        message=failure["message"],
        log_tail=clip_tail(end.log_tail),
    )


def clip_tail(text: str) -> str:
    """The end of a log, within what a report may carry."""
    return text.encode(errors="replace")[-LOG_TAIL_BYTES:].decode(errors="ignore")


def _killed(end: ProcessEnd, memory_bytes: int) -> Failure:
    cause, reason, message = _why(end, memory_bytes)
    return Failure(cause=cause, reason=reason, message=message, log_tail=clip_tail(end.log_tail))


def _why(end: ProcessEnd, memory_bytes: int) -> tuple[Cause, str, str]:
    if end.problem:
        return Cause.CRASH, "NOT_STARTED", end.problem
    if end.killed_for is KilledFor.MEMORY or _ran_out_of_memory(end, memory_bytes):
        return Cause.OUT_OF_MEMORY, "OUT_OF_MEMORY", out_of_memory_message(memory_bytes)
    if end.killed_for is KilledFor.DEADLINE or end.status == -signal.SIGXCPU:
        return Cause.TIMEOUT, "TIMEOUT", TIMEOUT_MESSAGE
    if end.killed_for is KilledFor.ASKED:
        return Cause.PREEMPTED, "STOPPED", "the trial was stopped"
    if end.status < 0:
        name = _signal_name(-end.status)
        return Cause.CRASH, "CRASH", f"the trial's process died by {name}"
    return Cause.CRASH, "CRASH", f"the trial's process ended without a word (status {end.status})"


TIMEOUT_MESSAGE = "the trial was not done when its time was up"


def out_of_memory_message(memory_bytes: int) -> str:
    return (
        f"the trial needed more than its {memory_bytes >> 20} MiB of memory; "
        "give slots more memory or the experiment fewer rows"
    )


def _ran_out_of_memory(end: ProcessEnd, memory_bytes: int) -> bool:
    """Native code that gets no memory aborts or touches address 0."""
    if end.status not in (-signal.SIGABRT, -signal.SIGSEGV):
        return False
    return "bad_alloc" in end.log_tail or end.peak_memory_bytes > NEAR_LIMIT * memory_bytes


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""Trials: legal moves alone, recorded exactly once."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from allotment_controller.domain.task import Problem
from allotment_controller.domain.trial import (
    STRIKES,
    TRIAL_MOVES,
    AttemptCause,
    Trial,
    TrialResult,
    TrialState,
)
from allotment_core.names import ExperimentName
from allotment_search import Grammar

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = ExperimentName.parse("tenants/t/experiments/e")
LEASE = "tenants/t/leases/l"


def trial() -> Trial:
    derivation = Grammar.load("tabular").default("linear")
    return Trial(
        experiment=NAME, number=1, derivation=derivation, origin="DEFAULT", create_time=NOW
    )


def result(score: float = 0.5) -> TrialResult:
    return TrialResult(score=score, metrics={}, fit_s=1.0)


Message = tuple[str, int]
MESSAGES: list[Message] = [("started", 1), ("progress", 2), ("progress", 3), ("result", 4)]


def hear(at: Trial, message: Message, epoch: int = 1, lease_epoch: int = 1) -> Trial:
    """What the controller does with a report."""
    kind, sequence = message
    if not at.hears(LEASE, lease_epoch, epoch, sequence):
        return at
    if kind == "started":
        return at.started(sequence, NOW) if at.start_time is None else at
    if kind == "progress":
        return at.progressed(sequence, sequence, 5, 0.1 * sequence, NOW)
    return at.succeeded(sequence, result(0.25 + sequence), {}, NOW)


@given(st.lists(st.sampled_from(MESSAGES), max_size=30))
def test_any_order_with_losses_and_repetitions_records_the_result_once(
    messages: list[Message],
) -> None:
    at = trial().assigned(LEASE, 1)
    results = 0
    for message in [*messages, ("result", 4)]:
        following = hear(at, message)
        results += following.state is TrialState.SUCCEEDED and at.state is not following.state
        at = following
    assert results == 1
    assert at.result == result(4.25)
    assert at.epoch == 1


def test_reports_of_an_older_epoch_or_another_lease_are_void() -> None:
    again = trial().assigned(LEASE, 1).ended_attempt(AttemptCause.LOST, None, "", NOW)
    again = again.assigned(LEASE, 2)
    assert hear(again, ("result", 4), epoch=1, lease_epoch=1) is again
    assert hear(again, ("result", 4), epoch=2, lease_epoch=1) is again
    assert hear(again, ("result", 4), epoch=2, lease_epoch=2).state is TrialState.SUCCEEDED


EVENTS = ["assign", "start", "progress", "result", "nan", "cancel", *AttemptCause.__members__]


@given(st.lists(st.sampled_from(EVENTS), max_size=60))
def test_every_history_keeps_to_the_table(events: list[str]) -> None:
    at = trial()
    for sequence, event in enumerate(events, start=1):
        before = at
        if event == "assign" and at.state is TrialState.QUEUED:
            at = at.assigned(LEASE, at.epoch)
        elif at.is_out and event in ("start", "progress", "result", "nan"):
            at = _report(at, event, sequence)
        elif at.is_out and event in AttemptCause.__members__:
            at = at.ended_attempt(AttemptCause[event], Problem("X", "x"), "tail", NOW)
        elif event == "cancel" and at.is_open:
            at = at.cancelled(NOW)
        if at.state is not before.state:
            steps = _path(before.state, at.state)
            assert steps, f"{before.state} -> {at.state}"
        assert at.strikes <= 3
        assert (at.strikes == 3) == (at.state is TrialState.QUARANTINED)
        assert at.epoch == 1 + sum(
            n for cause, n in at.attempts.items() if cause is not AttemptCause.REFUSED
        ) - (at.state is TrialState.QUARANTINED)


def _report(at: Trial, event: str, sequence: int) -> Trial:
    if event == "start":
        return at.started(sequence, NOW) if at.state is TrialState.ASSIGNED else at
    if event == "progress":
        return at.progressed(sequence, 1, 5, None, NOW)
    return at.succeeded(sequence, result(float("nan") if event == "nan" else 0.1), {}, NOW)


def _path(before: TrialState, after: TrialState) -> bool:
    """In one move, or by way of RUNNING when the report that said so was lost."""
    if TRIAL_MOVES.allows(before, after):
        return True
    running = TrialState.RUNNING
    return TRIAL_MOVES.allows(before, running) and TRIAL_MOVES.allows(running, after)


def test_only_crashes_memory_and_time_are_strikes() -> None:
    assert {c.name for c in STRIKES} == {"CRASH", "OUT_OF_MEMORY", "TIMEOUT"}

"""Proposals that were computed ahead: none is lost, none is given twice."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from allotment_controller.domain.prefetch import Prefetch
from allotment_controller.domain.prepared import Prepared, Ready
from allotment_controller.domain.trial import Basis
from allotment_search import Grammar, Proposal

GRAMMAR = Grammar.load("tabular")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEDGER: Any = SimpleNamespace(
    experiment=SimpleNamespace(plan=SimpleNamespace(deadline=None)), history=()
)
OFFERED = frozenset({"linear", "lightgbm"})


def ready(family: str, place: int = 0) -> Ready:
    basis = Basis(revision=1, trial_count=9, place=place, families=tuple(OFFERED))
    return Ready(Proposal(GRAMMAR.default(family), "TPE"), basis)


def prefetch(*at_hand: Ready) -> Prefetch:
    sampling: Any = None
    made = Prefetch(sampling, GRAMMAR, lambda: None)
    made._ready.extend(at_hand)
    return made


def take(prepared: Prepared) -> Ready | None:
    return prepared.take(lambda d: False, OFFERED, lambda d: True)


def committed(made: Prefetch, prepared: Prepared, offered: frozenset[str] = OFFERED) -> list[Ready]:
    made.committed(LEDGER, prepared, offered, 1, NOW, None)
    return made.prepared(LEDGER).ready


def test_what_comes_while_a_change_is_being_written_is_kept() -> None:
    first, second = ready("linear"), ready("lightgbm", 1)
    made = prefetch(first)
    prepared = made.prepared(LEDGER)
    assert take(prepared) == first
    made._ready.append(second)
    assert committed(made, prepared) == [second]


def test_what_was_taken_by_a_change_that_failed_is_there_again() -> None:
    first, second = ready("linear"), ready("lightgbm", 1)
    made = prefetch(first, second)
    assert take(made.prepared(LEDGER)) == first
    prepared = made.prepared(LEDGER)
    assert take(prepared) == first
    assert committed(made, prepared) == [second]


def test_what_no_trainer_offers_any_more_is_not_waited_for() -> None:
    first, second = ready("linear"), ready("lightgbm", 1)
    made = prefetch(first, second)
    assert committed(made, made.prepared(LEDGER), frozenset()) == [first, second]
    assert committed(made, made.prepared(LEDGER), frozenset({"lightgbm"})) == [second]

"""Histories, encodings and the samplers that use them."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allotment_search import (
    Derivation,
    Grammar,
    History,
    MixedSampler,
    TaskShape,
    TpeSampler,
)

GRAMMAR = Grammar.load("tabular")
SHAPE = TaskShape(task="binary", row_count=3000, numeric_count=6, category_count=4)
FAMILIES = tuple(GRAMMAR.families)


def loss_of(derivation: Derivation) -> float:
    """A made-up task: LightGBM with few leaves and a middling rate is best."""
    values: dict[str, Any] = {c.symbol: c.value for c in derivation}
    if derivation[0].value != "lightgbm":
        return 2.0
    rate = np.log(values["lightgbm.learning_rate"] / 0.05)
    return float(rate**2 + abs(values["lightgbm.num_leaves"] - 12) / 20)


def played(count: int, seed: int = 0) -> History:
    history, rng = History(), np.random.default_rng(seed)
    while len(history) < count:
        derivation = GRAMMAR.derive(rng, None, SHAPE)
        if derivation not in history:
            history.add(derivation)
            history.end(len(history), loss_of(derivation))
    return history


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "constant"])
@given(seed=st.integers(0, 2**32), task=st.sampled_from(["binary", "regression"]))
@settings(max_examples=25, deadline=None)
def test_a_derivation_survives_being_a_point(family: str, seed: int, task: Any) -> None:
    shape = TaskShape(task=task, row_count=900, numeric_count=5, category_count=2, date_count=1)
    derivation = GRAMMAR.derive(np.random.default_rng(seed), family, shape)
    encoding = GRAMMAR.encoding(family, shape)
    point = encoding.encode(derivation)
    assert set(point) == {d.name for d in encoding.dimensions}
    again = encoding.decode(point)
    assert again is not None
    GRAMMAR.check(again)
    for before, after in zip(derivation, again, strict=True):
        assert before.symbol == after.symbol
        if isinstance(before.value, float):
            assert after.value == pytest.approx(before.value, rel=1e-3)
        else:
            assert after.value == before.value


def test_a_derivation_of_an_older_grammar_has_a_point() -> None:
    derivation = GRAMMAR.derive(np.random.default_rng(0), "lightgbm", SHAPE)
    encoding = GRAMMAR.encoding("lightgbm", SHAPE)
    older = tuple(c for c in derivation if c.symbol not in ("Pairs", "Crosses"))
    assert len(older) < len(derivation)
    assert set(encoding.encode(older)) == {d.name for d in encoding.dimensions}


def test_a_view_has_the_best_and_the_latest_and_does_not_grow() -> None:
    history = played(400)
    pending = GRAMMAR.derive(np.random.default_rng(99), "linear", SHAPE)
    history.add(pending)
    view = history.view(100)
    losses = sorted(loss_of(o.derivation) for o in view.ended)
    assert len(view.ended) == 100
    assert [o.number for o in view.ended][-10:] == list(range(391, 401))
    assert losses[0] == min(loss_of(d) for d in history.derivations)
    assert view.pending == (pending,)
    later = GRAMMAR.derive(np.random.default_rng(98), "linear", SHAPE)
    history.add(later)
    assert (later in history, later in view, len(view)) == (True, False, 401)
    assert later in view.ahead([later])


def test_what_was_broken_off_is_not_proposed_again_and_not_held_against_it() -> None:
    history = played(20)
    derivation = GRAMMAR.derive(np.random.default_rng(99), "linear", SHAPE)
    history.add(derivation)
    history.drop(len(history))
    view = history.view()
    assert derivation in view
    assert derivation not in view.pending
    assert derivation not in [o.derivation for o in view.ended]
    assert not history.end(len(history), None)


def test_the_same_view_and_seed_give_the_same_proposals() -> None:
    view = played(60).view()
    first = MixedSampler(GRAMMAR, SHAPE, FAMILIES)
    second = MixedSampler(GRAMMAR, SHAPE, FAMILIES)
    second.proposals(played(80, seed=5).view(), 2, 9)
    batch = first.proposals(view, 6, 3)
    assert batch == second.proposals(view, 6, 3)
    assert batch != first.proposals(view, 6, 4)
    assert batch[:2] == first.proposals(view, 2, 3)


def test_a_batch_is_new_and_spreads() -> None:
    view = played(60).view()
    batch = MixedSampler(GRAMMAR, SHAPE, FAMILIES).proposals(view, 12, 2)
    derivations = [p.derivation for p in batch]
    assert len(set(derivations)) == 12
    assert not any(d in view for d in derivations)
    assert {p.origin for p in batch} == {"TPE", "RANDOM"}
    for derivation in derivations:
        GRAMMAR.check(derivation)


def test_tpe_finds_where_losses_are_low() -> None:
    view = played(80).view()
    found = TpeSampler(GRAMMAR, SHAPE, FAMILIES).propose(view, 10, np.random.default_rng(0))
    drawn = played(200, seed=1)
    assert np.median([loss_of(d) for d in found]) < np.quantile(
        [loss_of(d) for d in drawn.derivations], 0.25
    )


def test_what_is_not_affordable_is_not_proposed() -> None:
    sampler = MixedSampler(GRAMMAR, SHAPE, FAMILIES)
    batch = sampler.proposals(played(60).view(), 5, 0, lambda d: d[0].value == "linear")
    assert {p.derivation[0].value for p in batch} == {"linear"}
    assert not sampler.proposals(played(60).view(), 5, 0, lambda d: False)


def test_trials_that_ended_without_a_score_count_as_bad() -> None:
    history = played(40)
    for family in ("linear", "random_forest"):
        for seed in range(10):
            history.add(GRAMMAR.derive(np.random.default_rng(seed), family, SHAPE))
            history.end(len(history), None)
    found = TpeSampler(GRAMMAR, SHAPE, FAMILIES).propose(
        history.view(), 6, np.random.default_rng(0)
    )
    assert [d[0].value for d in found].count("lightgbm") >= 4


def test_optuna_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, allotment_search, allotment_controller.build; "
        "assert not {'optuna', 'scipy', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Early stopping: who goes on, who is put off, and who comes back."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allotment_search.halving import SCALES, Audit, Halving, Level, Rung

RULE = Halving()


def test_a_trial_of_eight_folds_is_judged_after_one_and_three() -> None:
    assert RULE.rungs(8) == (1, 3)
    assert RULE.rungs(5) == (1, 3)
    assert RULE.rungs(3) == (1,)
    assert RULE.rungs(1) == ()


def test_within_the_first_fit_it_is_judged_after_a_ninth_and_a_third() -> None:
    assert RULE.fit_rungs == (9, 3)
    assert Halving(fit_rung_count=0).fit_rungs == ()
    levels = RULE.levels(8)
    assert [level.amount for level in levels] == sorted(level.amount for level in levels)
    assert Level(1) in levels
    assert Level(Fraction(1, 9), "rounds") in levels


def test_within_a_fit_a_family_is_compared_on_its_own_scale() -> None:
    third = Fraction(1, 3)
    assert Level.of("lightgbm", third) == Level.of("hist_gradient_boosting", third)
    assert Level.of("mlp", third) != Level.of("lightgbm", third)
    assert Level.of("linear", third) is None
    assert Level.of("mlp", 1) == Level.of("linear", 1)


def test_too_few_steps_tell_nothing() -> None:
    assert [SCALES["lightgbm"].step_at(n, 100) for n in (9, 3)] == [12, 34]
    assert [SCALES["lightgbm"].step_at(n, 40) for n in (9, 3)] == [0, 14]
    assert [SCALES["mlp"].step_at(n, 15) for n in (9, 3)] == [0, 5]
    assert SCALES["mlp"].step_at(3, 1) == 0


def test_one_in_three_goes_on() -> None:
    rung = Rung((loss / 10, trial) for trial, loss in enumerate(range(1, 9), start=1))
    assert rung.keeps((0.05, 9), RULE)
    assert rung.keeps((0.25, 9), RULE), "the third of nine"
    assert not rung.keeps((0.35, 9), RULE)


def test_the_first_at_a_rung_goes_on() -> None:
    assert Rung().keeps((9.0, 1), RULE)


def test_of_equal_losses_the_earlier_trial_goes_on() -> None:
    rung = Rung([(0.5, 1), (0.5, 2)])
    assert rung.keeps((0.5, 1), RULE)
    assert not rung.keeps((0.5, 3), RULE)


def test_a_trial_comes_back_when_worse_ones_arrive() -> None:
    rung = Rung([(0.1, 1), (0.2, 2), (0.3, 3)], paused=[(0.2, 2), (0.3, 3)])
    assert rung.promotable(RULE) is None
    for trial in (4, 5, 6):
        rung.reach((0.9, trial))
    assert rung.promotable(RULE) == (0.2, 2)
    rung.resume((0.2, 2))
    assert rung.promotable(RULE) is None, "the third of six"
    assert rung.best_paused() == (0.3, 3)


def test_a_trial_that_its_trainer_still_has_is_passed_over() -> None:
    rung = Rung([(0.1, 1), (0.2, 2)], paused=[(0.1, 1), (0.2, 2)])
    assert rung.promotable(RULE, frozenset({1})) is None
    assert rung.best_paused(frozenset({1})) == (0.2, 2)


def test_reaching_pausing_and_resuming_twice_changes_nothing() -> None:
    rung = Rung()
    for _ in range(2):
        rung.reach((0.1, 1))
        rung.reach((0.2, 2))
        rung.reach((0.3, 3))
        rung.pause((0.2, 2))
    assert not rung.keeps((0.2, 2), RULE)
    assert rung.keeps((0.15, 4), Halving(eta=2)), "the second of four: three had reached it"
    rung.resume((0.2, 2))
    rung.resume((0.2, 2))
    assert rung.best_paused() is None


def test_a_copy_is_its_own() -> None:
    rung = Rung([(0.1, 1)])
    rung.copy().pause((0.1, 1))
    assert rung.best_paused() is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60, unique=True))
def test_whoever_comes_in_whatever_order_the_best_goes_on_at_last(losses: list[float]) -> None:
    rung = Rung()
    for trial, loss in enumerate(losses):
        kept = rung.keeps((loss, trial), RULE)
        rung.reach((loss, trial))
        if not kept:
            rung.pause((loss, trial))
        while (entry := rung.promotable(RULE)) is not None:
            rung.resume(entry)
    best = (min(losses), losses.index(min(losses)))
    assert not rung.has_paused(best)


def test_one_in_twenty_is_an_audit_and_the_seed_says_which() -> None:
    chosen = [seed for seed in range(20_000) if RULE.is_audit(seed * 7919)]
    assert 0.04 < len(chosen) / 20_000 < 0.06
    assert chosen == [seed for seed in range(20_000) if RULE.is_audit(seed * 7919)]
    assert not any(Halving(audit_share=0.0).is_audit(seed) for seed in range(100))


def test_audits_tell_what_was_lost() -> None:
    assert Audit(paused_count=40, held_count=4, improved_count=1).expected_misses == 10.0
    assert Audit(paused_count=40).expected_misses == 0.0


@pytest.mark.parametrize("wrong", [{"eta": 1}, {"audit_share": 1.5}])
def test_a_rule_that_can_not_be_is_not_built(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="eta has to be"):
        Halving(**wrong)  # type: ignore[arg-type]

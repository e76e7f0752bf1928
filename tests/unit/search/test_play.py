"""The order of play."""

from hypothesis import given, settings
from hypothesis import strategies as st

from allotment_search import (
    Grammar,
    History,
    Proposal,
    TaskShape,
    next_default,
    next_random,
    portfolio,
    untried_defaults,
)
from allotment_search.portfolio import plan

GRAMMAR = Grammar.load("tabular")
SMALL = TaskShape(task="binary", row_count=800, numeric_count=6, category_count=4)
LARGE = TaskShape(task="binary", row_count=100_000, numeric_count=50, fit_count=1)


def play(
    shape: TaskShape, seed: int, count: int, families: tuple[str, ...] = tuple(GRAMMAR.families)
) -> list[Proposal]:
    history, proposals = History(), []
    for _ in range(count):
        found = next_default(GRAMMAR, shape, families, history)
        found = found or next_random(GRAMMAR, shape, families, history, seed)
        assert found is not None
        proposals.append(found)
        history.add(found.derivation)
    return proposals


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_the_same_seed_plays_the_same_game_without_repetition(seed: int) -> None:
    first, second = play(SMALL, seed, 40), play(SMALL, seed, 40)
    assert first == second
    assert len({p.derivation for p in first}) == 40


def test_other_seeds_play_another_game() -> None:
    assert play(SMALL, 1, 40) != play(SMALL, 2, 40)


def test_the_constant_comes_first_and_the_libraries_defaults_soon() -> None:
    proposals = play(SMALL, 0, 25)
    assert [p.origin for p in proposals[:1]] == ["CONSTANT"]
    early = [p.derivation for p in proposals[:9]]
    for family in ("lightgbm", "random_forest", "hist_gradient_boosting"):
        assert GRAMMAR.default(family, shape=SMALL) in early
    drawn = [p.origin == "RANDOM" for p in play(SMALL, 0, 40)]
    assert drawn == sorted(drawn), "what is known to be good, then random ones"
    assert drawn[-1]


def test_large_data_begins_with_the_cheapest_boosting() -> None:
    order = portfolio(GRAMMAR, LARGE, GRAMMAR.families)
    costs = [GRAMMAR.cost_s(d, LARGE) for d in order]
    assert order[1] == GRAMMAR.default("lightgbm", "quick", LARGE)
    assert max(costs[:4]) < max(costs[4:])


def test_families_that_nobody_offers_are_left_out() -> None:
    proposals = play(SMALL, 3, 30, ("constant", "linear"))
    assert {p.derivation[0].value for p in proposals} == {"constant", "linear"}


def test_nothing_affordable_is_nothing_but_the_constant() -> None:
    history = History()
    found = next_default(GRAMMAR, SMALL, GRAMMAR.families, history, lambda d: False)
    assert found is not None
    assert found.origin == "CONSTANT"
    history.add(found.derivation)
    assert next_default(GRAMMAR, SMALL, GRAMMAR.families, history, lambda d: False) is None
    assert next_random(GRAMMAR, SMALL, GRAMMAR.families, history, 0, lambda d: False) is None


def test_what_is_left_of_the_portfolio() -> None:
    order = portfolio(GRAMMAR, SMALL, GRAMMAR.families)
    assert untried_defaults(GRAMMAR, SMALL, GRAMMAR.families, History(order[:5])) == order[5:]


def test_what_was_learnt_has_a_place_in_every_kind_of_task() -> None:
    for task in ("binary", "multiclass", "regression"):
        shape = TaskShape(
            task=task,
            row_count=2000,
            numeric_count=5,
            category_count=3,
            class_count=3,
            target_minimum=0.0,
        )
        entries = plan(GRAMMAR, shape, frozenset(GRAMMAR.families))
        origins = [e.origin for e in entries]
        assert origins[0] == "CONSTANT"
        assert origins.count("PORTFOLIO") >= 8
        for entry in entries:
            GRAMMAR.check(entry.derivation)


def test_without_the_family_its_part_of_the_portfolio_is_gone() -> None:
    entries = plan(GRAMMAR, SMALL, frozenset({"constant", "linear"}))
    assert {e.derivation[0].value for e in entries} == {"constant", "linear"}

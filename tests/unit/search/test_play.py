"""The order of play."""

from hypothesis import given, settings
from hypothesis import strategies as st

from allotment_search import Grammar, History, Proposal, TaskShape, next_proposals, portfolio

GRAMMAR = Grammar.load("tabular")
SMALL = TaskShape(task="binary", row_count=800, numeric_count=6, category_count=4)
LARGE = TaskShape(task="binary", row_count=100_000, numeric_count=50, fit_count=1)


def play(
    shape: TaskShape, seed: int, count: int, families: tuple[str, ...] = tuple(GRAMMAR.families)
) -> list[Proposal]:
    history, proposals = History(), []
    for _ in range(count):
        found = next_proposals(GRAMMAR, shape, families, history, 1, seed)
        proposals += found
        for proposal in found:
            history.add(proposal.derivation)
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
    origins = [p.origin for p in proposals[1:]]
    assert origins == sorted(origins), "defaults, then random ones"


def test_large_data_begins_with_the_cheapest_boosting() -> None:
    order = portfolio(GRAMMAR, LARGE, GRAMMAR.families)
    costs = [GRAMMAR.cost_s(d, LARGE) for d in order]
    assert order[1] == GRAMMAR.default("lightgbm", "quick", LARGE)
    assert max(costs[:4]) < max(costs[4:])


def test_families_that_nobody_offers_are_left_out() -> None:
    proposals = play(SMALL, 3, 30, ("constant", "linear"))
    assert {p.derivation[0].value for p in proposals} == {"constant", "linear"}


def test_a_batch_is_as_good_as_one_by_one_and_has_no_twins() -> None:
    batch = next_proposals(GRAMMAR, SMALL, GRAMMAR.families, History(), 30, 5)
    assert len({p.derivation for p in batch}) == 30


def test_nothing_affordable_is_nothing_but_the_constant() -> None:
    history = History()
    found = next_proposals(GRAMMAR, SMALL, GRAMMAR.families, history, 3, 0, lambda d: False)
    assert [p.origin for p in found] == ["CONSTANT"]
    history.add(found[0].derivation)
    assert not next_proposals(GRAMMAR, SMALL, GRAMMAR.families, history, 3, 0, lambda d: False)

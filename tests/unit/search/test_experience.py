"""What earlier tasks change about the order of the portfolio."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from allotment_search import Experience, Grammar, TaskShape, Traits, next_default
from allotment_search.experience import NEAREST, nearest, order_for, relative_loss, says_something
from allotment_search.portfolio import plan

GRAMMAR = Grammar.load("tabular")
FAMILIES = frozenset(GRAMMAR.families)
SMALL = TaskShape(task="binary", row_count=800, numeric_count=6, category_count=4, class_count=2)
KEYS = [e.key for e in plan(GRAMMAR, SMALL, FAMILIES) if e.key]


def traits(shape: TaskShape = SMALL, **more: float) -> Traits:
    shown = {"missing_share": 0.1, "rarest_share": 0.4, **more}
    return Traits.of(shape, level_count=12, **shown)


def found_best(*keys: str, of: Traits) -> Experience:
    """A task where these did best, in this order, and all others alike."""
    losses: dict[str, float | None] = dict.fromkeys(KEYS, 0.9)
    losses.update({key: 0.01 * place for place, key in enumerate(keys)})
    return Experience(traits=of, results=losses)


def test_a_task_like_this_one_brings_forward_what_did_best_there() -> None:
    mine = traits()
    order = order_for(KEYS, mine, [found_best(KEYS[-1], of=mine)] * 3)
    assert sorted(order) == sorted(KEYS)
    assert order.index(KEYS[-1]) < 2
    assert [k for k in order if k != KEYS[-1]] == [k for k in KEYS if k != KEYS[-1]]


def test_a_task_that_is_little_like_this_one_moves_less() -> None:
    mine = traits()
    far = traits(replace(SMALL, row_count=80_000_000, text_count=90))
    last = KEYS[-1]
    near_place = order_for(KEYS, mine, [found_best(last, of=mine)]).index(last)
    far_place = order_for(KEYS, mine, [found_best(last, of=far)]).index(last)
    assert near_place < far_place == len(KEYS) - 1


def test_nothing_known_leaves_the_shipped_order() -> None:
    mine = traits()
    regression = traits(replace(SMALL, task="regression", class_count=0))
    assert order_for(KEYS, mine, []) == ()
    assert order_for(KEYS, mine, [Experience(traits=mine, results={"gone.0": 0.1})]) == ()
    assert mine.distance(regression) == math.inf
    assert nearest(mine, [regression, mine]) == [1]
    assert order_for(KEYS, mine, [found_best(KEYS[-1], of=regression)]) == ()


def test_what_was_put_off_goes_back() -> None:
    mine = traits()
    results: dict[str, float | None] = dict.fromkeys(KEYS, 0.2)
    results[KEYS[0]] = None
    order = order_for(KEYS, mine, [Experience(traits=mine, results=results)] * NEAREST)
    assert order[-1] == KEYS[0]


@given(
    st.lists(
        st.dictionaries(st.sampled_from(KEYS), st.none() | st.floats(0, 1)), min_size=1, max_size=9
    )
)
def test_every_entry_keeps_one_place_and_the_same_past_gives_the_same_order(
    results: list[dict[str, float | None]],
) -> None:
    mine = traits()
    past = [Experience(traits=mine, results=each) for each in results]
    order = order_for(KEYS, mine, past)
    assert order == order_for(KEYS, mine, past)
    assert order == () or sorted(order) == sorted(KEYS)


def test_the_nearest_come_first_and_no_more_than_are_listened_to() -> None:
    mine = traits()
    past = [traits(replace(SMALL, row_count=800 * 10**n)) for n in (3, 0, 1, 2)] * 3
    assert [place % 4 for place in nearest(mine, past)] == [1, 1, 1, 2, 2, 2, 3, 3]


def test_only_what_was_learnt_changes_its_place() -> None:
    shipped = plan(GRAMMAR, SMALL, FAMILIES)
    turned = plan(GRAMMAR, SMALL, FAMILIES, tuple(reversed(KEYS)))
    assert set(turned) == set(shipped)
    assert turned != shipped
    plain = [e for e in shipped if not e.key]
    assert [e for e in turned if not e.key] == plain
    first_learnt = next(i for i, e in enumerate(shipped) if e.key)
    assert turned[:first_learnt] == shipped[:first_learnt]
    costs = [GRAMMAR.cost_s(e.derivation, SMALL) for e in turned]
    assert max(costs[:first_learnt]) <= 2.0


def test_the_game_follows_the_order() -> None:
    key = KEYS[3]
    known = [e.derivation for e in plan(GRAMMAR, SMALL, FAMILIES) if not e.key]
    found = next_default(GRAMMAR, SMALL, FAMILIES, known, order=(key,))
    wanted = next(e for e in plan(GRAMMAR, SMALL, FAMILIES) if e.key == key)
    assert found is not None
    assert found.derivation == wanted.derivation


def test_an_order_of_another_release_leaves_out_what_is_gone_and_keeps_what_is_new() -> None:
    shipped = plan(GRAMMAR, SMALL, FAMILIES)
    assert plan(GRAMMAR, SMALL, FAMILIES, ("gone.00000000",)) == shipped
    assert len({e.key for e in shipped if e.key}) == len(KEYS) >= 8


def test_losses_are_relative_to_the_best_trial_and_the_constant_predictor() -> None:
    assert relative_loss(0.2, 0.2, 0.7) == 0.0
    assert relative_loss(0.3, 0.2, 0.7) == 0.2
    assert relative_loss(9.0, 0.2, 0.7) == 1.0
    assert relative_loss(0.2, 0.2, 0.2) is None
    assert relative_loss(0.2, 0.2, math.inf) is None


def test_a_task_on_which_hardly_anything_was_tried_says_nothing() -> None:
    assert says_something({"a": 0.1, "b": 0.2, "c": 1.0})
    assert not says_something({"a": 0.1, "b": 0.2, "c": None})


def test_traits_are_too_coarse_to_tell_a_table_by() -> None:
    assert traits(replace(SMALL, row_count=1000)) == traits(replace(SMALL, row_count=1100))
    assert traits(missing_share=0.101) == traits(missing_share=0.11)

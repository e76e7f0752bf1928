"""Target encoding, crosses, pairs and words, fitted by themselves."""

import numpy as np
import pytest

from allotment_core.errors import InvalidArgument
from allotment_learn.features import Cells, Features, NumberSource, code
from allotment_learn.preparation import (
    Labelled,
    Operation,
    Pair,
    Projected,
    TfIdf,
    Turn,
    fit_crosses,
    fit_pairs,
    fit_preparation,
    fit_text,
)
from allotment_learn.preparation.pairs import turns
from allotment_learn.table import Array
from allotment_learn.words import WORD_LIMIT, Words, spellings, term_of
from allotment_search.pipeline import Component

NAN, INF = np.nan, np.inf


def features(
    numbers: Array | None = None,
    strings: dict[str, list[str]] | None = None,
    texts: dict[str, list[str]] | None = None,
) -> Features:
    given = numbers if numbers is not None else np.empty((_rows(strings or texts or {}), 0))
    return Features(
        len(given),
        tuple(NumberSource(f"n{place}") for place in range(given.shape[1])),
        given,
        {name: code(np.array(cells, dtype=object)) for name, cells in (strings or {}).items()},
        {name: Cells(np.array(cells, dtype=object)) for name, cells in (texts or {}).items()},
    )


def _rows(columns: dict[str, list[str]]) -> int:
    return len(next(iter(columns.values())))


def taught(given: Features, target: Array, class_count: int = 0, seed: int = 0) -> Labelled:
    return Labelled.of(given, target, class_count=class_count, seed=seed)


class TestTargetEncoding:
    TARGET = Component("target", {"smoothing": 1.0})

    def test_a_column_that_says_nothing_tells_nothing_of_its_own_row(self) -> None:
        """Nearly unique categories and a random target: what leaks would correlate."""
        rng = np.random.default_rng(0)
        cells = [f"v{n}" for n in rng.integers(0, 1_500, 3_000)]
        target = rng.normal(size=3_000)
        given = features(strings={"c": cells})
        prepared = fit_preparation({"category": self.TARGET}, taught(given, target))
        out_of_fold = np.corrcoef(prepared.matrix[:, 0], target)[0, 1]
        leaking = np.corrcoef(prepared.preparation.transform(given)[:, 0], target)[0, 1]
        assert abs(out_of_fold) < 0.08
        assert leaking > 0.5

    def test_later_rows_get_the_smoothed_means_of_all_training_rows(self) -> None:
        given = features(strings={"c": ["a"] * 6 + ["b"] * 2 + [""] * 2})
        target = np.array([1.0] * 6 + [0.0] * 4)
        fitted = fit_preparation({"category": self.TARGET}, taught(given, target)).preparation
        asked = features(strings={"c": ["a", "b", "", "unseen"]})
        found = fitted.transform(asked)[:, 0]
        means = np.array([6.6 / 7, 0.6 / 3, 0.6 / 3, 0.6])
        assert np.corrcoef(found, means)[0, 1] == pytest.approx(1.0)
        assert found[1] == found[2] < found[3] < found[0]

    def test_several_classes_get_a_column_each_but_one(self) -> None:
        given = features(strings={"c": ["a", "b"] * 30})
        target = np.arange(60) % 4
        fitted = fit_preparation({"category": self.TARGET}, taught(given, target, 4)).preparation
        assert fitted.width == 3

    def test_rows_of_a_group_share_an_inner_part(self) -> None:
        groups = np.repeat(np.arange(10), 5)
        labelled = Labelled.of(
            features(strings={"c": ["a"] * 50}), np.zeros(50), class_count=0, groups=groups
        )
        assert all(len(set(labelled.parts[groups == group])) == 1 for group in range(10))

    def test_columns_with_few_values_are_one_hot(self) -> None:
        component = Component("target_onehot", {"onehot_below": 3})
        given = features(strings={"few": ["a", "b"] * 20, "many": list("abcdefgh") * 5})
        fitted = fit_preparation({"category": component}, taught(given, np.arange(40.0)))
        assert [block.width for block in fitted.preparation.categories] == [4, 1]

    def test_frequency_orders_values_by_how_often_they_stand(self) -> None:
        given = features(strings={"c": ["a"] * 5 + ["b"] * 2 + ["c"]})
        component = Component("frequency", {"codes": False})
        fitted = fit_preparation({"category": component}, taught(given, np.zeros(8))).preparation
        found = fitted.transform(features(strings={"c": ["a", "b", "c", "unseen"]}))[:, 0]
        assert found[0] > found[1] > found[2] > found[3]


class TestPairsAndCrosses:
    def test_the_product_that_makes_the_target_is_found(self) -> None:
        rng = np.random.default_rng(1)
        numbers = rng.normal(size=(500, 4))
        labelled = taught(features(numbers), numbers[:, 1] * numbers[:, 3])
        (pair,) = fit_pairs(Component("pairs", {"count": 1}), labelled)
        assert {pair.left, pair.right, pair.operation} == {1, 3, Operation.PRODUCT}

    def test_what_is_divided_by_zero_is_missing(self) -> None:
        numbers = np.array([[1.0, 0.0], [0.0, -0.0], [INF, 2.0], [6.0, 3.0], [1.0, NAN]])
        found = Pair(0, 1, Operation.RATIO).values(numbers)
        assert np.array_equal(found, [NAN, NAN, INF, 2.0, NAN], equal_nan=True)

    def test_two_columns_that_only_say_something_together_are_crossed(self) -> None:
        rng = np.random.default_rng(2)
        left, right = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
        strings = {
            "a": [f"l{n}" for n in left],
            "b": [f"r{n}" for n in right],
            "c": [f"x{n}" for n in rng.integers(0, 3, 400)],
        }
        labelled = taught(features(strings=strings), left ^ right, 2)
        found = fit_crosses(Component("crosses", {"count": 1}), labelled)
        assert [(cross.left.column, cross.right.column) for cross, _ in found] in (
            [("a", "b")],
            [("b", "a")],
        )

    def test_parts_of_dates_come_round(self) -> None:
        sine, cosine, weekend = turns([NumberSource("d", "weekday")])
        week = np.array([[0.0], [5.0], [6.0], [NAN]])
        assert np.array_equal(weekend.values(week), [0.0, 1.0, 1.0, NAN], equal_nan=True)
        assert sine.values(week)[0] == 0.0
        assert cosine.values(week)[0] == 1.0
        assert isinstance(sine, Turn)


class TestWords:
    @pytest.mark.parametrize(
        "piece", ["Free", "FREE!", "free...", '"free', "free", "(Free", "FREE?"]
    )
    def test_spellings_stand_for_their_term(self, piece: str) -> None:
        assert piece in spellings("free")
        assert term_of(piece) == "free"

    @pytest.mark.parametrize(
        "term", ["stra\u00dfe", "\u0131", "i\u0307", "\u03c3\u03b1\u03c2", "??", "e\u0301"]
    )
    def test_no_spelling_stands_for_two_terms(self, term: str) -> None:
        assert all(term_of(piece) == term for piece in spellings(term))

    def test_words_are_cut_at_spaces_and_line_breaks(self) -> None:
        words = Words.of(np.array(["a  b\nc", "", "B. \U0001f9ea"], dtype=object))
        spelt = [words.terms[place] for place in words.places]
        assert spelt == ["a", "b", "c", "b", "\U0001f9ea"]
        assert words.starts.tolist() == [0, 3, 3, 5]

    def test_long_cells_are_read_up_to_a_limit(self) -> None:
        words = Words.of(np.array(["word " * (10 * WORD_LIMIT)], dtype=object))
        assert WORD_LIMIT <= len(words.places) <= WORD_LIMIT + 1

    def test_rows_are_taken_in_the_given_order(self) -> None:
        words = Words.of(np.array(["a b", "c", "", "d e f"], dtype=object))
        taken = words.take(np.array([3, 2, 0]))
        assert [taken.terms[place] for place in taken.places] == ["d", "e", "f", "a", "b"]
        assert taken.starts.tolist() == [0, 3, 3, 5]

    def test_rows_of_tfidf_have_length_one_or_zero(self) -> None:
        cells = ["free call now", "call call me", "", "nothing known"] * 3
        labelled = taught(features(texts={"t": cells}), np.zeros(12))
        block = fit_text(Component("tfidf", {"ngrams": 2, "min_count": 3}), "t", labelled)
        assert isinstance(block, TfIdf)
        asked = Words.of(np.array(["Call FREE!", "", "other"], dtype=object))
        rows = block.transform(asked).toarray()
        assert np.allclose((rows**2).sum(axis=1), [1.0, 0.0, 0.0])
        assert ("call", "now") in block.vocabulary.grams()

    def test_fewer_rows_than_axes_give_fewer_axes(self) -> None:
        labelled = taught(features(texts={"t": ["a b", "a c", "b c"]}), np.zeros(3))
        block = fit_text(Component("svd", {"components": 50, "min_count": 1}), "t", labelled)
        assert isinstance(block, Projected)
        assert block.width == 2

    def test_a_column_without_frequent_words_is_left_out(self) -> None:
        labelled = taught(features(texts={"t": ["a", "b", "c"]}), np.zeros(3))
        for name in ("tfidf", "svd", "words"):
            assert fit_text(Component(name, {"min_count": 2}), "t", labelled) is None

    def test_unknown_components_are_refused(self) -> None:
        labelled = taught(features(np.zeros((2, 1)), texts={"t": ["a", "b"]}), np.zeros(2))
        with pytest.raises(InvalidArgument, match="no text component"):
            fit_text(Component("bert", {}), "t", labelled)
        with pytest.raises(InvalidArgument, match="no pairs component"):
            fit_pairs(Component("all", {}), labelled)
        with pytest.raises(InvalidArgument, match="no crosses component"):
            fit_crosses(Component("all", {}), labelled)

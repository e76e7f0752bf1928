"""Fitted preparation."""

import numpy as np
import pytest

from allotment_core.errors import InvalidArgument
from allotment_learn.features import code
from allotment_learn.preparation import (
    Categories,
    ImputedNumbers,
    NativeNumbers,
    fit_categories,
    fit_numbers,
)
from allotment_search.pipeline import Component

NAN, INF = np.nan, np.inf


def imputed(strategy: str = "mean", *, indicator: bool = False, scale: str = "none") -> Component:
    return Component("impute", {"strategy": strategy, "indicator": indicator, "scale": scale})


def categories(component: Component, cells: list[str]) -> Categories | None:
    return fit_categories(component, "c", code(np.array(cells, dtype=np.object_)))


def test_columns_without_a_training_value_are_left_out() -> None:
    numbers = np.array([[NAN, 1.0], [NAN, 2.0]])
    for component in (Component("native", {}), imputed()):
        fitted = fit_numbers(component, numbers)
        assert fitted.kept.tolist() == [1]
        assert fitted.transform(np.array([[5.0, 1.5]])).tolist() == [[1.5]]


def test_native_keeps_missing_and_makes_infinities_finite() -> None:
    fitted = fit_numbers(Component("native", {}), np.zeros((2, 1)))
    assert isinstance(fitted, NativeNumbers)
    found = fitted.transform(np.array([[NAN], [INF], [-INF]]))
    assert np.array_equal(found[:, 0], [NAN, 1e300, -1e300], equal_nan=True)


@pytest.mark.parametrize(("strategy", "fill"), [("mean", 3.0), ("median", 2.0)])
def test_missing_cells_get_the_training_rows_middle(strategy: str, fill: float) -> None:
    fitted = fit_numbers(imputed(strategy), np.array([[1.0], [2.0], [6.0], [NAN], [INF]]))
    assert isinstance(fitted, ImputedNumbers)
    assert fitted.transform(np.array([[NAN]])).tolist() == [[fill]]


def test_values_are_cut_to_ten_times_the_training_range() -> None:
    fitted = fit_numbers(imputed(), np.array([[0.0], [2.0]]))
    found = fitted.transform(np.array([[INF], [-INF], [21.0], [23.0]]))
    assert found[:, 0].tolist() == [22.0, -20.0, 21.0, 22.0]


def test_indicators_say_where_training_rows_had_gaps() -> None:
    fitted = fit_numbers(imputed(indicator=True), np.array([[NAN, 1.0], [2.0, 3.0]]))
    assert fitted.width == 3
    assert fitted.transform(np.array([[NAN, NAN]])).tolist() == [[2.0, 2.0, 1.0]]


@pytest.mark.parametrize("scale", ["standard", "robust"])
def test_scaled_columns_are_centred(scale: str) -> None:
    fitted = fit_numbers(imputed(scale=scale), np.arange(9.0)[:, None])
    found = fitted.transform(np.arange(9.0)[:, None])
    assert found.mean() == pytest.approx(0.0)
    assert 0.5 < found.std() < 1.5


@pytest.mark.parametrize("scale", ["standard", "robust"])
def test_a_constant_column_is_not_divided_by_nothing(scale: str) -> None:
    fitted = fit_numbers(imputed(scale=scale), np.full((3, 1), 0.1))
    assert np.isfinite(fitted.transform(np.array([[NAN], [0.1], [INF]]))).all()


def test_codes_are_by_frequency_then_spelling() -> None:
    fitted = categories(Component("ordinal", {"min_count": 2}), [*"bbaaccd", ""])
    assert fitted is not None
    assert fitted.values == ("a", "b", "c")
    asked = code(np.array(["a", "b", "c", "d", "unseen", ""], dtype=np.object_))
    assert fitted.transform(asked)[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 3.0, 4.0]


def test_onehot_has_a_column_for_other_and_one_for_missing() -> None:
    component = Component("onehot", {"min_count": 1, "max_categories": 1})
    fitted = categories(component, ["x", "x", "y"])
    assert fitted is not None
    found = fitted.transform(code(np.array(["x", "y", "z", ""], dtype=np.object_)))
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_an_empty_string_column_is_left_out() -> None:
    assert categories(Component("ordinal", {}), ["", ""]) is None


@pytest.mark.parametrize("name", ["onehoot", ""])
def test_unknown_components_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="no category component"):
        categories(Component(name, {}), ["x"])
    with pytest.raises(InvalidArgument, match="no numeric component"):
        fit_numbers(Component(name, {}), np.zeros((1, 1)))

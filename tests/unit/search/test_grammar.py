"""The typed grammar of tabular pipelines."""

import json
from importlib import resources
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allotment_core.errors import InvalidArgument
from allotment_search import Choice, Grammar, TaskShape
from allotment_search.rules import FOREST_NODE_LIMIT

GRAMMAR = Grammar.load("tabular")
SLOTS = {"pairs", "numeric", "category", "crosses", "date", "text", "target", "model"}
NEEDS_NO_IMPUTATION = {"hist_gradient_boosting", "lightgbm"}

shapes = st.builds(
    TaskShape,
    task=st.sampled_from(["binary", "multiclass", "regression"]),
    row_count=st.integers(5, 1_000_000),
    numeric_count=st.integers(0, 500),
    category_count=st.integers(0, 50),
    date_count=st.integers(0, 3),
    text_count=st.integers(0, 2),
    class_count=st.integers(2, 50),
    fit_count=st.sampled_from([1, 2, 5, 8]),
    target_minimum=st.none() | st.floats(-10, 10),
)


def raw() -> dict[str, Any]:
    file = resources.files("allotment_search") / "data" / "tabular.json"
    read: dict[str, Any] = json.loads(file.read_text())
    return read


@given(st.integers(0, 2**32), st.sampled_from(GRAMMAR.families), shapes)
def test_every_derivation_resolves_to_a_sound_pipeline(
    seed: int, family: str, shape: TaskShape
) -> None:
    derivation = GRAMMAR.derive(np.random.default_rng(seed), family, shape)
    pipeline = GRAMMAR.resolve(derivation)
    assert pipeline.family == family
    assert pipeline.components.keys() <= SLOTS
    assert pipeline.components["model"].name == family
    if "numeric" in pipeline.components and family not in NEEDS_NO_IMPUTATION:
        assert pipeline.components["numeric"].name == "impute"
    target = pipeline.components.get("target")
    if target is not None and target.name == "log1p":
        assert shape.task == "regression"
        assert shape.target_minimum is not None
        assert shape.target_minimum > -1
    assert GRAMMAR.cost_s(derivation, shape) > 0


@given(shapes)
def test_every_default_resolves_for_every_shape(shape: TaskShape) -> None:
    for entry in GRAMMAR.portfolio:
        derivation = GRAMMAR.default(entry.family, entry.default, shape)
        assert GRAMMAR.resolve(derivation).family == entry.family


def test_defaults_are_those_of_the_libraries() -> None:
    wanted: dict[str, dict[str, Any]] = {
        "lightgbm": {"n_estimators": 100, "learning_rate": 0.1, "num_leaves": 31},
        "hist_gradient_boosting": {"max_iter": 100, "learning_rate": 0.1, "max_leaf_nodes": 31},
    }
    for family, params in wanted.items():
        model = GRAMMAR.resolve(GRAMMAR.default(family)).components["model"]
        assert params.items() <= dict(model.params).items()


def test_a_single_forest_has_300_trees_and_the_root_of_the_features() -> None:
    shape = TaskShape(task="binary", row_count=1000, numeric_count=16, fit_count=1)
    model = GRAMMAR.resolve(GRAMMAR.default("random_forest", shape=shape)).components["model"]
    assert model.params["n_estimators"] == 300
    assert int(float(model.params["max_features"]) * 16) == 4


def test_forests_of_large_data_stay_small_enough_to_prove() -> None:
    shape = TaskShape(task="binary", row_count=100_000, numeric_count=16, fit_count=1)
    model = GRAMMAR.resolve(GRAMMAR.default("random_forest", shape=shape)).components["model"]
    trees, leaf = int(model.params["n_estimators"]), int(model.params["min_samples_leaf"])
    assert 1.26 * shape.training_row_count * trees / leaf <= FOREST_NODE_LIMIT


def _replaced(symbol: str, value: Any) -> tuple[Choice, ...]:
    derivation = GRAMMAR.default("lightgbm")
    return tuple(Choice(symbol, value) if c.symbol == symbol else c for c in derivation)


@pytest.mark.parametrize(
    "derivation",
    [
        (),
        GRAMMAR.default("linear")[:-1],
        (*GRAMMAR.default("linear"), Choice("more", 1)),
        _replaced("Pipeline", "xgboost"),
        _replaced("lightgbm.num_leaves", 1_000_000),
        _replaced("lightgbm.num_leaves", 31.5),
        _replaced("lightgbm.num_leaves", True),
        _replaced("lightgbm.learning_rate", "fast"),
        _replaced("lightgbm.learning_rate", float("nan")),
        GRAMMAR.default("linear")[::-1],
    ],
)
def test_what_does_not_follow_the_grammar_is_refused(derivation: tuple[Choice, ...]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        GRAMMAR.check(derivation)
    assert caught.value.reason == "INVALID_DERIVATION"


def test_types_are_checked_when_a_grammar_is_read() -> None:
    broken = raw()
    expands = broken["nonterminals"]["Pipeline"]["productions"]["linear"]["expands"]
    expands[expands.index("ScaledNumeric")] = "OpenNumeric"
    with pytest.raises(ValueError, match=r"linear.*takes numeric as Scaled, and gets Open"):
        Grammar.read(json.dumps(broken))


def test_a_default_outside_its_range_is_an_error() -> None:
    broken = raw()
    model = broken["nonterminals"]["LightGBM"]["productions"]["lightgbm"]
    model["params"]["num_leaves"]["default"] = 1_000_000
    with pytest.raises(ValueError, match=r"lightgbm\.num_leaves"):
        Grammar.read(json.dumps(broken))


PROSE = TaskShape(task="binary", row_count=5_000, numeric_count=0, text_count=1)
PLAIN = TaskShape(task="binary", row_count=5_000, numeric_count=4, category_count=3)


def test_defaults_about_columns_that_are_not_there_do_not_fit() -> None:
    assert GRAMMAR.default_fits("linear", "text", PROSE)
    assert not GRAMMAR.default_fits("linear", "text", PLAIN)
    assert GRAMMAR.default_fits("lightgbm", "target", PLAIN)
    assert not GRAMMAR.default_fits("lightgbm", "target", PROSE)


def test_what_a_task_has_no_columns_for_is_the_same_in_all_derivations() -> None:
    drawn = [GRAMMAR.derive(np.random.default_rng(seed), "lightgbm", PROSE) for seed in range(30)]
    for derivation in [*drawn, GRAMMAR.default("lightgbm", "target", PROSE)]:
        components = GRAMMAR.resolve(derivation).components
        assert components["category"].name == "ordinal"
        assert components["pairs"].name == components["crosses"].name == "none"
    assert {GRAMMAR.resolve(d).components["text"].name for d in drawn} == {"words", "svd", "drop"}


def test_components_have_their_share_of_the_cost() -> None:
    base = GRAMMAR.default("lightgbm", "text", PROSE)
    without = tuple(
        Choice(c.symbol, "drop" if c.symbol == "DenseText" else c.value)
        for c in base
        if not c.symbol.startswith("words.")
    )
    assert GRAMMAR.cost_s(base, PROSE) > 1.5 * GRAMMAR.cost_s(without, PROSE)
    assert GRAMMAR.cost_s(without, PLAIN) == GRAMMAR.cost_s(base, PLAIN)

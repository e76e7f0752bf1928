"""Every graph predicts what its source libraries predict, within 1e-6 on every row."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from allotment_learn.averaging import average, known_classes
from allotment_learn.errors import GraphTooLarge
from allotment_learn.families import constant
from allotment_learn.features import Features
from allotment_learn.folds import FoldModel, fit_fold, reads_dates
from allotment_learn.forms import LinearForm, TreesForm
from allotment_learn.graph import writer
from allotment_learn.graph.writer import write_graph
from allotment_learn.preparation import NativeNumbers, Preparation
from allotment_learn.quirks import reference_rows
from allotment_learn.reference import RowKind
from allotment_learn.table import Array, Table
from allotment_learn.task import SplitMethod, TaskKind, TrialTask
from allotment_learn.trial import divide_rows, run_trial
from allotment_search.pipeline import Component
from allotment_testkit.trials import (
    SMALL_MODELS,
    TOLERANCE,
    feeds_of,
    quirky_table,
    quirky_task,
    session_of,
    worst_difference,
)

FAMILIES = sorted(SMALL_MODELS)
NATIVE = Component("native", {})
IMPUTE = Component("impute", {"strategy": "mean", "indicator": False, "scale": "none"})
SCALED = Component("impute", {"strategy": "median", "indicator": True, "scale": "standard"})
ORDINAL = Component("ordinal", {"min_count": 2})


@st.composite
def tasks(draw: st.DrawFn) -> TrialTask:
    family = draw(st.sampled_from(FAMILIES))
    kind = draw(st.sampled_from(TaskKind))
    takes_missing = family in ("hist_gradient_boosting", "lightgbm")
    impute = st.builds(
        lambda strategy, indicator, scale: Component(
            "impute", {"strategy": strategy, "indicator": indicator, "scale": scale}
        ),
        st.sampled_from(["mean", "median"]),
        st.booleans(),
        # Unscaled, weights of 1e9s cancel out to rounding alone: the grammar has no such model.
        st.sampled_from(["standard", "robust", *(["none"] if family != "linear" else [])]),
    )
    category = st.one_of(
        st.builds(lambda n: Component("ordinal", {"min_count": n}), st.integers(1, 40)),
        st.builds(
            lambda n, m: Component("onehot", {"min_count": n, "max_categories": m}),
            st.integers(1, 10),
            st.integers(1, 8),
        ),
        st.builds(
            lambda name, n, s, f, c: Component(
                name, {"min_count": n, "smoothing": s, "frequency": f, "codes": c}
            ),
            st.sampled_from(["target", "frequency", "target_onehot"]),
            st.integers(1, 20),
            st.sampled_from([1.0, 10.0]),
            st.booleans(),
            st.booleans(),
        ),
    )
    targets = ["identity", "log1p"] if kind is TaskKind.REGRESSION else ["identity"]
    return quirky_task(
        family,
        kind,
        numeric=draw(st.one_of(st.just(NATIVE), impute) if takes_missing else impute),
        category=draw(category),
        date=draw(st.sampled_from(["parts", "cyclic", "drop"])),
        more=draw(more_components(family)),
        target=draw(st.sampled_from(targets)),
        method=draw(st.sampled_from(SplitMethod)),
        rows=draw(st.integers(30, 160)),
        seed=draw(st.integers(0, 2**32)),
    )


def more_components(family: str) -> st.SearchStrategy[dict[str, Component]]:
    """Of the slots that most tables leave empty."""
    words = st.fixed_dictionaries(
        {
            "ngrams": st.sampled_from([1, 2]),
            "min_count": st.integers(1, 12),
            "max_features": st.integers(1, 40),
            "sublinear": st.booleans(),
            "components": st.integers(1, 6),
        }
    )
    texts = ["tfidf"] if family == "linear" else ["words", "svd"]
    return st.fixed_dictionaries(
        {
            "text": st.builds(Component, st.sampled_from(["drop", *texts]), words),
            "pairs": st.builds(
                lambda name, count: Component(name, {"count": count}),
                st.sampled_from(["none", "pairs"]),
                st.integers(1, 6),
            ),
            "crosses": st.builds(
                lambda name, count: Component(name, {"count": count, "smoothing": 2.0}),
                st.sampled_from(["none", "crosses"]),
                st.integers(1, 3),
            ),
        }
    )


def fitted(task: TrialTask) -> tuple[Features, list[FoldModel]]:
    dates = reads_dates(task)
    features = Features.of(task.table, with_dates=dates)
    with np.errstate(all="ignore"), threadpool_limits(limits=1):
        return features, [
            fit_fold(task, features, train, lambda: False) for train, _ in divide_rows(task)
        ]


def source_predictions(task: TrialTask, table: Table, models: list[FoldModel]) -> Array:
    dates = reads_dates(task)
    features = Features.of(table, with_dates=dates)
    with threadpool_limits(limits=1):
        said = [model.predict(features) for model in models]
        return average(said, task.task, known_classes(models))


def assert_same(task: TrialTask, table: Table, graph: bytes, models: list[FoldModel]) -> None:
    session = session_of(graph)
    outputs = session.run(None, feeds_of(session, table.arrays))
    assert worst_difference(outputs[-1], source_predictions(task, table, models)) <= TOLERANCE
    if task.task is not TaskKind.REGRESSION:
        spelt = [task.classes[best] for best in outputs[-1].argmax(axis=1)]
        assert outputs[0].tolist() == spelt


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    # Without shrinking: that takes minutes, and a case is small enough to read.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(task=tasks())
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
def test_graph_predicts_what_the_libraries_predict(task: TrialTask) -> None:
    features, models = fitted(task)
    graph = write_graph(task, features.sources, models)
    rng = np.random.default_rng(task.seed + 1)
    # Rows that no model saw, and rows made of them: missing, unseen, around thresholds, extreme.
    fresh = quirky_table(80, rng)
    fresh = reference_rows(fresh, np.arange(80), features.sources, models, rng).table
    for table in (fresh, fresh.take(np.arange(1)), fresh.take(np.arange(0))):
        assert_same(task, table, graph, models)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", TaskKind)
def test_graph_agrees_with_the_trials_reference(
    family: str, kind: TaskKind, tmp_path: Path
) -> None:
    numeric = NATIVE if family in ("hist_gradient_boosting", "lightgbm") else IMPUTE
    task = quirky_task(family, kind, numeric=numeric, category=ORDINAL, seed=5)
    outcome = run_trial(task, tmp_path, lambda _: None)
    worst, kinds = _against_reference(outcome.graph_path, outcome.reference_path)
    assert worst <= TOLERANCE
    expected = {"VALIDATION", "MISSING", "UNSEEN", "EXTREME"}
    if family not in ("constant", "linear"):
        expected.add("THRESHOLD")
    assert kinds == expected


def _against_reference(graph: Path, reference: Path) -> tuple[float, set[str]]:
    session = session_of(graph)
    with np.load(reference, allow_pickle=False) as stored:
        arrays = [stored[f"input_{index}"] for index in range(len(stored["columns"]))]
        outputs = session.run(None, feeds_of(session, arrays))
        return worst_difference(outputs[-1], stored["expected"]), set(stored["kind"].tolist())


def test_reference_rows_are_known_kinds() -> None:
    assert {kind.value for kind in RowKind} == {
        "VALIDATION",
        "MISSING",
        "UNSEEN",
        "THRESHOLD",
        "EXTREME",
    }


def _break_thresholds(form: TreesForm) -> None:
    form.trees.threshold[:] = form.trees.threshold.astype(np.float32)


def _break_missing(form: TreesForm) -> None:
    form.trees.missing_left[:] = ~form.trees.missing_left


def _break_children(form: TreesForm) -> None:
    inner = np.flatnonzero(form.trees.left >= 0)[:1]
    left, right = form.trees.left[inner].copy(), form.trees.right[inner].copy()
    form.trees.left[inner], form.trees.right[inner] = right, left


@pytest.mark.parametrize(
    ("family", "damage"),
    [
        ("lightgbm", _break_thresholds),
        ("hist_gradient_boosting", _break_thresholds),
        ("extra_trees", _break_thresholds),
        ("random_forest", _break_children),
        ("hist_gradient_boosting", _break_missing),
        ("lightgbm", _break_missing),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_writer_is_found_out(family: str, damage: Any, tmp_path: Path) -> None:
    """The rows of a reference show each of the mistakes that converters make."""
    numeric = NATIVE if family in ("hist_gradient_boosting", "lightgbm") else IMPUTE
    task = quirky_task(family, TaskKind.REGRESSION, numeric=numeric, category=ORDINAL, seed=5)
    outcome = run_trial(task, tmp_path, lambda _: None)
    features, models = fitted(task)
    for model in models:
        assert isinstance(model.fitted.form, TreesForm)
        damage(model.fitted.form)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(write_graph(task, features.sources, models))
    assert _against_reference(damaged, outcome.reference_path)[0] > TOLERANCE


@pytest.mark.parametrize("columns", [1, 2])
def test_few_scaled_columns_stay_in_double_precision(columns: int) -> None:
    """onnxruntime pulls divisions by one number into matrix products, in single precision."""
    task = quirky_task("linear", TaskKind.REGRESSION, numeric=SCALED, category=ORDINAL, date="drop")
    kept = task.table.columns[1 : 1 + columns]
    table = Table.of(kept, task.table.arrays, task.table.row_count)
    alone = _with_table(task, table)
    features, models = fitted(alone)
    assert all(isinstance(model.fitted.form, LinearForm) for model in models)
    graph = write_graph(alone, features.sources, models)
    session = session_of(graph)
    found = session.run(None, feeds_of(session, table.arrays))[-1]
    assert worst_difference(found, source_predictions(alone, table, models)) < 1e-12


SHARES = [
    # As saturated and as absent classes are: exactly 0, exactly 1, and next to them.
    ([0.0, 0.0, 0.0, 1.0], (0, 1, 2, 3)),
    ([1e-300, 1.0, 0.0, 0.0], (0, 1, 2, 3)),
    ([1e-6, 1 - 2e-6, 1e-6], (0, 1, 3)),
    ([1.0], (0,)),
]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_probabilities_of_exactly_zero_and_one_are_averaged_alike(count: int) -> None:
    task = quirky_task("linear", TaskKind.MULTICLASS, numeric=SCALED, category=ORDINAL)
    nothing = Preparation(NativeNumbers(np.empty(0, dtype=np.int64)))
    for chosen in combinations(SHARES, count):
        models = [
            FoldModel(nothing, constant.always(np.array(shares)), len(task.classes), present, None)
            for shares, present in chosen
        ]
        graph = write_graph(task, Features.of(task.table, with_dates=False).sources, models)
        for rows in (task.table, task.table.take(np.arange(0))):
            assert_same(task, rows, graph, models)


@pytest.mark.parametrize("by", ["groups", "times"])
def test_classes_that_some_folds_never_saw(by: str, tmp_path: Path) -> None:
    """A late class by time, or one whose rows are all of one group."""
    task = quirky_task(
        "hist_gradient_boosting", TaskKind.MULTICLASS, numeric=NATIVE, category=ORDINAL, rows=150
    )
    if by == "groups":
        task = replace(task, groups=np.where(task.target == 3, 3.0, np.arange(150) % 7))
    else:
        task = replace(task, times=task.target + np.linspace(0.0, 0.5, 150))
    assert any(len(set(task.target[train])) < 4 for train, _ in divide_rows(task))
    outcome = run_trial(task, tmp_path, lambda _: None)
    worst, _ = _against_reference(outcome.graph_path, outcome.reference_path)
    assert worst <= TOLERANCE


def _with_table(task: TrialTask, table: Table) -> TrialTask:
    return TrialTask(
        pipeline=task.pipeline,
        table=table,
        target=task.target,
        task=task.task,
        metric=task.metric,
        split=task.split,
        seed=task.seed,
        classes=task.classes,
    )


@pytest.mark.parametrize("family", ["random_forest", "lightgbm", "linear"])
@pytest.mark.filterwarnings("ignore")
def test_same_models_give_the_same_bytes(family: str) -> None:
    numeric = NATIVE if family == "lightgbm" else SCALED
    task = quirky_task(family, TaskKind.BINARY, numeric=numeric, category=ORDINAL)
    features, models = fitted(task)
    first = write_graph(task, features.sources, models)
    assert first == write_graph(task, features.sources, models)
    _, again = fitted(task)
    assert first == write_graph(task, features.sources, again)


@pytest.mark.filterwarnings("ignore")
def test_graph_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = quirky_task("random_forest", TaskKind.BINARY, numeric=IMPUTE, category=ORDINAL)
    features, models = fitted(task)
    monkeypatch.setattr(writer, "SIZE_LIMIT_BYTES", 1_000)
    with pytest.raises(GraphTooLarge, match="use fewer trees"):
        write_graph(task, features.sources, models)


def test_graph_alone_says_how_to_read_rows(tmp_path: Path) -> None:
    task = quirky_task("constant", TaskKind.BINARY, numeric=IMPUTE, category=ORDINAL)
    outcome = run_trial(task, tmp_path, lambda _: None)
    session = session_of(outcome.graph_path)
    text = session.get_modelmeta().custom_metadata_map["allotment.signature"]
    signature = json.loads(text)
    names = [node.name for node in session.get_inputs()]
    assert [entry["name"] for entry in signature["inputs"]] == names
    assert [entry.get("column", entry["name"]) for entry in signature["inputs"]] == [
        column.name for column in task.table.columns
    ]
    assert [node.name for node in session.get_outputs()] == ["label", "probabilities"]
    assert signature["classes"] == ["none", "nan"]
    assert [node.shape for node in session.get_inputs()] == [["N", 1]] * len(names)


@pytest.mark.parametrize("family", ["random_forest", "lightgbm"])
@pytest.mark.filterwarnings("ignore")
def test_a_roots_children_never_share_a_number(family: str) -> None:
    """Else onnxruntime 1.23 takes the root for a leaf."""
    numeric = NATIVE if family == "lightgbm" else IMPUTE
    task = quirky_task(family, TaskKind.MULTICLASS, numeric=numeric, category=ORDINAL, rows=300)
    features, models = fitted(task)
    model = onnx.ModelProto.FromString(write_graph(task, features.sources, models))
    ensembles = [node for node in model.graph.node if node.op_type == "TreeEnsemble"]
    assert len(ensembles) == 3
    for node in ensembles:
        lists = {attribute.name: np.array(attribute.ints) for attribute in node.attribute}
        roots = lists["tree_roots"]
        children = lists["nodes_truenodeids"][roots], lists["nodes_falsenodeids"][roots]
        assert (children[0] != children[1]).all()

"""Predictions of rows in a file, and the metrics of labelled rows."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from allotment.evaluate import class_index, evaluate_file
from allotment.predict import SIGNATURE_KEY, Signature, predict_file
from allotment_core.errors import InvalidArgument


def save(path: Path, graph: onnx.GraphProto, signature: dict[str, object]) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {SIGNATURE_KEY: json.dumps(signature)})
    onnx.save(model, str(path))
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """P(yes) = share, P(no) = 1 - share; the column `city` is an input that changes nothing."""
    share = helper.make_tensor_value_info("share", TensorProto.DOUBLE, ["N", 1])
    city = helper.make_tensor_value_info("city", TensorProto.STRING, ["N", 1])
    out = helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, ["N", 2])
    one = helper.make_tensor("one", TensorProto.DOUBLE, [1], [1.0])
    nodes = [
        helper.make_node("Sub", ["one", "share"], ["rest"]),
        helper.make_node("Concat", ["rest", "share"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(nodes, "g", [share, city], [out], [one])
    signature: dict[str, object] = {
        "task": "binary",
        "target": "bought",
        "classes": ["no", "yes, really"],
        "inputs": [
            {"name": "share", "type": "double", "kind": "numeric"},
            {"name": "city", "type": "string", "kind": "categorical"},
        ],
        "reading": {"missing_markers": ["NA"], "decimal": "."},
    }
    return save(tmp_path / "classifier.onnx", graph, signature)


@pytest.fixture
def regressor(tmp_path: Path) -> Path:
    """The prediction is the column `x` itself; the input is called otherwise."""
    x = helper.make_tensor_value_info("x (input)", TensorProto.DOUBLE, ["N", 1])
    out = helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, ["N", 1])
    node = helper.make_node("Identity", ["x (input)"], ["prediction"])
    graph = helper.make_graph([node], "g", [x], [out])
    signature: dict[str, object] = {
        "task": "regression",
        "target": "y",
        "inputs": [{"name": "x (input)", "type": "double", "kind": "numeric", "column": "x"}],
    }
    return save(tmp_path / "regressor.onnx", graph, signature)


def predicted(model: Path, rows: str, said: list[str] | None = None) -> str:
    source, out = model.parent / "rows.csv", model.parent / "out.csv"
    source.write_text(rows, encoding="utf-8")
    predict_file(model, source, out, on_warning=None if said is None else said.append)
    return out.read_text(encoding="utf-8")


def test_a_line_per_row_in_order_and_a_column_per_class(classifier: Path) -> None:
    rows = "junk,city,share\n1,Rome,0.25\n2,,0.5\n3,Oslo,0.75\n"
    assert predicted(classifier, rows) == 'no,"yes, really"\n0.75,0.25\n0.5,0.5\n0.25,0.75\n'


def test_regression_has_one_column(regressor: Path) -> None:
    assert predicted(regressor, "x\n1.5\n-2\n") == "prediction\n1.5\n-2.0\n"


def test_no_rows_are_no_lines(regressor: Path) -> None:
    assert predicted(regressor, "x\n") == "prediction\n"


def test_a_missing_column_is_an_error_that_names_it(classifier: Path) -> None:
    with pytest.raises(InvalidArgument, match="'city'") as caught:
        predicted(classifier, "share\n1\n")
    assert caught.value.reason == "MISSING_COLUMNS"
    assert not (classifier.parent / "out.csv").exists()


def test_a_needed_column_that_is_there_twice_is_an_error(regressor: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        predicted(regressor, "x,x\n1,2\n")
    assert caught.value.reason == "DUPLICATE_COLUMN"


def test_white_space_around_a_columns_name_is_forgiven(regressor: Path) -> None:
    assert predicted(regressor, "a, x\n1,2\n") == "prediction\n2.0\n"


def test_missing_and_unreadable_numbers_are_missing_and_the_latter_said(regressor: Path) -> None:
    said = list[str]()
    assert predicted(regressor, "x,b\n,1\nabc,1\n 7 ,1\n", said) == "prediction\nnan\nnan\n7.0\n"
    assert len(said) == 1
    assert "'abc'" in said[0]


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not onnx")
    with pytest.raises(InvalidArgument) as caught:
        predicted(path, "x\n1\n")
    assert caught.value.reason == "BAD_MODEL"


def test_a_model_of_something_else_is_an_error(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 1])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["N", 1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "other.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(path))
    with pytest.raises(InvalidArgument, match="no artefact") as caught:
        predicted(path, "x\n1\n")
    assert caught.value.reason == "BAD_MODEL"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"task": 1}', '{"task":"x","target":"y","inputs":3}']
)
def test_a_bad_signature_is_an_error(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Signature.parse(text)
    assert caught.value.reason == "BAD_SIGNATURE"


def test_metrics_of_labelled_rows_leave_out_rows_without_a_known_label(classifier: Path) -> None:
    rows = classifier.parent / "rows.csv"
    rows.write_text(
        'share,city,bought\n0.9,a,"yes, really"\n0.2,b,no\n0.6,c,no\n0.5,d,\n0.5,e,perhaps\n',
        encoding="utf-8",
    )
    said = list[str]()
    found = evaluate_file(classifier, rows, on_warning=said.append)
    assert (found.row_count, found.skipped_row_count) == (3, 2)
    assert found.metrics["accuracy"] == pytest.approx(2 / 3)
    assert "'perhaps'" in said[0]


def test_metrics_of_regression(regressor: Path) -> None:
    rows = regressor.parent / "rows.csv"
    rows.write_text("x,y\n1,2\n3,3\n5,\n", encoding="utf-8")
    found = evaluate_file(regressor, rows)
    assert found.metrics["mae"] == pytest.approx(0.5)
    assert found.row_count == 2


def test_rows_without_labels_are_an_error(regressor: Path) -> None:
    rows = regressor.parent / "rows.csv"
    rows.write_text("x,y\n1,\n", encoding="utf-8")
    with pytest.raises(InvalidArgument) as caught:
        evaluate_file(regressor, rows)
    assert caught.value.reason == "NO_LABELS"


def test_a_label_is_matched_as_spelt_then_as_a_number() -> None:
    assert class_index(("0", "1", "1.0"), "1.0") == 2
    assert class_index(("0", "1"), "1.0") == 1
    assert class_index(("no", "yes"), " yes ") == 1
    assert class_index(("no", "yes"), "maybe") is None
    assert class_index(("0", "x"), "0.0") is None

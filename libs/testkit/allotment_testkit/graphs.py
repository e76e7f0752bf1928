"""Small ONNX graphs with their references: what a trainer would leave, without training."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SIGNATURE_KEY = "allotment.signature"
COLOURS = ("blue", "red", "grün")
CLASSES = ("no", "yes", "None")


def regression_graph(name: str = "prediction") -> onnx.ModelProto:
    """prediction = 2 x + (0, 10, 20 for blue, red, grün; -5 for any other colour); NaN x is 0."""
    nodes = [*_score_nodes(), helper.make_node("Identity", ["score"], [name], name="/home/me/out")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 1])]
    return model(nodes, outputs, _constants(), signature("regression", ()))


def classification_graph(classes: Sequence[str] = CLASSES) -> onnx.ModelProto:
    """Softmax over score x (0, 1, 2, ...) / 10, with labels."""
    slopes = np.arange(len(classes), dtype=np.float64).reshape(1, -1) / 10
    nodes = [
        *_score_nodes(),
        helper.make_node("MatMul", ["score", "slopes"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder",
            ["best"],
            ["label"],
            domain="ai.onnx.ml",
            keys_int64s=list(range(len(classes))),
            values_strings=list(classes),
        ),
    ]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.STRING, [None]),
        helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, [None, len(classes)]),
    ]
    task = "binary" if len(classes) == 2 else "multiclass"
    constants = [*_constants(), numpy_helper.from_array(slopes, "slopes")]
    return model(nodes, outputs, constants, signature(task, classes))


def signature(task: str, classes: Sequence[str], target: str = "y") -> dict[str, Any]:
    """A signature for the inputs x (double) and colour (string)."""
    outputs = [{"name": "prediction", "type": "double"}]
    if task != "regression":
        outputs = [{"name": "label", "type": "string"}, {"name": "probabilities", "type": "double"}]
    return {
        "inputs": [{"name": "x", "type": "double"}, {"name": "colour", "type": "string"}],
        "outputs": outputs,
        "task": task,
        "classes": list(classes),
        "target": target,
    }


def model(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto],
    said: Mapping[str, Any] | None,
    opsets: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model with the inputs x and colour, and this signature in its metadata."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 1]),
        helper.make_tensor_value_info("colour", TensorProto.STRING, [None, 1]),
    ]
    graph = helper.make_graph(
        list(nodes), "g", inputs, list(outputs), list(constants), doc_string="/home/me/train.py"
    )
    versions = opsets or {"": 21, "ai.onnx.ml": 5}
    made = helper.make_model(
        graph,
        ir_version=10,
        producer_name="/home/me",
        opset_imports=[helper.make_opsetid(domain, v) for domain, v in versions.items()],
    )
    properties = {"made.in": "/home/me"}
    if said is not None:
        properties[SIGNATURE_KEY] = json.dumps(said, sort_keys=True)
    helper.set_model_props(made, properties)
    return made


def _score_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("IsNaN", ["x"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "x"], ["present"]),
        helper.make_node("Mul", ["present", "two"], ["doubled"]),
        helper.make_node(
            "LabelEncoder",
            ["colour"],
            ["shift"],
            domain="ai.onnx.ml",
            keys_strings=list(COLOURS),
            values_tensor=numpy_helper.from_array(np.array([0.0, 10.0, 20.0])),
            default_tensor=numpy_helper.from_array(np.array([-5.0])),
        ),
        helper.make_node("Add", ["doubled", "shift"], ["raw"]),
        helper.make_node("Mul", ["raw", "one"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "one too"], ["score"]),
    ]


def _constants() -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(np.array([[value]]), name)
        for name, value in (("zero", 0.0), ("two", 2.0), ("one", 1.0), ("one too", 1.0))
    ]


@dataclass(kw_only=True)
class Rows:
    """Rows of a reference; `expected` is what the graphs above give, unless it is replaced."""

    x: npt.NDArray[np.float64]
    colour: list[str]
    kinds: list[str] = field(default_factory=list)

    @classmethod
    def made(cls, count: int = 200) -> "Rows":
        """Ordinary rows, then a missing one, an unseen one and an extreme one."""
        rng = np.random.default_rng(0)
        x = np.append(rng.normal(size=count - 3), [np.nan, 1.0, 1e9])
        colour = [*rng.choice(COLOURS, count - 3).tolist(), "red", "unseen", ""]
        kinds = ["VALIDATION"] * (count - 3) + ["MISSING", "UNSEEN", "EXTREME"]
        return cls(x=x, colour=colour, kinds=kinds)

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """What regression_graph gives."""
        shift = np.array(
            [dict(zip(COLOURS, (0, 10, 20), strict=True)).get(c, -5) for c in self.colour]
        )
        scores: npt.NDArray[np.float64] = np.where(np.isnan(self.x), 0, self.x) * 2 + shift
        return scores.reshape(-1, 1)

    def probabilities(self, class_count: int = len(CLASSES)) -> npt.NDArray[np.float64]:
        """What classification_graph gives."""
        logits = self.scores @ (np.arange(class_count, dtype=np.float64).reshape(1, -1) / 10)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: npt.NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
        return shares

    def npz(self, expected: npt.NDArray[np.float64], **replaced: npt.NDArray[Any]) -> bytes:
        """The bytes of the reference file."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "columns": np.array(["x", "colour"]),
            "input_0": self.x,
            "input_1": np.array(self.colour, dtype=np.str_),
            "expected": expected,
            "kind": np.array(self.kinds, dtype=np.str_),
            "row": np.arange(len(self.x)),
        }
        stream = io.BytesIO()
        np.savez_compressed(stream, **(arrays | replaced))  # type: ignore[arg-type]
        return stream.getvalue()

"""Matrix products in eight bits: weights once and for all, their inputs anew for each batch.

Weights by column, inputs by the range of the whole batch (DynamicQuantizeLinear): so a row's
answer depends, a little, on the rows beside it. Only products with a constant matrix of some size
are rewritten; everything else stays in double precision.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST_WEIGHTS = 1_024
"""Smaller products cost less than the conversions around them."""
_MOST = 127.0


def quantised(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy with products in eight bits; None when there is none to rewrite."""
    constants = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.DOUBLE and len(tensor.dims) == 2
    }
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    names = _Names(model)
    count = 0
    for node in model.graph.node:
        weights = constants.get(node.input[1]) if len(node.input) > 1 else None
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = node.op_type == "MatMul" or (
            node.op_type == "Gemm"
            and not attributes.get("transA", 0)
            and attributes.get("alpha", 1.0) == 1.0
            and attributes.get("beta", 1.0) == 1.0
        )
        if weights is None or not plain or np.prod(weights.dims) < LEAST_WEIGHTS:
            copy.graph.node.append(node)
            continue
        matrix = numpy_helper.to_array(weights)
        if attributes.get("transB", 0):
            matrix = matrix.T
        _product(copy.graph, names, node, matrix)
        count += 1
    return copy if count else None


class _Names:
    """Names that the graph doesn't have."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        taken = {tensor.name for tensor in graph.initializer} | {i.name for i in graph.input}
        taken |= {name for node in graph.node for name in node.output}
        self._prefix = "int8_"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"
        self._count = 0

    def new(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def _product(
    graph: onnx.GraphProto, names: _Names, node: onnx.NodeProto, matrix: npt.NDArray[np.float64]
) -> None:
    """In place of `node`: its input @ matrix, and its third input added."""
    scale = np.abs(matrix).max(axis=0) / _MOST
    scale[scale == 0] = 1.0
    rounded = np.clip(np.rint(matrix / scale), -_MOST, _MOST).astype(np.int8)

    def constant(array: npt.NDArray[Any]) -> str:
        name = names.new()
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        out = output or names.new()
        graph.node.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    single = add("Cast", node.input[0], to=TensorProto.FLOAT)
    small, step, zero = names.new(), names.new(), names.new()
    graph.node.append(helper.make_node("DynamicQuantizeLinear", [single], [small, step, zero]))
    whole = add("MatMulInteger", small, constant(rounded), zero)
    steps = add("Mul", step, constant(scale.astype(np.float32)))
    product = add("Mul", add("Cast", whole, to=TensorProto.FLOAT), steps)
    biased = len(node.input) > 2 and node.input[2]
    if biased:
        product = add("Cast", product, to=TensorProto.DOUBLE)
        add("Add", product, node.input[2], output=node.output[0])
    else:
        add("Cast", product, to=TensorProto.DOUBLE, output=node.output[0])

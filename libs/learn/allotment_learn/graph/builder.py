"""Nodes and constants of one graph, with names that no column can have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

ONNX_OPSET = 21
ML_OPSET = 5
IR_VERSION = 10
"""What onnxruntime 1.23 and later load."""
ML_DOMAIN = "ai.onnx.ml"

Constant = npt.NDArray[Any]


class GraphBuilder:
    """Collects nodes in the order in which they run. Equal constants are stored once."""

    def __init__(self, taken: Sequence[str]) -> None:
        self._prefix = "_"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def name(self) -> str:
        """A new one."""
        self._count += 1
        return f"{self._prefix}{self._count}"

    def node(
        self,
        kind: str,
        *inputs: str,
        domain: str = "",
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Adds a node of one output and gives the output's name."""
        out = output or self.name()
        self.nodes.append(helper.make_node(kind, inputs, [out], domain=domain, **attributes))
        return out

    def bulky_node(
        self, kind: str, source: str, *, domain: str, attributes: dict[str, int | Constant]
    ) -> str:
        """A node with one input and large attributes, which `make_node` would check one by one.

        int64 arrays become lists of integers, others tensors.
        """
        out = self.name()
        node = NodeProto(op_type=kind, domain=domain, input=[source], output=[out])
        for name, value in attributes.items():
            attribute = node.attribute.add()
            attribute.name = name
            if isinstance(value, int):
                attribute.type = AttributeProto.INT
                attribute.i = value
            elif value.dtype == np.int64:
                attribute.type = AttributeProto.INTS
                attribute.ints.extend(value.tolist())
            else:
                attribute.type = AttributeProto.TENSOR
                attribute.t.CopyFrom(numpy_helper.from_array(value))
        self.nodes.append(node)
        return out

    def split(self, source: str, pieces: str, count: str, literal: str) -> None:
        """Strings at the first literal; `pieces` has one dimension more."""
        outputs = [pieces, count]
        self.nodes.append(
            helper.make_node("StringSplit", [source], outputs, delimiter=literal, maxsplit=1)
        )

    def constant(self, value: Constant | float | int) -> str:
        """Python floats and ints become double and int64 scalars."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.name()
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def strings(self, values: Sequence[str], shape: Sequence[int]) -> str:
        """A constant of strings."""
        name = self.name()
        tensor = TensorProto(name=name, data_type=TensorProto.STRING, dims=shape)
        tensor.string_data.extend(value.encode() for value in values)
        self.initializers.append(tensor)
        return name

    def double(self, source: str) -> str:
        return self.node("Cast", source, to=TensorProto.DOUBLE)

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: dict[str, str],
    ) -> onnx.ModelProto:
        """The model, with nothing in it that says when, where or by what it was written."""
        graph = helper.make_graph(self.nodes, "model", inputs, outputs, self.initializers)
        model = onnx.ModelProto(ir_version=IR_VERSION, graph=graph)
        model.opset_import.add(domain="", version=ONNX_OPSET)
        model.opset_import.add(domain=ML_DOMAIN, version=ML_OPSET)
        helper.set_model_props(model, metadata)
        return model

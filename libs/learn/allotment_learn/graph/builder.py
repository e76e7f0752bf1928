"""Nodes and constants of one graph, with names that no column can have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, TensorProto, helper

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
        # Everything is written into the one message: copies of large forests take seconds.
        self._model = onnx.ModelProto(ir_version=IR_VERSION)
        self._model.graph.name = "model"

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
        node = helper.make_node(kind, inputs, [out], domain=domain, **attributes)
        self._model.graph.node.append(node)
        return out

    def bulky_node(
        self, kind: str, source: str, *, domain: str, attributes: dict[str, int | Constant]
    ) -> str:
        """A node with one input and large attributes, which `make_node` would check one by one.

        int64 arrays become lists of integers, others tensors.
        """
        out = self.name()
        node = self._model.graph.node.add(op_type=kind, domain=domain, input=[source], output=[out])
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
                _fill(attribute.t, value)
        return out

    def copied(self, node: onnx.NodeProto, inputs: Sequence[str]) -> str:
        """A node of one output like another graph's, with other inputs and without its texts."""
        out = self.name()
        copy = self._model.graph.node.add(op_type=node.op_type, input=inputs, output=[out])
        for attribute in node.attribute:
            copy.attribute.add().CopyFrom(attribute)
            copy.attribute[-1].doc_string = ""
        return out

    def split(self, source: str, pieces: str, count: str, literal: str, limit: int = 1) -> None:
        """Strings at the first `limit` literals; `pieces` has one dimension more."""
        outputs = [pieces, count]
        self._model.graph.node.append(
            helper.make_node("StringSplit", [source], outputs, delimiter=literal, maxsplit=limit)
        )

    def top(self, keys: str, count: str) -> str:
        """Places of the `count` smallest of each row of [N, M], smallest first."""
        places = self.name()
        node = helper.make_node("TopK", [keys, count], [self.name(), places], axis=1, largest=0)
        self._model.graph.node.append(node)
        return places

    def constant(self, value: Constant | float | int) -> str:
        """Python floats and ints become double and int64 scalars."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.name()
            _fill(self._model.graph.initializer.add(name=name), array)
            self._constants[key] = name
        return self._constants[key]

    def strings(self, values: Sequence[str], shape: Sequence[int]) -> str:
        """A constant of strings."""
        name = self.name()
        tensor = self._model.graph.initializer.add(
            name=name, data_type=TensorProto.STRING, dims=shape
        )
        tensor.string_data.extend(value.encode() for value in values)
        return name

    def double(self, source: str) -> str:
        return self.node("Cast", source, to=TensorProto.DOUBLE)

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: dict[str, str],
    ) -> onnx.ModelProto:
        """The finished model; call it once. Nothing in it says when or where it was written."""
        model = self._model
        model.graph.input.extend(inputs)
        model.graph.output.extend(outputs)
        model.opset_import.add(domain="", version=ONNX_OPSET)
        model.opset_import.add(domain=ML_DOMAIN, version=ML_OPSET)
        helper.set_model_props(model, metadata)
        return model


def _fill(tensor: TensorProto, value: Constant) -> None:
    tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor.dims.extend(value.shape)
    # The format is little-endian, whatever the machine.
    tensor.raw_data = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()

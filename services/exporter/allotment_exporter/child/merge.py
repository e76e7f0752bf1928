"""Several graphs as one: shared inputs, the weighted mean of their answers, one temperature.

The members' operators stay as they are written. What members have in common (equal constants, equal
steps of preparation) is there once.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from allotment_core.errors import clip
from allotment_exporter.child.graphs import BadGraph
from allotment_exporter.domain.exports import Task

Floats = npt.NDArray[np.float64]


def mixed(answers: Sequence[Floats], weights: Sequence[float], temperature: float) -> Floats:
    """What the merged graph has to answer, from what its members answered."""
    total = answers[0] * weights[0]
    for answer, weight in zip(answers[1:], weights[1:], strict=True):
        total = total + answer * weight
    if temperature == 1:
        return total
    raised = np.power(total, 1 / temperature)
    shares: Floats = raised / raised.sum(axis=1, keepdims=True)
    return shares


def merge(
    models: Sequence[onnx.ModelProto],
    weights: Sequence[float],
    temperature: float,
    task: Task,
    classes: Sequence[str],
) -> onnx.ModelProto:
    """One model with the inputs, outputs and metadata of the first. Raises: BadGraph."""
    first = models[0]
    opsets = {opset.domain or "ai.onnx": opset.version for opset in first.opset_import}
    for model in models[1:]:
        others = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
        if others != opsets:
            raise BadGraph(f"members of opsets {opsets} and {others} can't become one graph")
    merged = onnx.ModelProto(ir_version=max(model.ir_version for model in models))
    merged.opset_import.extend(first.opset_import)
    merged.metadata_props.extend(first.metadata_props)
    fixed = {tensor.name for tensor in first.graph.initializer}
    merged.graph.input.extend(port for port in first.graph.input if port.name not in fixed)
    merged.graph.output.extend(first.graph.output)
    joint = _Joint(merged.graph)
    answer = "prediction" if task is Task.REGRESSION else "probabilities"
    _write_mix(joint, [joint.add(model.graph, answer) for model in models], weights, temperature)
    if task is not Task.REGRESSION:
        best = joint.node("ArgMax", ["probabilities"], axis=1, keepdims=0)
        labels = joint.constant(np.array(list(classes), dtype=object))
        joint.node("Gather", [labels, best], output="label")
    return merged


def _write_mix(
    joint: "_Joint", answers: Sequence[str], weights: Sequence[float], temperature: float
) -> None:
    """The same steps as `mixed`, in double precision."""
    last = joint.graph.output[-1].name
    parts = [
        joint.node("Mul", [answer, joint.constant(np.float64(weight))])
        for answer, weight in zip(answers, weights, strict=True)
    ]
    if temperature == 1:
        joint.node("Sum", parts, output=last)
        return
    total = joint.node("Sum", parts)
    raised = joint.node("Pow", [total, joint.constant(np.float64(1 / temperature))])
    axes = joint.constant(np.array([1], dtype=np.int64))
    joint.node("Div", [raised, joint.node("ReduceSum", [raised, axes], keepdims=1)], output=last)


@dataclass(slots=True)
class _Joint:
    """A graph that takes over what others have and it has not."""

    graph: onnx.GraphProto
    _count: int = 0
    _known: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    """What equal constants and equal nodes are called here, by their digest."""
    _ports: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._ports = frozenset(p.name for p in (*self.graph.input, *self.graph.output))

    def add(self, graph: onnx.GraphProto, answer: str) -> str:
        """Takes over what the answer of a graph needs; the answer's name here. Raises: BadGraph."""
        shared = {port.name for port in self.graph.input}
        names = {"": "", **{name: name for name in shared}}
        needed = _needed(graph, answer)
        for tensor in graph.initializer:
            if tensor.name in needed and tensor.name not in shared:
                names[tensor.name] = self._constant(tensor)
        for node in graph.node:
            if needed.isdisjoint(node.output):
                continue
            for name in node.input:
                if name not in names:
                    raise BadGraph(f"operator {clip(node.op_type)} reads what nothing writes")
            self._take(node, names)
        if answer not in names:
            raise BadGraph(f"no operator writes '{answer}'")
        return names[answer]

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Adds a node of one output and gives the output's name."""
        out = output or self._name()
        self.graph.node.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, value: npt.ArrayLike) -> str:
        array = np.asarray(value)
        return self._constant(numpy_helper.from_array(array))

    def _constant(self, tensor: TensorProto) -> str:
        nameless = TensorProto()
        nameless.CopyFrom(tensor)
        nameless.name = nameless.doc_string = ""
        digest = _digest(b"constant", nameless.SerializeToString(deterministic=True))
        if digest not in self._known:
            nameless.name = self._name()
            self.graph.initializer.append(nameless)
            self._known[digest] = (nameless.name,)
        return self._known[digest][0]

    def _take(self, node: onnx.NodeProto, names: dict[str, str]) -> None:
        """Adds a node under new names, unless an equal one is here already."""
        taken = onnx.NodeProto()
        taken.CopyFrom(node)
        taken.name = taken.doc_string = ""
        taken.input[:] = [names[name] for name in node.input]
        taken.output[:] = ["" if not name else "?" for name in node.output]
        digest = _digest(b"node", taken.SerializeToString(deterministic=True))
        if digest not in self._known:
            taken.output[:] = [self._name() if name else "" for name in node.output]
            self.graph.node.append(taken)
            self._known[digest] = tuple(taken.output)
        names.update(zip(node.output, self._known[digest], strict=True))
        names[""] = ""

    def _name(self) -> str:
        """One that no input and no output has."""
        while True:
            self._count += 1
            name = f"m{self._count}"
            if name not in self._ports:
                return name


def _needed(graph: onnx.GraphProto, answer: str) -> set[str]:
    """Every value that the answer depends on."""
    needed = {answer}
    for node in _backwards(graph):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
    needed.discard("")
    return needed


def _backwards(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for place in reversed(range(len(graph.node))):
        yield graph.node[place]


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()

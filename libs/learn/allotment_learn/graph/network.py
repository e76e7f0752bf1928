"""Networks as graphs: torch's exporter writes a network's body, which is put into our graph bare.

An export takes seconds, whatever the network's size. Networks of one architecture differ in their
arrays alone, so one export serves all folds: each gets the nodes, with arrays of its own.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from allotment_learn.forms import NetworkForm
from allotment_learn.graph.builder import ONNX_OPSET, GraphBuilder
from allotment_learn.networks.memory import memory_errors
from allotment_learn.networks.modules import rebuild
from allotment_learn.networks.spec import NetworkSpec

_EXAMPLE_ROWS = 3
"""torch takes sizes 0 and 1 for constants."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkBody:
    """The exported nodes of an architecture, and one network's arrays: doubles by name."""

    graph: onnx.GraphProto
    arrays: Mapping[str, np.ndarray]

    def write(self, build: GraphBuilder, matrix: str) -> str:
        """From the matrix to the raw outputs; names, texts and metadata are left behind."""
        names = {"": "", self.graph.input[0].name: matrix}
        for tensor in self.graph.initializer:
            own = self.arrays.get(tensor.name)
            names[tensor.name] = build.constant(
                numpy_helper.to_array(tensor) if own is None else own
            )
        for node in self.graph.node:
            sources = [names[source] for source in node.input]
            if node.op_type == "Identity":
                made = sources[0]
            elif node.op_type == "Constant" and node.attribute[0].name == "value":
                made = build.constant(numpy_helper.to_array(node.attribute[0].t))
            else:
                made = build.copied(node, sources)
            names[node.output[0]] = made
        return names[self.graph.output[0].name]


def export_networks(forms: Sequence[NetworkForm]) -> list[NetworkBody]:
    """The networks in double precision, from matrix to raw outputs in the target's unit.

    Raises: ValueError when arrays and architecture don't agree.
    """
    exported: dict[NetworkSpec, onnx.GraphProto] = {}
    bodies = []
    for form in forms:
        # No node knows how many columns or bins there are.
        architecture = replace(form.spec, columns=0, plain=min(1, form.spec.plain), bins=0)
        if architecture not in exported:
            exported[architecture] = _export(form)
        bodies.append(NetworkBody(exported[architecture], _doubles(form)))
    return bodies


def _doubles(form: NetworkForm) -> dict[str, np.ndarray]:
    return {
        name: array if array.dtype == np.int64 else array.astype(np.float64)
        for name, array in form.arrays.items()
    }


def _export(form: NetworkForm) -> onnx.GraphProto:
    columns = form.spec.columns
    example = torch.linspace(-1.0, 1.0, _EXAMPLE_ROWS * columns, dtype=torch.float64)
    with _silence(), memory_errors():
        program = torch.onnx.export(
            rebuild(form.spec, form.arrays, torch.float64),
            (example.reshape(_EXAMPLE_ROWS, columns),),
            dynamo=True,
            opset_version=ONNX_OPSET,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            # It would compute new arrays out of those that are to be exchanged.
            optimize=False,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    _check(model, form)
    return model.graph


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """torch's exporter tells of every library that is not installed, and of each of its steps."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _check(model: onnx.ModelProto, form: NetworkForm) -> None:
    """What this version of torch's exporter gives has to be what `write` can copy."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    odd = {node.op_type for node in model.graph.node if len(node.output) != 1 or node.domain}
    there = {tensor.name for tensor in model.graph.initializer}
    elsewhere = any(
        tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer
    )
    lacking = sorted(set(form.arrays) - there)
    if versions.get("") != ONNX_OPSET or odd or elsewhere or lacking or model.functions:
        raise RuntimeError(
            f"torch's exporter wrote opsets {versions}, {len(model.functions)} functions, the "
            f"nodes {sorted(odd)}, and not the arrays {lacking}; install the version of torch that "
            "this product names"
        )

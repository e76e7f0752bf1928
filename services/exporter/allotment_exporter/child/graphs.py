"""Reading a graph that nobody vouches for, and writing it clean."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from allotment_core.errors import clip
from allotment_exporter.domain.signatures import (
    METADATA_PREFIX,
    SIGNATURE_KEY,
    BadSignature,
    Port,
    Signature,
    parse_signature,
)

MAX_OPSETS = {"": 21, "ai.onnx.ml": 5}
"""What onnxruntime 1.23, the oldest that artefacts are for, loads."""
MAX_IR_VERSION = 10
MAX_NODES = 200_000
PRODUCER = "allotment"

_FORBIDDEN_OPERATORS = frozenset(
    {
        # Not deterministic: no two runs agree.
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        # Run graphs inside of graphs, or for ever.
        "If",
        "Loop",
        "Scan",
        "SequenceMap",
        # Decode files.
        "ImageDecoder",
    }
)
_ELEMENT_TYPES = {"double": TensorProto.DOUBLE, "string": TensorProto.STRING}


class BadGraph(Exception):
    """The graph can't become an artefact; the text says why."""


def read_graph(path: Path) -> onnx.ModelProto:
    """A graph that holds all it needs and asks for nothing outside. Raises: BadGraph."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise BadGraph("the graph is not an ONNX file, or it is cut off") from None
    _check_versions(model)
    _check_contents(model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise BadGraph(f"the graph breaks the ONNX specification: {clip(error, 300)}") from None
    return model


def _check_versions(model: onnx.ModelProto) -> None:
    if not 3 <= model.ir_version <= MAX_IR_VERSION:
        raise BadGraph(f"IR version {model.ir_version}, versions 3 to {MAX_IR_VERSION} can be used")
    if not model.opset_import:
        raise BadGraph("the graph names no operator set")
    for opset in model.opset_import:
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        highest = MAX_OPSETS.get(domain)
        if highest is None:
            raise BadGraph(
                f"operator domain '{clip(domain)}'; only ai.onnx and ai.onnx.ml are allowed"
            )
        if not 1 <= opset.version <= highest:
            raise BadGraph(f"opset {opset.version} of '{domain or 'ai.onnx'}', at most {highest}")


def _check_contents(model: onnx.ModelProto) -> None:
    graph = model.graph
    if model.functions or model.training_info:
        raise BadGraph("functions and training information are not allowed in a graph")
    if graph.sparse_initializer or graph.quantization_annotation:
        raise BadGraph(
            "sparse initialisers and quantisation annotations are not allowed in a graph"
        )
    if len(graph.node) > MAX_NODES:
        raise BadGraph(f"{len(graph.node)} nodes, at most {MAX_NODES} are allowed")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
            raise BadGraph(f"operator domain '{clip(node.domain)}' is not allowed")
        if node.op_type in _FORBIDDEN_OPERATORS:
            raise BadGraph(f"operator {node.op_type} is not allowed in a graph")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise BadGraph(f"operator {clip(node.op_type)} holds a graph of its own")
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise BadGraph(f"operator {clip(node.op_type)} holds a sparse tensor")
    for tensor in _tensors(graph):
        if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
            raise BadGraph(
                f"tensor '{clip(tensor.name)}' keeps its data in another file; "
                "a graph has to be one file"
            )


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def read_signature(model: onnx.ModelProto) -> Signature:
    """The signature in the metadata, which agrees with the graph. Raises: BadSignature."""
    texts = [entry.value for entry in model.metadata_props if entry.key == SIGNATURE_KEY]
    if len(texts) != 1:
        raise BadSignature(
            f"the graph's metadata has {len(texts)} entries '{SIGNATURE_KEY}', not 1"
        )
    signature = parse_signature(texts[0])
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    _check_ports("input", inputs, signature.inputs)
    _check_ports("output", list(model.graph.output), signature.outputs)
    return signature


def _check_ports(kind: str, values: list[onnx.ValueInfoProto], ports: tuple[Port, ...]) -> None:
    if [value.name for value in values] != [port.name for port in ports]:
        raise BadSignature(f"the graph's {kind}s are not named, or ordered, as in its signature")
    for value, port in zip(values, ports, strict=True):
        tensor = value.type.tensor_type
        if tensor.elem_type != _ELEMENT_TYPES.get(port.type):
            raise BadSignature(f"{kind} '{clip(port.name)}' is not of the type {port.type}")
        rank = 1 if port.name == "label" and kind == "output" else 2
        dims = tensor.shape.dim
        if not tensor.HasField("shape") or len(dims) != rank or dims[0].HasField("dim_value"):
            raise BadSignature(
                f"{kind} '{clip(port.name)}' has no shape of {rank} dimensions with free rows"
            )
        if kind == "input" and dims[1].dim_value != 1:
            raise BadSignature(f"input '{clip(port.name)}' is not one column wide")


def clean(model: onnx.ModelProto, version: str) -> None:
    """Takes out, in place, what does not take part in predicting: texts, foreign metadata, doubles.

    The arithmetic is left as it is written: the operators and the order of their sums stay.
    """
    model.doc_string = ""
    model.domain = ""
    model.producer_name = PRODUCER
    model.producer_version = version
    kept = sorted(
        (entry.key, entry.value)
        for entry in model.metadata_props
        if entry.key.startswith(METADATA_PREFIX)
    )
    del model.metadata_props[:]
    for key, value in kept:
        model.metadata_props.add(key=key, value=value)
    graph = model.graph
    graph.name = PRODUCER
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for port in (*graph.input, *graph.output):
        port.doc_string = ""
        del port.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        node.name = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
    for tensor in _tensors(graph):
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    _merge_initialisers(graph)


def _merge_initialisers(graph: onnx.GraphProto) -> None:
    """Keeps one of equal initialisers, and none that nothing reads."""
    fixed = {value.name for value in (*graph.input, *graph.output)}
    first: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        if tensor.name in fixed:
            continue
        nameless = TensorProto()
        nameless.CopyFrom(tensor)
        nameless.name = ""
        digest = hashlib.sha256(nameless.SerializeToString(deterministic=True)).digest()
        kept = first.setdefault(digest, tensor.name)
        if kept != tensor.name:
            renamed[tensor.name] = kept
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    used = fixed | {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]

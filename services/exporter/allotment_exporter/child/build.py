"""One build: check, clean, prove, measure."""

import hashlib
import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime

from allotment_core.errors import clip
from allotment_exporter.child.candidates import int8_candidate
from allotment_exporter.child.graphs import BadGraph, clean, read_graph, read_signature
from allotment_exporter.child.measure import measure
from allotment_exporter.child.merge import merge, mixed
from allotment_exporter.child.parity import Artefact, BadAnswer, compare
from allotment_exporter.child.references import BadReference, Reference, joined, read_reference
from allotment_exporter.domain.builds import BuildJob, BuildOutcome, Built, Failed, Refused
from allotment_exporter.domain.exports import Precision, Problem, Stage
from allotment_exporter.domain.signatures import BadSignature, Signature, check_agreement

MERGED_ROWS = 1_000
"""Rows that a merged graph is compared on with its members' graphs."""
_RUNTIME_ERRORS = tuple(
    getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
    for name in (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
        "RuntimeException",
    )
)
"""What onnxruntime raises; they have no base class of their own."""


def build(job: BuildJob, report: Callable[[Stage], None]) -> BuildOutcome:
    """Carries out a job. What a graph or a reference does wrong is a Failed, not an exception."""
    try:
        return _build(job, report)
    except BadGraph as error:
        reason = "BAD_GRAPH"
        text = str(error)
    except BadSignature as error:
        reason = "BAD_SIGNATURE"
        text = str(error)
    except BadReference as error:
        reason = "BAD_REFERENCE"
        text = str(error)
    except BadAnswer as error:
        reason = "BAD_OUTPUT"
        text = str(error)
    except MemoryError:
        reason = "OUT_OF_MEMORY"
        text = f"the export needs more than its {job.limits.memory_bytes} bytes of memory"
    except _RUNTIME_ERRORS as error:
        reason = "RUNTIME_REFUSED"
        text = f"onnxruntime can't run the graph: {clip(error, 300)}"
        if "allocate memory" in str(error) or "bad_alloc" in str(error):
            reason = "OUT_OF_MEMORY"
            text = f"the graph needs more than the {job.limits.memory_bytes} bytes that it may use"
    return Failed(problem=Problem(reason=reason, message=text))


def _build(job: BuildJob, report: Callable[[Stage], None]) -> BuildOutcome:
    report(Stage.BUILD)
    model, signature = _read(job)
    clean(model, _version("allotment"))
    content = model.SerializeToString(deterministic=True)
    if len(content) > job.limits.artefact_bytes:
        raise BadGraph(
            f"the artefact has {len(content)} bytes, at most {job.limits.artefact_bytes} fit"
        )
    ir_version = model.ir_version
    opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    del model

    report(Stage.PARITY)
    artefact = Artefact(_session(content), job.task, job.classes)
    if job.is_plain:
        reference = read_reference(job.members[0].reference, signature)
    else:
        found = _mixed_reference(job, signature)
        if isinstance(found, Refused):
            return found
        reference = found
    parity = compare(artefact, reference, job.classes, job.tolerance)
    if parity.offending_row_count:
        return Refused(parity=parity)

    report(Stage.MEASURE)
    measurement = measure(artefact, reference.inputs, len(content), job.limits.measure_s)
    job.artefact.write_bytes(content)
    candidate = None
    if job.precision is Precision.INT8:
        candidate = int8_candidate(content, artefact, reference, job, _session)
    return Built(
        artefact_sha256=hashlib.sha256(content).hexdigest(),
        signature=signature.document,
        ir_version=ir_version,
        opsets=opsets,
        parity=parity,
        measurement=measurement,
        library_versions={name: _version(name) for name in ("numpy", "onnx", "onnxruntime")},
        candidate=candidate,
    )


def _read(job: BuildJob) -> tuple[onnx.ModelProto, Signature]:
    """The one graph, or the members' graphs as one. Raises: BadGraph, BadSignature."""
    models = [read_graph(member.graph) for member in job.members]
    signatures = [read_signature(model) for model in models]
    for signature in signatures:
        check_agreement(signature, task=job.task, classes=job.classes, target=job.target)
        if signature.document != signatures[0].document:
            raise BadSignature("the members' signatures differ; they are not of one experiment")
    if job.is_plain:
        return models[0], signatures[0]
    weights = [member.weight for member in job.members]
    return merge(models, weights, job.temperature, job.task, job.classes), signatures[0]


def _mixed_reference(job: BuildJob, signature: Signature) -> Reference | Refused:
    """Rows of all members' references, with the mix of what the members' graphs answer.

    Each graph is compared with its own reference first, unless it was before.
    """
    references = [read_reference(member.reference, signature) for member in job.members]
    inputs, kinds = joined(references, MERGED_ROWS)
    answers = []
    for member, reference in zip(job.members, references, strict=True):
        artefact = Artefact(_session(member.graph.read_bytes()), job.task, job.classes)
        if not member.proven:
            parity = compare(artefact, reference, job.classes, job.tolerance)
            if parity.offending_row_count:
                return Refused(parity=parity)
        answers.append(artefact.answer(inputs, len(kinds)).values.astype(np.float64, copy=False))
    expected = mixed(answers, [member.weight for member in job.members], job.temperature)
    return Reference(inputs=inputs, expected=expected, kinds=kinds)


def _session(content: bytes) -> Any:
    """A session as a user gets one by default, but with one thread and no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def warm_up() -> None:
    """Runs a tiny graph, so that what is loaded lazily is there when a job comes."""
    column = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [None, 1])
    answer = onnx.helper.make_tensor_value_info("prediction", onnx.TensorProto.DOUBLE, [None, 1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["prediction"])], "warm", [column], [answer]
    )
    model = onnx.helper.make_model(
        graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)]
    )
    onnx.checker.check_model(model)
    session = _session(model.SerializeToString())
    begin = time.perf_counter()
    session.run(None, {"x": np.zeros((1, 1))})
    np.percentile([time.perf_counter() - begin], 50)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""

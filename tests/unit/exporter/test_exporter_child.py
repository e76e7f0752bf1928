"""One build on hostile and on honest input, without the process around it."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from allotment_exporter.child.build import build
from allotment_exporter.domain.builds import (
    BuildJob,
    BuildLimits,
    Built,
    Failed,
    JobMember,
    Refused,
)
from allotment_exporter.domain.exports import Stage, Task
from allotment_testkit import graphs
from allotment_testkit.graphs import CLASSES, Rows, classification_graph, regression_graph

Change = Callable[[onnx.ModelProto], object]


@pytest.fixture
def job(tmp_path: Path) -> BuildJob:
    """A regression that passes."""
    rows = Rows.made()
    (tmp_path / "graph.onnx").write_bytes(regression_graph().SerializeToString())
    (tmp_path / "reference.npz").write_bytes(rows.npz(rows.scores))
    return BuildJob(
        members=(JobMember(graph=tmp_path / "graph.onnx", reference=tmp_path / "reference.npz"),),
        artefact=tmp_path / "model.onnx",
        task=Task.REGRESSION,
        classes=(),
        target="y",
        limits=BuildLimits(
            memory_bytes=1 << 40, cpu_s=60, wall_s=60, measure_s=0.0, artefact_bytes=1 << 20
        ),
    )


def classification(job: BuildJob, expected: Any = None) -> BuildJob:
    rows = Rows.made()
    job.members[0].graph.write_bytes(classification_graph().SerializeToString())
    job.members[0].reference.write_bytes(
        rows.npz(rows.probabilities() if expected is None else expected)
    )
    return replace(job, task=Task.MULTICLASS, classes=CLASSES)


def run(job: BuildJob) -> Any:
    return build(job, lambda stage: None)


def test_stages_come_in_order(job: BuildJob) -> None:
    stages: list[Stage] = []
    assert isinstance(build(job, stages.append), Built)
    assert stages == [Stage.BUILD, Stage.PARITY, Stage.MEASURE]


def test_artefact_has_no_texts_but_ours_and_no_doubled_constants(job: BuildJob) -> None:
    outcome = run(job)
    assert isinstance(outcome, Built)
    content = job.artefact.read_bytes()
    assert b"/home" not in content
    model = onnx.load_model_from_string(content)
    assert [entry.key for entry in model.metadata_props] == ["allotment.signature"]
    assert json.loads(model.metadata_props[0].value) == outcome.signature
    assert sorted(tensor.name for tensor in model.graph.initializer) == ["one", "two", "zero"]
    assert outcome.measurement.size_bytes == len(content)


def test_same_input_gives_the_same_artefact(job: BuildJob) -> None:
    first, second = run(job), run(job)
    assert first.artefact_sha256 == second.artefact_sha256


@pytest.mark.parametrize("shift", [2e-6, -1e-3, np.inf, np.nan])
def test_a_single_wrong_value_is_refused(job: BuildJob, shift: float) -> None:
    rows = Rows.made()
    expected = rows.scores.copy()
    expected[5] += shift * max(1.0, abs(expected[5, 0]))
    job.members[0].reference.write_bytes(rows.npz(expected))
    outcome = run(job)
    assert isinstance(outcome, Refused)
    assert outcome.parity.offending_row_count == 1
    assert [row.row for row in outcome.parity.offending_rows] == [5]
    assert not job.artefact.exists()


def test_differences_within_the_tolerance_pass(job: BuildJob) -> None:
    rows = Rows.made()
    job.members[0].reference.write_bytes(rows.npz(rows.scores * (1 + 5e-7)))
    outcome = run(job)
    assert isinstance(outcome, Built)
    assert 1e-7 < outcome.parity.worst_difference < 1e-6


def test_offending_rows_are_at_most_ten_and_cells_are_cut(job: BuildJob) -> None:
    rows = Rows.made()
    rows.colour = ["c" * 200] * len(rows.colour)
    job.members[0].reference.write_bytes(rows.npz(rows.scores + 1))
    outcome = run(job)
    assert isinstance(outcome, Refused)
    assert outcome.parity.offending_row_count == len(rows.x) - 1  # 1e9 + 1 is within the tolerance
    assert len(outcome.parity.offending_rows) == 10
    assert all(len(row.cells["colour"]) == 80 for row in outcome.parity.offending_rows)


def test_classes_pass_with_their_labels(job: BuildJob) -> None:
    assert isinstance(run(classification(job)), Built)


def test_labels_of_another_order_are_refused(job: BuildJob) -> None:
    job = classification(job)
    model = classification_graph()
    encoder = next(n for n in model.graph.node if n.output == ["label"])
    values = next(a for a in encoder.attribute if a.name == "values_strings")
    values.strings[:] = [name.encode() for name in (*CLASSES[1:], CLASSES[0])]
    job.members[0].graph.write_bytes(model.SerializeToString())
    outcome = run(job)
    assert isinstance(outcome, Refused)
    assert outcome.parity.worst_difference == np.inf


def test_label_may_be_either_of_two_equal_classes(job: BuildJob) -> None:
    rows = Rows.made(4)
    rows.x[:] = 0.0
    rows.colour = ["blue"] * 4  # score 0: all classes are equally probable
    job = classification(job)
    job.members[0].reference.write_bytes(rows.npz(rows.probabilities()))
    model = classification_graph()
    encoder = next(n for n in model.graph.node if n.output == ["label"])
    values = next(a for a in encoder.attribute if a.name == "values_strings")
    values.strings[:] = [b"yes"] * 3
    job.members[0].graph.write_bytes(model.SerializeToString())
    assert isinstance(run(job), Built)


def _set_external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.insert(0, helper.make_node("Loop", [], [], body=body))


def _subgraph(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("body", body))


def _retype(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _tell(**changed: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        said = graphs.signature("regression", ()) | changed
        entry = next(e for e in model.metadata_props if e.key == graphs.SIGNATURE_KEY)
        entry.value = json.dumps(said)

    return change


CHANGES: dict[str, tuple[str, Change]] = {
    "external data": ("BAD_GRAPH", _set_external),
    "loop": ("BAD_GRAPH", _loop),
    "graph in a graph": ("BAD_GRAPH", _subgraph),
    "random": (
        "BAD_GRAPH",
        lambda m: m.graph.node.insert(0, helper.make_node("RandomNormal", [], ["r"], shape=[1])),
    ),
    "foreign operator": (
        "BAD_GRAPH",
        lambda m: m.graph.node.insert(0, helper.make_node("Evil", [], ["r"], domain="com.evil")),
    ),
    "foreign domain": (
        "BAD_GRAPH",
        lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
    ),
    "new opset": ("BAD_GRAPH", lambda m: setattr(m.opset_import[0], "version", 25)),
    "new IR": ("BAD_GRAPH", lambda m: setattr(m, "ir_version", 13)),
    "cycle": (
        "BAD_GRAPH",
        lambda m: m.graph.node.insert(0, helper.make_node("Neg", ["score"], ["early"])),
    ),
    "no signature": ("BAD_SIGNATURE", lambda m: m.metadata_props.pop(1)),
    "signature is no JSON": (
        "BAD_SIGNATURE",
        lambda m: setattr(m.metadata_props[1], "value", "[" * 100_000),
    ),
    "other input type": ("BAD_SIGNATURE", _retype),
    "other input order": ("BAD_SIGNATURE", lambda m: m.graph.input.reverse()),
    "fixed rows": (
        "BAD_SIGNATURE",
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
    ),
    "other target": ("BAD_SIGNATURE", _tell(target="z")),
    "other task": ("BAD_SIGNATURE", _tell(task="binary", classes=["a", "b"])),
    "no inputs": ("BAD_SIGNATURE", _tell(inputs=[])),
}


@pytest.mark.parametrize("what", CHANGES)
def test_graph_that_breaks_a_rule_fails(job: BuildJob, what: str) -> None:
    reason, change = CHANGES[what]
    model = regression_graph()
    change(model)
    job.members[0].graph.write_bytes(model.SerializeToString())
    outcome = run(job)
    assert isinstance(outcome, Failed)
    assert outcome.problem.reason == reason, outcome.problem.message
    assert len(outcome.problem.message) < 500
    assert not job.artefact.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 500])
def test_graph_that_is_cut_off_fails(job: BuildJob, kept: int) -> None:
    job.members[0].graph.write_bytes(job.members[0].graph.read_bytes()[:kept])
    outcome = run(job)
    assert isinstance(outcome, Failed)
    assert outcome.problem.reason == "BAD_GRAPH"


def test_graph_that_the_runtime_can_not_run_fails(job: BuildJob) -> None:
    model = regression_graph()
    wide = numpy_helper.from_array(np.zeros((7, 3)), "two")
    model.graph.initializer[1].CopyFrom(wide)
    job.members[0].graph.write_bytes(model.SerializeToString())
    outcome = run(job)
    assert isinstance(outcome, Failed)
    assert outcome.problem.reason in ("RUNTIME_REFUSED", "BAD_OUTPUT")


def test_artefact_over_its_limit_fails(job: BuildJob) -> None:
    job = replace(job, limits=replace(job.limits, artefact_bytes=100))
    outcome = run(job)
    assert isinstance(outcome, Failed)
    assert outcome.problem.reason == "BAD_GRAPH"


def _npz(**changed: Any) -> bytes:
    rows = Rows.made()
    return rows.npz(changed.pop("expected", rows.scores), **changed)


def _bomb() -> bytes:
    """A header that announces 8 TB, and a few bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 1)}
    )
    return _with_member("expected.npy", stream.getvalue() + b"\0" * 64)


def _with_member(name: str, content: bytes) -> bytes:
    source, target = io.BytesIO(_npz()), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))
    return target.getvalue()


REFERENCES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "garbage": lambda: b"garbage" * 100,
    "cut off": lambda: _npz()[:700],
    "pickled": lambda: _npz(input_1=np.array([{}] * 200, dtype=object)),
    "huge": _bomb,
    "no header": lambda: _with_member("expected.npy", b"\x93NUMPY\x01\x00"),
    "header is code": lambda: _with_member(
        "kind.npy", b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('true')\n"
    ),
    "columns": lambda: _npz(columns=np.array(["x", "color"])),
    "other width": lambda: _npz(expected=np.zeros((200, 2))),
    "other length": lambda: _npz(input_0=np.zeros(199)),
    "other type": lambda: _npz(input_0=np.array(["1"] * 200)),
    "unknown kind": lambda: _npz(kind=np.array(["ODD"] * 200)),
    "no rows": lambda: _npz(
        expected=np.zeros((0, 1)),
        input_0=np.zeros(0),
        input_1=np.array([], dtype=np.str_),
        kind=np.array([], dtype=np.str_),
    ),
}


@pytest.mark.parametrize("what", REFERENCES)
def test_reference_that_breaks_a_rule_fails(job: BuildJob, what: str) -> None:
    job.members[0].reference.write_bytes(REFERENCES[what]())
    outcome = run(job)
    assert isinstance(outcome, Failed)
    assert outcome.problem.reason == "BAD_REFERENCE", outcome.problem.message


@pytest.mark.parametrize("seed", range(60))
def test_damaged_reference_never_raises(job: BuildJob, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(job.members[0].reference.read_bytes())
    for place in rng.integers(0, len(content), 3):
        content[place] = rng.integers(256)
    job.members[0].reference.write_bytes(content)
    assert isinstance(run(job), Built | Refused | Failed)

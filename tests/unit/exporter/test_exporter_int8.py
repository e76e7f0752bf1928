"""Artefacts in eight bits: written where they cost less of the metric than is known of it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from allotment_exporter.child.candidates import int8_candidate
from allotment_exporter.child.int8 import quantised
from allotment_exporter.child.parity import Artefact
from allotment_exporter.child.references import Reference
from allotment_exporter.domain.builds import BuildJob, BuildLimits, Candidate, Change, JobMember
from allotment_exporter.domain.candidates import judge
from allotment_exporter.domain.exports import Measurement, ModelSource, Precision, Task

WIDTH, HIDDEN = 1, 64
COST = Measurement(size_bytes=9, latency_p50_ms=1.0, latency_p95_ms=1.0, rows_per_s=1.0)
LIMITS = BuildLimits(
    memory_bytes=1 << 30, cpu_s=60, wall_s=60, measure_s=0.01, artefact_bytes=1 << 20
)


def network(transposed: bool = True) -> onnx.ModelProto:
    """x [N, 1] -> two hidden layers -> prediction [N, 1], in double precision."""
    rng = np.random.default_rng(0)
    arrays = {
        "w1": rng.normal(size=(WIDTH, HIDDEN)),
        "w2": rng.normal(size=(HIDDEN, HIDDEN)) / 8,
        "b2": rng.normal(size=HIDDEN),
        "w3": rng.normal(size=(HIDDEN, 1)) / 8,
    }
    if transposed:
        arrays["w2"] = np.ascontiguousarray(arrays["w2"].T)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h1"]),
        helper.make_node("Tanh", ["h1"], ["t1"]),
        helper.make_node("Gemm", ["t1", "w2", "b2"], ["h2"], transB=int(transposed)),
        helper.make_node("Tanh", ["h2"], ["t2"]),
        helper.make_node("MatMul", ["t2", "w3"], ["prediction"]),
    ]
    double = TensorProto.DOUBLE
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", double, ["N", 1])],
        [helper.make_tensor_value_info("prediction", double, ["N", 1])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)], producer_version="1"
    )


def session(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("transposed", [False, True])
def test_large_products_are_rewritten_and_small_ones_are_not(transposed: bool) -> None:
    model = network(transposed)
    made = quantised(model)
    assert made is not None
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("MatMulInteger") == 1
    assert kinds.count("MatMul") == 2
    assert "Gemm" not in kinds
    onnx.checker.check_model(made, full_check=True)
    x = np.linspace(-2, 2, 200)[:, None]
    exact, other = (session(m.SerializeToString()).run(None, {"x": x})[0] for m in (model, made))
    assert np.abs(exact - other).max() < 0.02 * np.abs(exact).max()
    assert not np.array_equal(exact, other)


def test_a_graph_without_large_products_has_no_candidate() -> None:
    model = network()
    del model.graph.node[2:4]
    model.graph.node[-1].input[0] = "t1"
    assert quantised(model) is None


def test_a_candidate_is_written_measured_and_compared(tmp_path: Path) -> None:
    content = network().SerializeToString()
    x = np.linspace(-2, 2, 100)[:, None]
    kinds = np.array(["VALIDATION"] * 90 + ["EXTREME"] * 10)
    exact = Artefact(session(content), Task.REGRESSION, ())
    reference = Reference(inputs={"x": x}, expected=exact.answer({"x": x}, 100).values, kinds=kinds)
    job = BuildJob(
        members=(JobMember(graph=tmp_path / "g", reference=tmp_path / "r"),),
        artefact=tmp_path / "model.onnx",
        task=Task.REGRESSION,
        classes=(),
        target="y",
        limits=LIMITS,
        precision=Precision.INT8,
    )
    candidate = int8_candidate(content, exact, reference, job, session)
    assert candidate is not None
    assert candidate.precision is Precision.INT8
    assert candidate.measurement.size_bytes == job.candidate.stat().st_size < len(content)
    assert candidate.change.row_count == 90
    assert 0 < candidate.change.distance < 0.1


def source(task: Task, metric: str, score: float, rows: int) -> ModelSource:
    return ModelSource(
        model="tenants/t/experiments/e/models/1",
        graph_sha256="0" * 64,
        reference_sha256="0" * 64,
        task=task,
        classes=() if task is Task.REGRESSION else ("a", "b"),
        target="y",
        metric=metric,
        score=score,
        metrics={metric: score},
        dataset_version="tenants/t/datasets/d/versions/1",
        trials=(),
        family="mlp",
        library_versions={},
        validation_row_count=rows,
        seed=0,
    )


def candidate_of(change: Change) -> Candidate:
    return Candidate(
        precision=Precision.INT8, artefact_sha256="1" * 64, measurement=COST, change=change
    )


@pytest.mark.parametrize(
    ("task", "metric", "score", "harmless", "harmful"),
    [
        (
            Task.BINARY,
            "accuracy",
            0.9,
            Change(row_count=2000, labels_changed=0.0005),
            Change(row_count=2000, labels_changed=0.02),
        ),
        (
            Task.BINARY,
            "log_loss",
            0.3,
            Change(
                row_count=2000,
                labels_changed=0.0,
                divergence=1e-4,
                divergence_deviation=1e-4,
                loss_deviation=0.5,
            ),
            Change(
                row_count=2000,
                labels_changed=0.0,
                divergence=0.05,
                divergence_deviation=0.1,
                loss_deviation=0.5,
            ),
        ),
        (
            Task.REGRESSION,
            "rmse",
            10.0,
            Change(row_count=2000, labels_changed=0.0, distance=0.3),
            Change(row_count=2000, labels_changed=0.0, distance=5.0),
        ),
    ],
)
def test_a_candidate_is_taken_only_within_the_metrics_interval(
    task: Task, metric: str, score: float, harmless: Change, harmful: Change
) -> None:
    made = source(task, metric, score, 5_000)
    assert judge(made, candidate_of(harmless)).is_within
    assert not judge(made, candidate_of(harmful)).is_within


def test_few_rows_of_comparison_prove_nothing() -> None:
    made = source(Task.BINARY, "accuracy", 0.9, 5_000)
    assert not judge(made, candidate_of(Change(row_count=20, labels_changed=0.0))).is_within

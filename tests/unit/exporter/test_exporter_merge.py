"""Several graphs as one: what comes out, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from allotment_exporter.child.build import build
from allotment_exporter.child.merge import mixed
from allotment_exporter.domain.builds import (
    BuildJob,
    BuildLimits,
    BuildOutcome,
    Built,
    Failed,
    JobMember,
    Refused,
)
from allotment_exporter.domain.exports import Task
from allotment_testkit.graphs import CLASSES, Rows, classification_graph, regression_graph
from allotment_testkit.trials import session_of


def steeper(times: float) -> onnx.ModelProto:
    """The classification graph with other slopes."""
    graph = classification_graph()
    for tensor in graph.graph.initializer:
        if tensor.name == "slopes":
            slopes = onnx.numpy_helper.to_array(tensor) * times
            tensor.CopyFrom(onnx.numpy_helper.from_array(slopes, "slopes"))
    return graph


def job_of(
    folder: Path,
    graphs: Sequence[onnx.ModelProto],
    weights: Sequence[float],
    temperature: float = 1.0,
    **member: Any,
) -> BuildJob:
    """References say what the graphs themselves give."""
    rows = Rows.made()
    members = []
    for place, (graph, weight) in enumerate(zip(graphs, weights, strict=True)):
        content = graph.SerializeToString()
        (folder / f"{place}.onnx").write_bytes(content)
        feeds = {"x": rows.x[:, None], "colour": np.array(rows.colour, dtype=object)[:, None]}
        expected = session_of(content).run(None, feeds)[-1]
        (folder / f"{place}.npz").write_bytes(rows.npz(expected))
        graph_path, reference_path = folder / f"{place}.onnx", folder / f"{place}.npz"
        members.append(
            JobMember(graph=graph_path, reference=reference_path, weight=weight, **member)
        )
    classes = len(graphs[0].graph.output) == 2
    return BuildJob(
        members=tuple(members),
        artefact=folder / "model.onnx",
        task=Task.MULTICLASS if classes else Task.REGRESSION,
        classes=CLASSES if classes else (),
        target="y",
        limits=BuildLimits(
            memory_bytes=1 << 40, cpu_s=60, wall_s=60, measure_s=0.0, artefact_bytes=1 << 20
        ),
        temperature=temperature,
    )


def run(job: BuildJob) -> BuildOutcome:
    return build(job, lambda stage: None)


def answers(path: Path) -> list[Any]:
    rows = Rows.made()
    feeds = {"x": rows.x[:, None], "colour": np.array(rows.colour, dtype=object)[:, None]}
    found: list[Any] = session_of(path).run(None, feeds)
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
@pytest.mark.parametrize("weights", [(1.0,), (0.75, 0.25), (0.5, 0.25, 0.25)])
def test_the_merged_graph_gives_the_calibrated_mean(
    tmp_path: Path, weights: tuple[float, ...], temperature: float
) -> None:
    job = job_of(tmp_path, [steeper(1 + n) for n in range(len(weights))], weights, temperature)
    outcome = run(job)
    assert isinstance(outcome, Built), outcome
    labels, found = answers(job.artefact)
    parts = [answers(member.graph)[1] for member in job.members]
    expected = mixed(parts, weights, temperature)
    assert np.abs(found - expected).max() < 1e-9
    assert list(labels) == [CLASSES[best] for best in expected.argmax(axis=1)]
    assert outcome.parity.worst_difference < 1e-9


@pytest.mark.parametrize("temperature", [1.0, 0.25, 4.0])
def test_probabilities_of_exactly_zero_and_one_are_mixed(
    tmp_path: Path, temperature: float
) -> None:
    job = job_of(tmp_path, [steeper(1e6), steeper(-1e6)], (0.75, 0.25), temperature)
    assert isinstance(run(job), Built)
    parts = [answers(member.graph)[1] for member in job.members]
    assert all((part == 0).any() and (part == 1).any() for part in parts)
    found, expected = answers(job.artefact)[1], mixed(parts, (0.75, 0.25), temperature)
    assert np.abs(found - expected).max() < 1e-9
    nowhere = (parts[0] == 0) & (parts[1] == 0)
    assert nowhere.any()
    assert (found[nowhere] == 0).all()


def test_numbers_are_averaged(tmp_path: Path) -> None:
    job = job_of(tmp_path, [regression_graph()] * 2, (0.3, 0.7))
    assert isinstance(run(job), Built)
    assert np.abs(answers(job.artefact)[0] - Rows.made().scores).max() < 1e-3


def test_what_members_share_is_there_once(tmp_path: Path) -> None:
    job = job_of(tmp_path, [steeper(1), steeper(2)], (0.5, 0.5))
    assert isinstance(run(job), Built)
    kinds = [node.op_type for node in onnx.load(job.artefact).graph.node]
    assert kinds.count("IsNaN") == 1
    assert kinds.count("LabelEncoder") == 1
    assert kinds.count("Softmax") == 2
    assert kinds.count("ArgMax") == 1


def test_the_same_members_give_the_same_bytes(tmp_path: Path) -> None:
    job = job_of(tmp_path, [steeper(1), steeper(2)], (0.5, 0.5), 0.7)
    first, second = run(job), run(job)
    assert isinstance(first, Built)
    assert isinstance(second, Built)
    assert first.artefact_sha256 == second.artefact_sha256


def test_a_member_that_differs_from_its_reference_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, [steeper(1), steeper(2)], (0.5, 0.5))
    rows = Rows.made()
    job.members[1].reference.write_bytes(rows.npz(rows.probabilities()))
    outcome = run(job)
    assert isinstance(outcome, Refused)
    assert outcome.parity.offending_row_count > 0
    assert not job.artefact.exists()


def test_a_member_that_was_proven_is_not_proven_again(tmp_path: Path) -> None:
    job = job_of(tmp_path, [steeper(1), steeper(2)], (0.5, 0.5), proven=True)
    rows = Rows.made()
    job.members[1].reference.write_bytes(rows.npz(rows.probabilities()))
    assert isinstance(run(job), Built)


def test_members_of_other_inputs_or_opsets_are_refused(tmp_path: Path) -> None:
    older = steeper(2)
    older.opset_import[0].version = 20
    outcome = run(job_of(tmp_path, [steeper(1), older], (0.5, 0.5)))
    assert isinstance(outcome, Failed)
    assert outcome.problem.reason == "BAD_GRAPH"
    other = steeper(2)
    for entry in other.metadata_props:
        entry.value = entry.value.replace('"target": "y"', '"version": 2, "target": "y"')
    outcome = run(job_of(tmp_path, [steeper(1), other], (0.5, 0.5)))
    assert isinstance(outcome, Failed)
    assert outcome.problem.reason == "BAD_SIGNATURE"

"""Exports, their sources, their manifest and their lines, without I/O."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from allotment_core.errors import FailedPrecondition, InvalidArgument
from allotment_core.names import ExportName, TenantName
from allotment_exporter.domain import lines
from allotment_exporter.domain.builds import (
    BuildJob,
    BuildLimits,
    Built,
    Candidate,
    Change,
    Failed,
    JobMember,
    Refused,
)
from allotment_exporter.domain.exports import (
    MAX_RESTARTS,
    MOVES,
    Calibration,
    Export,
    ExportState,
    Measurement,
    Member,
    ModelSource,
    OffendingRow,
    ParityReport,
    Precision,
    Problem,
    Stage,
    Task,
)
from allotment_exporter.domain.manifest import interval_95, write_manifest
from allotment_exporter.domain.sources import check_source
from allotment_exporter.messages import from_source, to_source

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TENANT = TenantName("local")
SOURCE = ModelSource(
    model="tenants/local/experiments/e/models/1",
    graph_sha256="a" * 64,
    reference_sha256="b" * 64,
    task=Task.BINARY,
    classes=("no", "yes"),
    target="y",
    metric="log_loss",
    score=0.25,
    metrics={"accuracy": 0.9},
    dataset_version="tenants/local/datasets/d/versions/1",
    trials=("tenants/local/experiments/e/trials/1",),
    family="families/linear",
    library_versions={"scikit-learn": "1.9.1"},
    validation_row_count=100,
    seed=2**64 - 1,
)
PARITY = ParityReport(
    row_count=3,
    offending_row_count=0,
    worst_difference=1e-9,
    tolerance=1e-6,
    rows_by_kind={"VALIDATION": 3},
)
MEMBERS = tuple(
    Member(
        trial=f"tenants/local/experiments/e/trials/{n}",
        weight=weight,
        family="families/linear",
        graph_sha256="a" * 64,
        reference_sha256="b" * 64,
    )
    for n, weight in ((4, 0.75), (2, 0.25))
)
MIXED = replace(
    SOURCE,
    graph_sha256="",
    reference_sha256="",
    members=MEMBERS,
    calibration=Calibration(temperature=0.8, ece_before=0.05, ece_after=0.01),
)
BUILT = Built(
    artefact_sha256="c" * 64,
    signature={"target": "y", "inputs": []},
    ir_version=10,
    opsets={"ai.onnx": 21},
    parity=PARITY,
    measurement=Measurement(
        size_bytes=10, latency_p50_ms=0.0123456789, latency_p95_ms=1.0, rows_per_s=1e6
    ),
    library_versions={"onnx": "1.23.2"},
)


def pending() -> Export:
    return Export.queued(ExportName(TENANT, "e1"), SOURCE, NOW)


def running() -> Export:
    return pending().started(NOW)


def test_every_move_of_an_export_is_a_legal_one() -> None:
    reached = {
        running().state,
        running().refused(PARITY, NOW).state,
        running().failed(Problem(reason="R", message="m"), NOW).state,
        running().cancelled(NOW).state,
        pending().cancelled(NOW).state,
        running().interrupted(NOW).state,
        running()
        .succeeded(
            parity=PARITY,
            measurement=BUILT.measurement,
            artefact_sha256="c",
            manifest_sha256="d",
            now=NOW,
        )
        .state,
    }
    assert reached == set(ExportState)
    assert {state for state in ExportState if pending_in(state).ended} == MOVES.final


def pending_in(state: ExportState) -> Export:
    return replace(pending(), state=state)


@pytest.mark.parametrize("state", [state for state in ExportState if state in MOVES.final])
def test_ended_export_does_not_move(state: ExportState) -> None:
    export = pending_in(state)
    with pytest.raises(FailedPrecondition):
        export.started(NOW)
    if state is ExportState.CANCELLED:
        assert export.cancelled(NOW) == export
    else:
        with pytest.raises(FailedPrecondition, match="delete it"):
            export.cancelled(NOW)


def test_pending_export_can_not_succeed_and_can_not_be_deleted() -> None:
    with pytest.raises(FailedPrecondition):
        pending().refused(PARITY, NOW)
    with pytest.raises(FailedPrecondition, match="cancel it"):
        pending().check_deletable()


def test_interrupted_export_is_tried_again_but_not_for_ever() -> None:
    export = pending()
    for _ in range(MAX_RESTARTS - 1):
        export = export.started(NOW).interrupted(NOW + timedelta(seconds=1))
        assert (export.state, export.stage) == (ExportState.PENDING, Stage.QUEUED)
    export = export.started(NOW).interrupted(NOW)
    assert export.state is ExportState.FAILED
    assert export.problem is not None
    assert export.problem.reason == "TOO_MANY_RESTARTS"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"model": "x"}, "source.model"),
        ({"model": "tenants/other/experiments/e/models/1"}, "source.model"),
        ({"dataset_version": "tenants/local/datasets/d"}, "source.dataset_version"),
        ({"trials": ("tenants/other/experiments/e/trials/1",)}, "source.trials[0]"),
        ({"trials": SOURCE.trials * 1001}, "source.trials"),
        ({"graph_sha256": "A" * 64}, "source.graph_sha256"),
        ({"reference_sha256": ""}, "source.reference_sha256"),
        ({"classes": ("a",)}, "source.classes"),
        ({"classes": ("a", "b", "c")}, "source.classes"),
        ({"classes": ("a", "a")}, "source.classes"),
        ({"task": Task.REGRESSION}, "source.classes"),
        ({"score": math.nan}, "source.score"),
        ({"metrics": {"auc": math.inf}}, "source.metrics[auc]"),
        ({"validation_row_count": -1}, "source.validation_row_count"),
        ({"target": ""}, "source.target"),
        ({"family": "f" * (2 << 20)}, "source.classes"),
    ],
)
def test_bad_source_names_its_field(changed: dict[str, object], field: str) -> None:
    check_source(SOURCE, TENANT)
    with pytest.raises(InvalidArgument) as caught:
        check_source(replace(SOURCE, **changed), TENANT)  # type: ignore[arg-type]
    assert [violation.field for violation in caught.value.violations] == [field]
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"members": (replace(MEMBERS[0], weight=0.5), MEMBERS[1])}, "source.members"),
        ({"members": (replace(MEMBERS[0], weight=1.25), replace(MEMBERS[1], weight=-0.25))}, None),
        ({"members": (MEMBERS[0], replace(MEMBERS[1], graph_sha256="x"))}, None),
        ({"members": (MEMBERS[0], replace(MEMBERS[1], trial="x"))}, "source.members[1].trial"),
        ({"members": tuple(replace(MEMBERS[0], weight=0.01) for _ in range(100))}, None),
        ({"calibration": Calibration(temperature=0.0, ece_before=0, ece_after=0)}, None),
        ({"calibration": Calibration(temperature=1.5, ece_before=math.nan, ece_after=0)}, None),
        ({"task": Task.REGRESSION, "classes": ()}, "source.calibration"),
        ({"members": ()}, "source.graph_sha256"),
    ],
)
def test_bad_members_and_temperatures_are_told(
    changed: dict[str, object], field: str | None
) -> None:
    check_source(MIXED, TENANT)
    with pytest.raises(InvalidArgument) as caught:
        check_source(replace(MIXED, **changed), TENANT)  # type: ignore[arg-type]
    if field is not None:
        assert caught.value.violations[0].field == field


def test_manifest_of_an_ensemble_names_its_members() -> None:
    export = Export.queued(ExportName(TENANT, "e1"), MIXED, NOW).started(NOW)
    document = json.loads(write_manifest(export, BUILT, NOW))
    assert [m["weight"] for m in document["lineage"]["members"]] == [0.75, 0.25]
    assert document["lineage"]["graph_sha256"] is None
    assert document["calibration"]["temperature"] == 0.8
    alone = json.loads(write_manifest(running(), BUILT, NOW))
    assert [m["trial"] for m in alone["lineage"]["members"]] == list(SOURCE.trials)
    assert alone["calibration"] is None


def test_manifest_compares_the_forms_that_were_measured() -> None:
    assert json.loads(write_manifest(running(), BUILT, NOW))["candidates"] == []
    change = Change(row_count=2000, labels_changed=0.5, divergence=9.0, distance=9.0)
    candidate = Candidate(
        precision=Precision.INT8,
        artefact_sha256="c" * 64,
        measurement=replace(BUILT.measurement, size_bytes=7),
        change=change,
    )
    document = json.loads(write_manifest(running(), replace(BUILT, candidate=candidate), NOW))
    exact, other = document["candidates"]
    assert (exact["precision"], exact["chosen"]) == ("EXACT", True)
    assert (other["precision"], other["chosen"]) == ("INT8", False)
    assert other["measurement"]["size_bytes"] == 7
    assert other["metric_loss_at_most"] > other["metric_loss_allowed"]


def test_members_survive_the_wire() -> None:
    assert to_source(from_source(MIXED)) == MIXED
    assert to_source(from_source(SOURCE)) == SOURCE
    assert to_source(from_source(SOURCE), 2).precision is Precision.INT8
    with pytest.raises(InvalidArgument, match="EXACT and INT8"):
        to_source(from_source(SOURCE), 77)


def test_manifest_is_canonical_and_the_same_for_the_same_facts() -> None:
    content = write_manifest(running(), BUILT, NOW)
    assert content == write_manifest(running(), BUILT, NOW)
    document = json.loads(content)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert content == canonical.encode() + b"\n"
    assert document["create_time"] == "2026-11-21T12:00:00Z"
    assert document["lineage"]["experiment"] == "tenants/local/experiments/e"
    assert document["lineage"]["seed"] == 2**64 - 1
    assert document["measurement"]["latency_p50_ms"] == 0.0123457
    assert document["metric"]["interval_95"] is None


def test_manifest_fields_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "manifest.md").read_text()
    for field in json.loads(write_manifest(running(), BUILT, NOW)):
        assert f"`{field}" in text


def test_accuracy_has_wilsons_interval() -> None:
    low, high = interval_95(replace(SOURCE, metric="accuracy", score=0.9)) or (0, 0)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert interval_95(replace(SOURCE, metric="accuracy", score=1.0)) == [0.963007, 1.0]
    assert interval_95(replace(SOURCE, metric="accuracy", validation_row_count=0)) is None


def test_lines_read_back_what_they_say() -> None:
    job = BuildJob(
        members=(
            JobMember(graph=Path("/w/g"), reference=Path("/w/r"), weight=0.75, proven=True),
            JobMember(graph=Path("/w/1/g"), reference=Path("/w/1/r"), weight=0.25),
        ),
        temperature=0.5,
        artefact=Path("/w/a"),
        task=Task.BINARY,
        classes=("nein\n", "ja ☃"),
        target="y",
        limits=BuildLimits(memory_bytes=1, cpu_s=2, wall_s=3.5, measure_s=0.1, artefact_bytes=4),
        precision=Precision.INT8,
    )
    assert lines.read_job(lines.job_line(job)) == job
    row = OffendingRow(row=1, kind="UNSEEN", cells={"x": "1"}, expected=(1.0,), actual=(-math.inf,))
    report = replace(PARITY, offending_row_count=1, offending_rows=(row,))
    candidate = Candidate(
        precision=Precision.INT8,
        artefact_sha256="c" * 64,
        measurement=BUILT.measurement,
        change=Change(row_count=3, labels_changed=0.25, divergence=0.5),
    )
    for outcome in (
        BUILT,
        replace(BUILT, candidate=candidate),
        Refused(parity=report),
        Failed(problem=Problem(reason="R", message="m")),
    ):
        line = lines.outcome_line(outcome)
        assert line.count(b"\n") == 1
        assert lines.read_line(line) == outcome
    assert lines.read_line(lines.stage_line(Stage.PARITY)) is Stage.PARITY
    assert lines.read_line(lines.ready_line()) is None


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b"\xff", b'{"stage":"NO"}', b'{"built":{}}', b'{"odd":1}', b"[" * 10_000],
)
def test_odd_lines_are_told(line: bytes) -> None:
    with pytest.raises(lines.BadLine):
        lines.read_line(line)

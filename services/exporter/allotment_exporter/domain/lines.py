"""Builds as lines of JSON: how the server and its throw-away processes talk.

The server writes one line, the job. The process writes `{"ready": true}` once it is warm, then a
`{"stage": ...}` for each stage, then one of `{"built": ...}`, `{"refused": ...}` and
`{"failed": ...}`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from allotment_exporter.domain.builds import (
    BuildJob,
    BuildLimits,
    BuildOutcome,
    Built,
    Candidate,
    Change,
    Failed,
    JobMember,
    Refused,
)
from allotment_exporter.domain.exports import (
    Measurement,
    OffendingRow,
    ParityReport,
    Precision,
    Problem,
    Stage,
    Task,
)

READY = "ready"
_OUTCOMES: dict[type[BuildOutcome], str] = {Built: "built", Refused: "refused", Failed: "failed"}


class BadLine(Exception):
    """The process wrote something else than it should."""


def job_line(job: BuildJob) -> bytes:
    """The line that starts a build."""
    document = asdict(job) | {
        "members": [
            asdict(m) | {"graph": str(m.graph), "reference": str(m.reference)} for m in job.members
        ],
        "artefact": str(job.artefact),
        "task": job.task.value,
        "precision": job.precision.value,
    }
    return _line(document)


def read_job(line: bytes) -> BuildJob:
    """The job of a line that `job_line` wrote."""
    document = json.loads(line)
    return BuildJob(
        members=tuple(
            JobMember(**{**m, "graph": Path(m["graph"]), "reference": Path(m["reference"])})
            for m in document["members"]
        ),
        artefact=Path(document["artefact"]),
        task=Task(document["task"]),
        classes=tuple(document["classes"]),
        target=document["target"],
        limits=BuildLimits(**document["limits"]),
        temperature=document["temperature"],
        tolerance=document["tolerance"],
        precision=Precision(document["precision"]),
    )


def ready_line() -> bytes:
    """The line of a warm process."""
    return _line({READY: True})


def stage_line(stage: Stage) -> bytes:
    """The line of a stage that begins."""
    return _line({"stage": stage.name})


def outcome_line(outcome: BuildOutcome) -> bytes:
    """The last line of a build."""
    return _line({_OUTCOMES[type(outcome)]: asdict(outcome, dict_factory=_plain)})


def _plain(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.value if isinstance(value, Enum) else value for name, value in fields}


def read_line(line: bytes) -> Stage | BuildOutcome | None:
    """What a line of a process says; None for the ready line. Raises: BadLine."""
    try:
        document = json.loads(line)
        ((key, content),) = document.items()
        if key == READY:
            return None
        if key == "stage":
            return Stage[content]
        if key == "built":
            return _built(content)
        if key == "refused":
            return Refused(parity=read_parity(content["parity"]))
        if key == "failed":
            return Failed(problem=Problem(**content["problem"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadLine(f"not a line of a build: {type(error).__name__}") from None
    raise BadLine(f"not a line of a build: unknown key of {len(key)} characters")


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _built(content: Mapping[str, Any]) -> Built:
    return Built(
        artefact_sha256=str(content["artefact_sha256"]),
        signature=dict(content["signature"]),
        ir_version=int(content["ir_version"]),
        opsets={str(name): int(version) for name, version in content["opsets"].items()},
        parity=read_parity(content["parity"]),
        measurement=Measurement(**content["measurement"]),
        library_versions=dict(content["library_versions"]),
        candidate=_candidate(content["candidate"]) if content.get("candidate") else None,
    )


def _candidate(content: Mapping[str, Any]) -> Candidate:
    return Candidate(
        precision=Precision(content["precision"]),
        artefact_sha256=str(content["artefact_sha256"]),
        measurement=Measurement(**content["measurement"]),
        change=Change(**content["change"]),
    )


def read_parity(content: Mapping[str, Any]) -> ParityReport:
    """The report of a document that `asdict` made. Raises: KeyError, TypeError, ValueError."""
    rows = tuple(
        OffendingRow(
            row=int(row["row"]),
            kind=str(row["kind"]),
            cells=dict(row["cells"]),
            expected=tuple(map(float, row["expected"])),
            actual=tuple(map(float, row["actual"])),
        )
        for row in content["offending_rows"]
    )
    return ParityReport(**{**content, "offending_rows": rows})

"""The tables of the exporter's database, as its newest migration leaves them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from allotment_core.names import ExportName, TenantName
from allotment_exporter.domain.exports import (
    Calibration,
    Export,
    ExportState,
    Measurement,
    Member,
    ModelSource,
    Precision,
    Problem,
    Stage,
    Task,
)
from allotment_exporter.domain.lines import read_parity

metadata = sa.MetaData()

exports = sa.Table(
    "exports",
    metadata,
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("tenant_id", sa.String(63), nullable=False),
    sa.Column("export_id", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("start_count", sa.Integer, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("problem", sa.Text),
    sa.Column("parity", sa.Text),
    sa.Column("measurement", sa.Text),
    sa.Column("artefact_sha256", sa.String(64), nullable=False),
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
)
"""`place` is the order of creation and never used twice; times are microseconds since 1970, UTC."""

releases = sa.Table(
    "export_releases", metadata, sa.Column("name", sa.String(160), primary_key=True)
)
"""Owners of blobs that are to be let go: written with the change that ends the need for them."""


def to_row(export: Export) -> dict[str, Any]:
    """The columns of an export, but for its place."""
    return {
        "tenant_id": export.name.tenant.tenant_id,
        "export_id": export.name.export_id,
        "state": export.state.value,
        "stage": export.stage.name,
        "start_count": export.start_count,
        "source": json.dumps(
            asdict(export.source)
            | {"task": export.source.task.value, "precision": export.source.precision.value}
        ),
        "problem": _text(export.problem),
        "parity": _text(export.parity),
        "measurement": _text(export.measurement),
        "artefact_sha256": export.artefact_sha256,
        "manifest_sha256": export.manifest_sha256,
        "create_time": _to_micros(export.create_time),
        "update_time": _to_micros(export.update_time),
    }


def from_row(row: Mapping[str, Any]) -> Export:
    """The export of a row that `to_row` made."""
    source = json.loads(row["source"])
    for field in ("classes", "trials"):
        source[field] = tuple(source[field])
    # Rows of earlier versions have neither.
    source["members"] = tuple(Member(**member) for member in source.get("members", ()))
    source["precision"] = Precision(source.get("precision", "EXACT"))
    calibration = source.get("calibration")
    source["calibration"] = Calibration(**calibration) if calibration else None
    return Export(
        name=ExportName(TenantName(row["tenant_id"]), row["export_id"]),
        state=ExportState(row["state"]),
        stage=Stage[row["stage"]],
        start_count=row["start_count"],
        source=ModelSource(**{**source, "task": Task(source["task"])}),
        problem=Problem(**json.loads(row["problem"])) if row["problem"] else None,
        parity=read_parity(json.loads(row["parity"])) if row["parity"] else None,
        measurement=Measurement(**json.loads(row["measurement"])) if row["measurement"] else None,
        artefact_sha256=row["artefact_sha256"],
        manifest_sha256=row["manifest_sha256"],
        create_time=_from_micros(row["create_time"]),
        update_time=_from_micros(row["update_time"]),
    )


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(asdict(value))


def _to_micros(instant: datetime) -> int:
    return round(instant.timestamp() * 1e6)


def _from_micros(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)

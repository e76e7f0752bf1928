"""Exports, the blobs that are to be let go, and the responses of repeated requests."""

import sqlalchemy as sa
from alembic import op

from allotment_core.db import request_log

revision = "0001"
down_revision = None


def upgrade() -> None:
    request_log.create(op)  # type: ignore[arg-type]
    op.create_table(
        "exports",
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
        sa.UniqueConstraint("tenant_id", "export_id", name="exports_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("exports_tenant_place", "exports", ["tenant_id", "place"])
    op.create_index("exports_state", "exports", ["state", "tenant_id", "place"])
    op.create_table(
        "export_releases",
        sa.Column("name", sa.String(160), primary_key=True),
    )

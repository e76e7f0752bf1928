"""Uploads, imports, datasets, versions, inspections, blobs and their holders."""

import sqlalchemy as sa
from alembic import op

from allotment_core.db import request_log

revision = "0001"
down_revision = None


def _tenant_and(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(n, sa.String(63), primary_key=True) for n in ("tenant", *names)]


def _instants(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(n, sa.BigInteger, nullable=False) for n in names]


def upgrade() -> None:
    request_log.create(op)  # type: ignore[arg-type]
    _uploads_and_imports()
    _datasets()
    op.create_table(
        "blob",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("incarnation", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        *_instants("touch_time"),
    )
    op.create_index("blob_touch_time", "blob", ["touch_time"])
    op.create_table(
        "hold",
        sa.Column("sha256", sa.String(64), sa.ForeignKey("blob.sha256"), primary_key=True),
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("owner", sa.String(300), primary_key=True),
    )
    op.create_index("hold_owner", "hold", ["tenant", "owner"])


def _uploads_and_imports() -> None:
    op.create_table(
        "upload",
        *_tenant_and("upload"),
        sa.Column("received_bytes", sa.BigInteger, nullable=False),
        sa.Column("announced_bytes", sa.BigInteger, nullable=False),
        sa.Column("announced_sha256", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        *_instants("create_time", "expire_time"),
    )
    op.create_index("upload_expire_time", "upload", ["expire_time"])
    op.create_table(
        "import",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("import", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("problem_reason", sa.String(64), nullable=False),
        sa.Column("problem_message", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("upload_tenant", sa.String(63), nullable=False),
        sa.Column("upload", sa.String(63), nullable=False),
        sa.Column("dataset_tenant", sa.String(63), nullable=False),
        sa.Column("dataset", sa.String(63), nullable=False),
        sa.Column("append", sa.Boolean, nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("overrides", sa.Text, nullable=False),
        sa.Column("target_hint", sa.Text, nullable=False),
        *_instants("create_time", "update_time"),
        sa.UniqueConstraint("tenant", "import"),
        sqlite_autoincrement=True,
    )
    op.create_index("import_state", "import", ["state"])


def _datasets() -> None:
    op.create_table(
        "dataset",
        *_tenant_and("dataset"),
        sa.Column("latest_number", sa.Integer, nullable=False),
        sa.Column("next_number", sa.Integer, nullable=False),
        sa.Column("version_count", sa.Integer, nullable=False),
        *_instants("create_time", "update_time"),
    )
    op.create_table(
        "version",
        *_tenant_and("dataset"),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("content", sa.Text, nullable=False),
        *_instants("create_time"),
    )
    op.create_table(
        "inspection",
        *_tenant_and("dataset"),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("task", sa.String(16), primary_key=True),
        sa.Column("content", sa.Text, nullable=False),
    )

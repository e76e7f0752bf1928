"""Tenants, leases, accounts, usage."""

import sqlalchemy as sa
from alembic import op

from allotment_core.db import request_log

revision = "0001"


def upgrade() -> None:
    request_log.create(op)  # type: ignore[arg-type]
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("guaranteed_slots", sa.Integer, nullable=False),
        sa.Column("quota_slots", sa.Integer, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(160), primary_key=True),
        sa.Column(
            "tenant",
            sa.String(80),
            sa.ForeignKey("tenants.name", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("holder", sa.String(160), nullable=False),
        sa.Column("slot_count", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("pool", sa.String(80)),
        sa.Column("problem_reason", sa.String(80)),
        sa.Column("problem_message", sa.Text),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("grant_time", sa.BigInteger),
        sa.Column("expire_time", sa.BigInteger),
        sa.Column("revoke_deadline", sa.BigInteger),
        sa.Column("end_time", sa.BigInteger),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("leases_state", "leases", ["state"])
    op.create_index("leases_tenant", "leases", ["tenant", "name"])
    op.create_index("leases_end_time", "leases", ["end_time"])
    op.create_table(
        "accounts",
        sa.Column("who", sa.String(160), primary_key=True),
        sa.Column("tenant", sa.String(80), nullable=False),
        sa.Column("attained", sa.Float, nullable=False),
        sa.Column("as_of", sa.BigInteger, nullable=False),
        sa.Column("slot_count", sa.Integer, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("holder", sa.String(160), primary_key=True),
        sa.Column("tenant", sa.String(80), nullable=False),
        sa.Column("slot_seconds", sa.Float, nullable=False),
        sa.Column("lease_count", sa.BigInteger, nullable=False),
    )
    op.create_index("usage_tenant", "usage", ["tenant", "holder"])

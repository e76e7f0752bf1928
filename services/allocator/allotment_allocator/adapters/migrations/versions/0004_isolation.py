"""Tenants that have nodes alone, and what their leases are charged for.

An allocator of the version before goes on working on these tables.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
is_additive = True


def upgrade() -> None:
    op.add_column(
        "tenants",
        sa.Column("isolation", sa.String(16), nullable=False, server_default="SHARED"),
    )
    op.add_column("leases", sa.Column("charged_slots", sa.Integer))
    op.add_column("leases", sa.Column("charged_from", sa.BigInteger))
    op.add_column(
        "leases", sa.Column("charged_before", sa.Float, nullable=False, server_default="0")
    )

"""Leases that wait in a queue of the cluster.

An allocator of the version before goes on working on this table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
is_additive = True


def upgrade() -> None:
    op.add_column("leases", sa.Column("submit_time", sa.BigInteger))

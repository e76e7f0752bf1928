"""What leases want and where they are; tenants' shares of GPUs.

An allocator of the version before goes on working on these tables.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
is_additive = True


def upgrade() -> None:
    for column in ("guaranteed_gpus", "quota_gpus"):
        op.add_column("tenants", sa.Column(column, sa.Integer, nullable=False, server_default="0"))
    for column, default in (("resource", "cpu"), ("product", ""), ("wanted_pool", "")):
        op.add_column(
            "leases", sa.Column(column, sa.String(63), nullable=False, server_default=default)
        )
    op.add_column("leases", sa.Column("node", sa.String(253)))
    with op.batch_alter_table("accounts") as accounts:
        accounts.alter_column("who", type_=sa.String(240))

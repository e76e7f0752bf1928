"""Which tenants consent to others' learning from their tasks.

An allocator of the version before goes on working on this table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
is_additive = True


def upgrade() -> None:
    op.add_column(
        "tenants",
        sa.Column("shares_experience", sa.Boolean, nullable=False, server_default=sa.false()),
    )

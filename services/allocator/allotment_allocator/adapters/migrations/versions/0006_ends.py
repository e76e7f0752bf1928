"""Why the trainer of a lease's epoch before ended.

An allocator of the version before goes on working on this table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
is_additive = True


def upgrade() -> None:
    op.add_column(
        "leases", sa.Column("trainer_end", sa.String(32), nullable=False, server_default="")
    )

"""What audits say about trials that were put off."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
is_additive = True


def upgrade() -> None:
    op.add_column("experiments", sa.Column("early_stopping", sa.Text))

"""What experiments of tenants that consent leave for later ones."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
is_additive = True


def upgrade() -> None:
    op.create_table(
        "experience",
        sa.Column(
            "experiment",
            sa.Integer,
            sa.ForeignKey("experiments.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("tenant", sa.String(80), nullable=False),
        sa.Column("is_regression", sa.Boolean, nullable=False),
        sa.Column("end_time", sa.BigInteger, nullable=False),
        sa.Column("traits", sa.Text, nullable=False),
        sa.Column("results", sa.Text, nullable=False),
    )
    op.create_index("experience_tenant", "experience", ["tenant", "end_time"])

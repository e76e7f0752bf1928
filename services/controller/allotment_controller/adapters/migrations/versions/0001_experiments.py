"""Experiments, their trials and models, families, the request log."""

import sqlalchemy as sa
from alembic import op

from allotment_core.db import request_log

revision = "0001"
down_revision = None


def upgrade() -> None:
    request_log.create(op)  # type: ignore[arg-type]
    op.create_table(
        "experiments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.String(80), nullable=False),
        sa.Column("experiment_id", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("ends_as", sa.String(16), nullable=False),
        sa.Column("finish_by", sa.BigInteger),
        sa.Column("best_model", sa.Integer, nullable=False),
        sa.Column("best_score", sa.Float),
        sa.Column("finished_trial_count", sa.Integer, nullable=False),
        sa.Column("running_trial_count", sa.Integer, nullable=False),
        sa.Column("problem", sa.Text),
        sa.Column("wait", sa.Text),
        sa.Column("end_time", sa.BigInteger),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("plan_table", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("tenant", "experiment_id", name="experiments_name"),
    )
    op.create_table(
        "trials",
        _experiment(),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease", sa.String(160), nullable=False),
        sa.Column("lease_epoch", sa.BigInteger, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("trials_revision", "trials", ["experiment", "revision"])
    op.create_table(
        "models",
        _experiment(),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("models_revision", "models", ["experiment", "revision"])
    op.create_table(
        "families",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("available", sa.Boolean, nullable=False),
        sa.Column("problem", sa.Text),
    )


def _experiment() -> "sa.Column[int]":
    owner = sa.ForeignKey("experiments.id", ondelete="CASCADE")
    return sa.Column("experiment", sa.Integer, owner, primary_key=True)

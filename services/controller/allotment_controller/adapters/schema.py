"""The controller's tables. Times are microseconds since 1970, UTC."""

import sqlalchemy as sa

metadata = sa.MetaData()

experiments = sa.Table(
    "experiments",
    metadata,
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
    sa.Column("early_stopping", sa.Text),
    sa.Column("problem", sa.Text),
    sa.Column("wait", sa.Text),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("plan_table", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("tenant", "experiment_id", name="experiments_name"),
)
"""plan changes with a new budget alone, plan_table (the dataset service's description of the data)
never."""

trials = sa.Table(
    "trials",
    metadata,
    sa.Column(
        "experiment",
        sa.Integer,
        sa.ForeignKey("experiments.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("lease", sa.String(160), nullable=False),
    sa.Column("lease_epoch", sa.BigInteger, nullable=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("trials_revision", "experiment", "revision"),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column(
        "experiment",
        sa.Integer,
        sa.ForeignKey("experiments.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("models_revision", "experiment", "revision"),
)

families = sa.Table(
    "families",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("available", sa.Boolean, nullable=False),
    sa.Column("problem", sa.Text),
)
"""What trainers offered last."""

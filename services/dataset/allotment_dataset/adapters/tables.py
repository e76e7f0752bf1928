"""The service's tables.

Times are microseconds since 1970, UTC; documents are JSON (`domain.table_json`).
"""

import sqlalchemy as sa

metadata = sa.MetaData()

uploads = sa.Table(
    "upload",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("upload", sa.String(63), primary_key=True),
    sa.Column("received_bytes", sa.BigInteger, nullable=False),
    sa.Column("announced_bytes", sa.BigInteger, nullable=False),
    sa.Column("announced_sha256", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("expire_time", sa.BigInteger, nullable=False),
    sa.Index("upload_expire_time", "expire_time"),
)

imports = sa.Table(
    "import",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("import", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("problem_reason", sa.String(64), nullable=False),
    sa.Column("problem_message", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("upload_tenant", sa.String(63), nullable=False),
    sa.Column("upload", sa.String(63), nullable=False),
    sa.Column("dataset_tenant", sa.String(63), nullable=False),
    sa.Column("dataset", sa.String(63), nullable=False),
    sa.Column("append", sa.Boolean, nullable=False),
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("overrides", sa.Text, nullable=False),
    sa.Column("target_hint", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "import"),
    sa.Index("import_state", "state"),
    sqlite_autoincrement=True,
)
"""`version` 0: none yet."""

datasets = sa.Table(
    "dataset",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("dataset", sa.String(63), primary_key=True),
    sa.Column("latest_number", sa.Integer, nullable=False),
    sa.Column("next_number", sa.Integer, nullable=False),
    sa.Column("version_count", sa.Integer, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
)

versions = sa.Table(
    "version",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("dataset", sa.String(63), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
)

inspections = sa.Table(
    "inspection",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("dataset", sa.String(63), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("target", sa.Text, primary_key=True),
    sa.Column("task", sa.String(16), primary_key=True),
    sa.Column("content", sa.Text, nullable=False),
)

blobs = sa.Table(
    "blob",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("incarnation", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("touch_time", sa.BigInteger, nullable=False),
    sa.Index("blob_touch_time", "touch_time"),
)

holds = sa.Table(
    "hold",
    metadata,
    sa.Column("sha256", sa.String(64), sa.ForeignKey("blob.sha256"), primary_key=True),
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("owner", sa.String(300), primary_key=True),
    sa.Index("hold_owner", "tenant", "owner"),
)

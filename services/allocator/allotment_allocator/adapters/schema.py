"""The tables. Times are microseconds since 1970, UTC."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

metadata = sa.MetaData()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("weight", sa.Float, nullable=False),
    sa.Column("guaranteed_slots", sa.Integer, nullable=False),
    sa.Column("quota_slots", sa.Integer, nullable=False),
    sa.Column("guaranteed_gpus", sa.Integer, nullable=False),
    sa.Column("quota_gpus", sa.Integer, nullable=False),
    sa.Column("shares_experience", sa.Boolean, nullable=False),
    sa.Column("isolation", sa.String(16), nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(160), primary_key=True),
    sa.Column(
        "tenant", sa.String(80), sa.ForeignKey("tenants.name", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("holder", sa.String(160), nullable=False),
    sa.Column("slot_count", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("resource", sa.String(63), nullable=False),
    sa.Column("product", sa.String(63), nullable=False),
    sa.Column("wanted_pool", sa.String(63), nullable=False),
    sa.Column("pool", sa.String(80)),
    sa.Column("node", sa.String(253)),
    sa.Column("problem_reason", sa.String(80)),
    sa.Column("problem_message", sa.Text),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("submit_time", sa.BigInteger),
    sa.Column("grant_time", sa.BigInteger),
    sa.Column("expire_time", sa.BigInteger),
    sa.Column("revoke_deadline", sa.BigInteger),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("trainer_end", sa.String(32), nullable=False),
    sa.Column("charged_slots", sa.Integer),
    sa.Column("charged_from", sa.BigInteger),
    sa.Column("charged_before", sa.Float, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Index("leases_state", "state"),
    sa.Index("leases_tenant", "tenant", "name"),
    sa.Index("leases_end_time", "end_time"),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("who", sa.String(240), primary_key=True),
    sa.Column("tenant", sa.String(80), nullable=False),
    sa.Column("attained", sa.Float, nullable=False),
    sa.Column("as_of", sa.BigInteger, nullable=False),
    sa.Column("slot_count", sa.Integer, nullable=False),
)
"""who: the tenant's or experiment's name, before it the resource where that is not the CPU."""

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("holder", sa.String(160), primary_key=True),
    sa.Column("tenant", sa.String(80), nullable=False),
    sa.Column("slot_seconds", sa.Float, nullable=False),
    sa.Column("lease_count", sa.BigInteger, nullable=False),
    sa.Index("usage_tenant", "tenant", "holder"),
)


def to_micros(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)

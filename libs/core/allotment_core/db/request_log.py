"""The responses of mutating calls, kept so that a repeated call gets the same answer.

Every service's first migration calls `create(op)`; the table lives in the service's own database,
so that a response is stored in the transaction of the change itself.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from allotment_core.errors import FieldViolation, InvalidArgument, clip

if TYPE_CHECKING:
    from alembic.operations import Operations

KEPT = timedelta(hours=25)
"""A response is found for at least this long (24 h and a margin for clocks)."""
PRUNED_AT_ONCE = 5_000
"""No call waits for more of them to be forgotten."""

metadata = sa.MetaData()

table = sa.Table(
    "request_log",
    metadata,
    sa.Column("tenant", sa.String(80), primary_key=True),
    sa.Column("rpc", sa.String(160), primary_key=True),
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("body_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Index("request_log_create_time", "create_time"),
)
"""create_time is in microseconds since 1970, UTC."""


def create(op: "Operations") -> None:
    """Creates the table; for migrations: `request_log.create(op)` with `from alembic import op`."""
    columns = [column._copy() for column in table.columns]
    op.create_table(table.name, *columns)
    op.create_index("request_log_create_time", table.name, ["create_time"])


def find(
    connection: sa.Connection, *, tenant: str, rpc: str, request_id: str, body_hash: bytes
) -> bytes | None:
    """The stored response of this very request; None when it was not answered yet.

    Raises: InvalidArgument (REQUEST_ID_REUSED) when the id came with another body.
    """
    row = connection.execute(
        sa.select(table.c.body_hash, table.c.response).where(
            table.c.tenant == tenant, table.c.rpc == rpc, table.c.request_id == request_id
        )
    ).one_or_none()
    if row is None:
        return None
    if row.body_hash != body_hash:
        raise InvalidArgument(
            f"request_id {clip(request_id)!r} was used for another request of this method before; "
            "a repeated request has to be the same, a new one needs a new id",
            reason="REQUEST_ID_REUSED",
            violations=(FieldViolation("request_id", "was used with another body"),),
        )
    return bytes(row.response)


def store(
    connection: sa.Connection,
    *,
    tenant: str,
    rpc: str,
    request_id: str,
    body_hash: bytes,
    response: bytes,
    now: datetime,
) -> None:
    """Keeps a response, in the transaction of the change that it answers."""
    connection.execute(
        table.insert().values(
            tenant=tenant,
            rpc=rpc,
            request_id=request_id,
            body_hash=body_hash,
            response=response,
            create_time=int(now.timestamp() * 1e6),
        )
    )


def prune(connection: sa.Connection, now: datetime) -> int:
    """Forgets the oldest responses that are older than KEPT; how many. All of them when these are
    fewer than PRUNED_AT_ONCE.
    """
    before = int((now - KEPT).timestamp() * 1e6)
    created = table.c.create_time
    oldest = sa.select(created).where(created < before).order_by(created).limit(PRUNED_AT_ONCE)
    last = connection.execute(sa.select(sa.func.max(oldest.subquery().c.create_time))).scalar()
    if last is None:
        return 0
    return connection.execute(table.delete().where(created <= last)).rowcount

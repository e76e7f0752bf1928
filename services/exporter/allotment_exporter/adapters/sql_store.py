"""The export store on SQL."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from allotment_core.db import Database, upserts
from allotment_core.errors import NotFound, ResourceExhausted
from allotment_core.names import ExportName, TenantName
from allotment_exporter.adapters.tables import exports, from_row, releases, to_row
from allotment_exporter.domain.exports import Export, ExportState

MIGRATIONS = "allotment_exporter.adapters.migrations"
PAGE_BYTES = 2 << 20
"""A page ends early where its rows hold more text than this: a response has to fit in a message."""
_RELEASES_AT_ONCE = 100

T = TypeVar("T")
Response = TypeVar("Response")


class SqlExportStore:
    """The ExportStore port; the responses of mutating calls are messages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, export: Export, queue_limit: int, respond: Callable[[Export], Response]
    ) -> Response:
        def work(connection: sa.Connection) -> Export:
            pending = connection.execute(
                sa.select(sa.func.count()).where(
                    exports.c.tenant_id == export.name.tenant.tenant_id,
                    exports.c.state == ExportState.PENDING.value,
                )
            ).scalar_one()
            if pending >= queue_limit:
                raise ResourceExhausted(
                    f"{pending} exports of {export.name.tenant} are waiting, the limit is "
                    f"{queue_limit}; try again when some of them have ended",
                    reason="QUEUE_FULL",
                    retry_after_s=1.0,
                )
            connection.execute(exports.insert().values(to_row(export)))
            return export

        return await self._respond(work, respond)

    async def _respond(
        self, work: Callable[[sa.Connection], T], respond: Callable[[T], Response]
    ) -> Response:
        # The domain does not know messages; whoever calls it does.
        to_message: Callable[[T], Any] = respond
        response: Response = await self._database.respond(work, to_message)
        return response

    async def get(self, name: ExportName) -> Export:
        return await self._database.read(lambda connection: _find(connection, name))

    async def page(
        self, tenant: TenantName, size: int, after: int
    ) -> tuple[list[Export], int | None]:
        def work(connection: sa.Connection) -> tuple[list[Export], int | None]:
            rows = connection.execute(
                sa.select(exports)
                .where(exports.c.tenant_id == tenant.tenant_id, exports.c.place > after)
                .order_by(exports.c.place)
                .limit(size + 1)
            ).mappings()
            found: list[Export] = []
            last, text_bytes = after, 0
            for row in rows:
                if len(found) == size or (found and text_bytes > PAGE_BYTES):
                    return found, last
                found.append(from_row(dict(row)))
                last = row["place"]
                text_bytes += len(row["source"]) + len(row["parity"] or "")
            return found, None

        return await self._database.read(work)

    async def claim(self, now: datetime) -> Export | None:
        return await self._database.write(lambda connection: _claim(connection, now))

    async def change(self, name: ExportName, step: Callable[[Export], Export]) -> Export:
        return await self._database.write(lambda connection: _change(connection, name, step))

    async def cancel(
        self, name: ExportName, now: datetime, respond: Callable[[Export], Response]
    ) -> Response:
        return await self._respond(
            lambda connection: _change(connection, name, lambda e: e.cancelled(now)), respond
        )

    async def delete(self, name: ExportName, respond: Callable[[None], Response]) -> Response:
        def work(connection: sa.Connection) -> None:
            _find(connection, name).check_deletable()
            connection.execute(exports.delete().where(_is(name)))
            _note_release(connection, name)

        return await self._respond(work, respond)

    async def running(self) -> list[Export]:
        def work(connection: sa.Connection) -> list[Export]:
            query = sa.select(exports).where(exports.c.state == ExportState.RUNNING.value)
            return [from_row(dict(row)) for row in connection.execute(query).mappings()]

        return await self._database.read(work)

    async def releases(self) -> list[ExportName]:
        def work(connection: sa.Connection) -> list[ExportName]:
            query = sa.select(releases.c.name).order_by(releases.c.name).limit(_RELEASES_AT_ONCE)
            return [ExportName.parse(name) for name in connection.execute(query).scalars()]

        return await self._database.read(work)

    async def released(self, name: ExportName) -> None:
        def work(connection: sa.Connection) -> None:
            connection.execute(releases.delete().where(releases.c.name == str(name)))

        await self._database.write(work)


def _is(name: ExportName) -> Any:
    return sa.and_(
        exports.c.tenant_id == name.tenant.tenant_id, exports.c.export_id == name.export_id
    )


def _find(connection: sa.Connection, name: ExportName) -> Export:
    row = connection.execute(sa.select(exports).where(_is(name))).mappings().one_or_none()
    if row is None:
        raise NotFound(
            f"there is no export '{name}'; list the exports of {name.tenant} to see which there are"
        )
    return from_row(dict(row))


def _change(
    connection: sa.Connection, name: ExportName, step: Callable[[Export], Export]
) -> Export:
    before = _find(connection, name)
    after = step(before)
    if after != before:
        connection.execute(exports.update().where(_is(name)).values(to_row(after)))
        if after.ended and after.state is not ExportState.SUCCEEDED:
            _note_release(connection, name)
    return after


def _claim(connection: sa.Connection, now: datetime) -> Export | None:
    """Tenants take turns: of the one with the fewest running exports, the oldest that waits."""
    running = (
        sa.select(exports.c.tenant_id, sa.func.count().label("running"))
        .where(exports.c.state == ExportState.RUNNING.value)
        .group_by(exports.c.tenant_id)
        .subquery()
    )
    row = (
        connection.execute(
            sa.select(exports)
            .outerjoin(running, running.c.tenant_id == exports.c.tenant_id)
            .where(exports.c.state == ExportState.PENDING.value)
            .order_by(sa.func.coalesce(running.c.running, 0), exports.c.place)
            .limit(1)
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        return None
    started = from_row(dict(row)).started(now)
    connection.execute(exports.update().where(_is(started.name)).values(to_row(started)))
    return started


def _note_release(connection: sa.Connection, name: ExportName) -> None:
    upserts.insert_if_absent(connection, releases, {"name": str(name)})

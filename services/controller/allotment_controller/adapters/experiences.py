"""Experience as rows: one for each experiment that left some, as long as that exists."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from allotment_controller.adapters import codec
from allotment_controller.adapters.schema import experience
from allotment_controller.domain.ledger import Change
from allotment_core.db import Database, upserts
from allotment_core.names import TenantName
from allotment_search import Experience, Traits

KEPT = 1000
"""Rows of all tenants; older ones go."""
KEPT_OF_TENANT = 100


class SqlExperiences:
    """Implements the domain's ExperienceStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def past(self, *, is_regression: bool) -> Sequence[tuple[TenantName, Experience]]:
        def work(connection: sa.Connection) -> list[tuple[TenantName, Experience]]:
            query = sa.select(experience).where(experience.c.is_regression == is_regression)
            newest = query.order_by(experience.c.end_time.desc(), experience.c.experiment.desc())
            return [
                (
                    TenantName.parse(row.tenant),
                    Experience(
                        traits=Traits(**json.loads(row.traits)), results=json.loads(row.results)
                    ),
                )
                for row in connection.execute(newest)
            ]

        return await self._database.read(work)

    async def forget(self, tenant: TenantName) -> None:
        await self._database.write(lambda c: _forget(c, tenant))


def apply(connection: sa.Connection, key: int, change: Change) -> None:
    """Writes what an experiment leaves with its last change. ``key``: its row's."""
    tenant = change.experiment.name.tenant
    if change.forgets_experience:
        _forget(connection, tenant)
    left = change.experience
    if left is None:
        return
    values = {
        "experiment": key,
        "tenant": str(tenant),
        "is_regression": left.traits.is_regression,
        "end_time": codec.to_us(change.experiment.end_time),
        "traits": codec.dump(asdict(left.traits)),
        "results": codec.dump(dict(left.results)),
    }
    upserts.put(connection, experience, values, "experiment")
    _trim(connection, experience.c.tenant == str(tenant), KEPT_OF_TENANT)
    _trim(connection, sa.true(), KEPT)


def _forget(connection: sa.Connection, tenant: TenantName) -> None:
    connection.execute(experience.delete().where(experience.c.tenant == str(tenant)))


def _trim(connection: sa.Connection, among: sa.ColumnElement[bool], limit: int) -> None:
    """Leaves the newest."""
    older = (
        sa.select(experience.c.experiment)
        .where(among)
        .order_by(experience.c.end_time.desc(), experience.c.experiment.desc())
        .offset(limit)
    )
    keys = connection.execute(older.limit(KEPT)).scalars().all()
    if keys:
        connection.execute(experience.delete().where(experience.c.experiment.in_(keys)))

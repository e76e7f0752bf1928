"""The books as rows of one SQL transaction."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from allotment_allocator.adapters import schema
from allotment_allocator.adapters.schema import from_micros, to_micros
from allotment_allocator.domain.account import Account
from allotment_allocator.domain.lease import MOVES, Lease, LeaseState, Problem
from allotment_allocator.domain.pool import CPU, Place, Wanted
from allotment_allocator.domain.ports import Party, Used
from allotment_allocator.domain.tenant import Isolation, Tenant, Terms
from allotment_core.db import upserts
from allotment_core.names import ExperimentName, LeaseName, PoolName, TenantName

_ENDED = tuple(state.value for state in MOVES.final)
_LIVE = tuple(state.value for state in LeaseState if state not in MOVES.final)
_IS_LIVE = schema.leases.c.state.in_(_LIVE)
# Made once: making a statement costs more than running it.
_TENANT = sa.select(schema.tenants).where(schema.tenants.c.name == sa.bindparam("called"))
_COMPETES = (
    sa.select(schema.leases.c.name)
    .where(
        _IS_LIVE,
        schema.leases.c.resource == sa.bindparam("what"),
        schema.leases.c.holder == sa.bindparam("who"),
    )
    .limit(1)
)
_NONE: Mapping[str, Lease] = {}
_NAMES_AT_ONCE = 500
"""A statement names no more of them."""


class SqlBooks:
    """Satisfies `domain.ports.Books` on a connection.

    `known` are leases by their names' texts, each as it was once stored: a row of the same revision
    is not read again.
    """

    def __init__(self, connection: sa.Connection, known: Mapping[str, Lease] = _NONE) -> None:
        self._connection = connection
        self._known = known

    # Tenants

    def tenant(self, name: TenantName) -> Tenant | None:
        row = self._connection.execute(_TENANT, {"called": str(name)}).one_or_none()
        return None if row is None else _tenant(row)

    def tenants(self) -> Sequence[Tenant]:
        return self._tenants("", None)

    def tenants_page(self, after: str, limit: int) -> Sequence[Tenant]:
        return self._tenants(after, limit)

    def _tenants(self, after: str, limit: int | None) -> Sequence[Tenant]:
        table = schema.tenants
        query = sa.select(table).where(table.c.name > after).order_by(table.c.name).limit(limit)
        return [_tenant(row) for row in self._connection.execute(query)]

    def put_tenant(self, tenant: Tenant) -> None:
        values = {
            "name": str(tenant.name),
            "weight": tenant.terms.weight,
            "guaranteed_slots": tenant.terms.guaranteed_slots,
            "quota_slots": tenant.terms.quota_slots,
            "guaranteed_gpus": tenant.terms.guaranteed_gpus,
            "quota_gpus": tenant.terms.quota_gpus,
            "shares_experience": tenant.shares_experience,
            "isolation": tenant.isolation.value,
            "create_time": to_micros(tenant.create_time),
            "update_time": to_micros(tenant.update_time),
            "revision": tenant.revision,
        }
        upserts.put(self._connection, schema.tenants, values, "name")

    def delete_tenant(self, name: TenantName) -> None:
        for table in (schema.leases, schema.accounts, schema.usage):
            self._connection.execute(table.delete().where(table.c.tenant == str(name)))
        table = schema.tenants
        self._connection.execute(table.delete().where(table.c.name == str(name)))

    # Leases

    def lease(self, name: LeaseName) -> Lease | None:
        table = schema.leases
        row = self._connection.execute(
            sa.select(table).where(table.c.name == str(name))
        ).one_or_none()
        return None if row is None else _lease(row)

    def leases(self, names: Iterable[LeaseName]) -> Sequence[Lease]:
        texts = [str(name) for name in names]
        found: list[Lease] = []
        for start in range(0, len(texts), _NAMES_AT_ONCE):
            chunk = texts[start : start + _NAMES_AT_ONCE]
            found += self._select(schema.leases.c.name.in_(chunk))
        return found

    def live_leases(self) -> Sequence[Lease]:
        return self._select(_IS_LIVE)

    def holders(self, resource: str) -> Iterable[ExperimentName]:
        table = schema.leases
        query = sa.select(table.c.holder).where(_IS_LIVE, table.c.resource == resource).distinct()
        return [ExperimentName.parse(holder) for holder in self._connection.scalars(query)]

    def competes(self, resource: str, holder: ExperimentName) -> bool:
        whose = {"what": resource, "who": str(holder)}
        return self._connection.execute(_COMPETES, whose).first() is not None

    def _select(self, which: sa.ColumnElement[bool]) -> list[Lease]:
        """Oldest first. Of what is known only the revision is read: most rows are as before."""
        table = schema.leases
        query = sa.select(table.c.name, table.c.revision).where(which)
        rows = self._connection.execute(query.order_by(table.c.create_time, table.c.name)).all()
        known = {name: self._known.get(name) for name, _ in rows}
        new = {n: r for n, r in rows if (lease := known[n]) is None or lease.revision != r}
        if new:
            only = sa.true() if len(new) > _NAMES_AT_ONCE else table.c.name.in_(new)
            found = self._connection.execute(sa.select(table).where(which, only))
            known |= {row.name: _lease(row) for row in found if row.name in new}
        return [lease for lease in known.values() if lease is not None]

    def leases_page(
        self, tenant: TenantName, after: str, limit: int, *, include_ended: bool
    ) -> Sequence[Lease]:
        """By name, those after the given one; the wildcard: of every tenant."""
        table = schema.leases
        query = sa.select(table).where(table.c.name > after)
        if tenant != TenantName.WILDCARD:
            query = query.where(table.c.tenant == str(tenant))
        if not include_ended:
            query = query.where(table.c.state.in_(_LIVE))
        rows = self._connection.execute(query.order_by(table.c.name).limit(limit))
        return [_lease(row) for row in rows]

    def put_leases(self, leases: Sequence[Lease]) -> None:
        upserts.put_all(self._connection, schema.leases, [_row(each) for each in leases], "name")

    # Accounts and usage

    def accounts(self, of: Iterable[Party]) -> Mapping[Party, Account]:
        keys = {_key(party): party for party in of}
        table = schema.accounts
        rows = self._connection.execute(sa.select(table).where(table.c.who.in_(keys)))
        return {
            keys[row.who]: Account(
                attained=row.attained, as_of=_instant(row.as_of), slot_count=row.slot_count
            )
            for row in rows
        }

    def put_accounts(self, accounts: Mapping[Party, Account]) -> None:
        rows = [
            {
                "who": _key(party),
                "tenant": str(party[1].tenant),
                "attained": account.attained,
                "as_of": to_micros(account.as_of),
                "slot_count": account.slot_count,
            }
            for party, account in accounts.items()
        ]
        upserts.put_all(self._connection, schema.accounts, rows, "who")

    def add_usage(self, holder: ExperimentName, used: Used) -> None:
        values = {
            "holder": str(holder),
            "tenant": str(holder.tenant),
            "slot_seconds": used.slot_seconds,
            "lease_count": used.lease_count,
        }
        added = ("slot_seconds", "lease_count")
        upserts.put(self._connection, schema.usage, values, "holder", add=added)

    def usage_of(self, tenant: TenantName) -> Mapping[str, Used]:
        """Of ended leases, by the experiment's name."""
        table = schema.usage
        rows = self._connection.execute(sa.select(table).where(table.c.tenant == str(tenant)))
        return {row.holder: Used(row.slot_seconds, row.lease_count) for row in rows}

    def prune(self, now: datetime, kept_s: float) -> int:
        """Forgets leases that ended long ago (their usage stays) and accounts that have faded."""
        table = schema.leases
        before = to_micros(now - timedelta(seconds=kept_s))
        ended = sa.and_(table.c.state.in_(_ENDED), table.c.end_time < before)
        count = self._connection.execute(table.delete().where(ended)).rowcount
        accounts = schema.accounts
        live = sa.select(table.c.holder).where(table.c.state.in_(_LIVE))
        idle = sa.and_(
            accounts.c.slot_count == 0,
            accounts.c.as_of < before,
            accounts.c.who.not_in(live),
        )
        self._connection.execute(accounts.delete().where(idle))
        return count


def _key(party: Party) -> str:
    resource, who = party
    return str(who) if resource == CPU else f"{resource} {who}"


def _instant(micros: int) -> datetime:
    instant = from_micros(micros)
    assert instant is not None
    return instant


def _tenant(row: sa.Row[Any]) -> Tenant:
    return Tenant(
        name=TenantName.parse(row.name),
        terms=Terms(
            weight=row.weight,
            guaranteed_slots=row.guaranteed_slots,
            quota_slots=row.quota_slots,
            guaranteed_gpus=row.guaranteed_gpus,
            quota_gpus=row.quota_gpus,
        ),
        shares_experience=bool(row.shares_experience),
        isolation=Isolation(row.isolation),
        create_time=_instant(row.create_time),
        update_time=_instant(row.update_time),
        revision=row.revision,
    )


def _place(row: sa.Row[Any]) -> Place | None:
    """Rows of before there were nodes name the pool alone, which was one machine."""
    if not row.pool:
        return None
    pool = PoolName.parse(row.pool)
    return Place(pool, row.node or pool.pool_id)


def _row(lease: Lease) -> dict[str, Any]:
    place, problem = lease.place, lease.problem
    return {
        "name": str(lease.name),
        "tenant": str(lease.tenant),
        "holder": str(lease.holder),
        "slot_count": lease.slot_count,
        "state": lease.state.value,
        "epoch": lease.epoch,
        "resource": lease.wanted.resource,
        "product": lease.wanted.product,
        "wanted_pool": lease.wanted.pool,
        "pool": str(place.pool) if place else None,
        "node": place.node if place else None,
        "problem_reason": problem.reason if problem else None,
        "problem_message": problem.message if problem else None,
        "create_time": to_micros(lease.create_time),
        "submit_time": to_micros(lease.submit_time),
        "grant_time": to_micros(lease.grant_time),
        "expire_time": to_micros(lease.expire_time),
        "revoke_deadline": to_micros(lease.revoke_deadline),
        "end_time": to_micros(lease.end_time),
        "trainer_end": lease.trainer_end,
        "charged_slots": lease.charged_slots,
        "charged_from": to_micros(lease.charged_from),
        "charged_before": lease.charged_before,
        "revision": lease.revision,
    }


def _lease(row: sa.Row[Any]) -> Lease:
    return Lease(
        name=LeaseName.parse(row.name),
        holder=ExperimentName.parse(row.holder),
        slot_count=row.slot_count,
        state=LeaseState(row.state),
        epoch=row.epoch,
        wanted=Wanted(resource=row.resource, product=row.product, pool=row.wanted_pool),
        place=_place(row),
        problem=Problem(row.problem_reason, row.problem_message) if row.problem_reason else None,
        create_time=_instant(row.create_time),
        submit_time=from_micros(row.submit_time),
        grant_time=from_micros(row.grant_time),
        expire_time=from_micros(row.expire_time),
        revoke_deadline=from_micros(row.revoke_deadline),
        end_time=from_micros(row.end_time),
        trainer_end=row.trainer_end,
        charged_slots=row.charged_slots,
        charged_from=from_micros(row.charged_from),
        charged_before=row.charged_before,
        revision=row.revision,
    )

"""The contract of the allocator's books, as tests that every adapter passes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import pytest

from allotment_allocator.domain.account import Account
from allotment_allocator.domain.lease import Lease, Problem
from allotment_allocator.domain.pool import Place
from allotment_allocator.domain.ports import Books, Party, Used
from allotment_allocator.domain.tenant import Isolation, Tenant, Terms
from allotment_core.names import ExperimentName, LeaseName, PoolName, TenantName

T = TypeVar("T")
NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
ACME, OTHER = TenantName("acme"), TenantName("other")
LOCAL = Place(PoolName("local"), "local")
TTL_S = 60.0


class BooksStore(Protocol):
    """Where books are opened, each time in one transaction."""

    async def read(self, work: Callable[[Books], T]) -> T: ...

    async def write(self, work: Callable[[Books], T]) -> T: ...


def tenant(name: TenantName = ACME) -> Tenant:
    terms = Terms(weight=0.1 + 0.2, guaranteed_slots=2, quota_slots=7)
    return Tenant(
        name=name,
        terms=terms,
        create_time=NOW,
        update_time=NOW,
        shares_experience=name == ACME,
        isolation=Isolation.DEDICATED if name == ACME else Isolation.SHARED,
    )


def lease(lease_id: str, of: TenantName = ACME, *, after_s: float = 0.0) -> Lease:
    return Lease(
        name=LeaseName(of, lease_id),
        holder=ExperimentName(of, "e"),
        slot_count=3,
        create_time=NOW + timedelta(seconds=after_s),
    )


async def put(store: BooksStore, *leases: Lease) -> None:
    """Their tenants too."""

    def work(books: Books) -> None:
        for name in {each.tenant for each in leases}:
            books.put_tenant(tenant(name))
        books.put_leases(leases)

    await store.write(work)


class BooksConformance:
    """Subclasses give fixtures `store`, empty, and `twin`, another process's on the same rows."""

    async def test_every_field_of_a_lease_comes_back(self, store: BooksStore) -> None:
        queued = lease("l1")
        held = queued.granted_at(LOCAL, NOW, TTL_S)
        revoking = held.renewed(NOW, TTL_S).revoked(NOW, 10.0, Problem("PREEMPTED", "jä"))
        expired = revoking.expired(NOW + timedelta(seconds=70))
        charged = held.charged(5, NOW + timedelta(seconds=7))
        restarted = held.restarted(Problem("CRASHED", "x"), "OUT_OF_MEMORY")
        submitted = queued.submitted_at(LOCAL, NOW, alone=True)
        for each in (queued, submitted, held, charged, restarted, revoking, expired):
            await put(store, each)
            assert await store.read(lambda b: b.lease(queued.name)) == each

    async def test_tenants_are_paged_by_the_bytes_of_their_names(self, store: BooksStore) -> None:
        ids = ("b", "a-b", "a", "a1", "a-")
        await put(store, *(lease("l", TenantName(i)) for i in ids if not i.endswith("-")))
        found = await store.read(lambda b: b.tenants())
        wanted = sorted(f"tenants/{i}" for i in ids if not i.endswith("-"))
        assert [str(t.name) for t in found] == wanted
        after = await store.read(lambda b: b.tenants_page(wanted[1], 1))
        assert [str(t.name) for t in after] == [wanted[2]]
        assert found[0] == tenant(found[0].name)

    async def test_live_leases_come_oldest_first(self, store: BooksStore) -> None:
        ended = lease("l0").released(NOW)
        await put(store, lease("l2", after_s=2), lease("l1", after_s=3), lease("l3", OTHER), ended)
        found = await store.read(lambda b: b.live_leases())
        assert [each.name.lease_id for each in found] == ["l3", "l2", "l1"]

    async def test_leases_come_by_their_names(self, store: BooksStore) -> None:
        many = [lease(f"l{n}", after_s=n) for n in range(700)]
        await put(store, *many)
        wanted = [each.name for each in many[100:]]
        found = await store.read(lambda b: b.leases([*wanted, LeaseName(OTHER, "l1")]))
        assert {each.name for each in found} == set(wanted)

    async def test_who_has_leases_that_have_not_ended_competes(self, store: BooksStore) -> None:
        ended = replace(lease("l2"), holder=ExperimentName(ACME, "f")).released(NOW)
        await put(store, lease("l0"), lease("l1"), ended)
        running, over = ExperimentName(ACME, "e"), ExperimentName(ACME, "f")
        assert list(await store.read(lambda b: b.holders("cpu"))) == [running]
        assert list(await store.read(lambda b: b.holders("gpu"))) == []
        assert await store.read(lambda b: b.competes("cpu", running))
        assert not await store.read(lambda b: b.competes("gpu", running))
        assert not await store.read(lambda b: b.competes("cpu", over))

    async def test_leases_are_paged_by_tenant(self, store: BooksStore) -> None:
        ended = lease("l2").released(NOW)
        await put(store, lease("l1"), ended, lease("l3"), lease("l4", OTHER))

        async def page(of: TenantName, after: str, *, include_ended: bool) -> list[str]:
            found = await store.read(
                lambda b: b.leases_page(of, after, 2, include_ended=include_ended)
            )
            return [each.name.lease_id for each in found]

        assert await page(ACME, "", include_ended=True) == ["l1", "l2"]
        assert await page(ACME, "", include_ended=False) == ["l1", "l3"]
        assert await page(ACME, str(ended.name), include_ended=True) == ["l3"]
        wildcard = TenantName.WILDCARD
        assert await page(wildcard, str(lease("l2").name), include_ended=True) == ["l3", "l4"]

    async def test_accounts_and_usage(self, store: BooksStore) -> None:
        holder = ExperimentName(ACME, "e")
        account = Account(attained=1 / 3, as_of=NOW, slot_count=2)
        parties: list[Party] = [("cpu", ACME), ("gpu", ACME), ("cpu", holder)]

        def work(books: Books) -> None:
            for party in parties:
                books.put_accounts({party: replace(account, slot_count=1)})
                books.put_accounts({party: account})
            books.add_usage(holder, Used(1.5, 1))
            books.add_usage(holder, Used(0.25, 2))

        await store.write(work)
        found = await store.read(lambda b: b.accounts([*parties, ("cpu", OTHER)]))
        assert found == dict.fromkeys(parties, account)
        assert await store.read(lambda b: b.usage_of(ACME)) == {str(holder): Used(1.75, 3)}
        assert await store.read(lambda b: b.usage_of(OTHER)) == {}

    async def test_a_tenant_takes_everything_with_it(self, store: BooksStore) -> None:
        await put(store, lease("l1"), lease("l2", OTHER))
        await store.write(lambda b: b.add_usage(ExperimentName(ACME, "e"), Used(1.0, 1)))
        await store.write(lambda b: b.delete_tenant(ACME))
        assert await store.read(lambda b: b.lease(lease("l1").name)) is None
        assert await store.read(lambda b: b.usage_of(ACME)) == {}
        assert len(await store.read(lambda b: b.live_leases())) == 1

    async def test_long_ended_leases_are_forgotten(self, store: BooksStore) -> None:
        ended = lease("l1").released(NOW)
        later = lease("l2").released(NOW + timedelta(seconds=50))
        await put(store, ended, later, lease("l3"))
        now = NOW + timedelta(seconds=100)
        assert await store.write(lambda b: b.prune(now, 60.0)) == 1
        assert await store.read(lambda b: b.lease(ended.name)) is None
        assert await store.read(lambda b: b.lease(later.name)) == later

    async def test_an_epoch_is_compared_in_the_transaction_that_writes(
        self, store: BooksStore, twin: BooksStore
    ) -> None:
        """Two processes restart the trainer of one lease: each epoch is given once."""
        name = lease("l1").name
        await put(store, lease("l1").granted_at(LOCAL, NOW, TTL_S))

        def restart(books: Books) -> int:
            before = books.lease(name)
            assert before is not None
            after = before.restarted(None)
            books.put_leases([after])
            return after.epoch

        epochs = await asyncio.gather(*((store, twin)[i % 2].write(restart) for i in range(10)))
        assert sorted(epochs) == list(range(2, 12))

    async def test_two_processes_never_grant_the_same_slots(
        self, store: BooksStore, twin: BooksStore
    ) -> None:
        """What is decided from all live leases holds when it is written."""
        queued = [lease(f"l{i}", after_s=i) for i in range(6)]
        await put(store, *queued)

        def grant(books: Books) -> None:
            live = books.live_leases()
            if sum(each.slot_count for each in live if each.granted) < 6:
                waiting = next(each for each in live if not each.granted)
                books.put_leases([waiting.granted_at(LOCAL, NOW, TTL_S)])

        await asyncio.gather(*((store, twin)[i % 2].write(grant) for i in range(6)))
        live = await twin.read(lambda b: b.live_leases())
        assert sum(each.slot_count for each in live if each.granted) == 6

    async def test_a_work_that_fails_changes_nothing(self, store: BooksStore) -> None:
        def work(books: Books) -> None:
            books.put_tenant(tenant())
            raise LookupError

        with pytest.raises(LookupError):
            await store.write(work)
        assert await store.read(lambda b: b.tenants()) == []

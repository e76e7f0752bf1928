"""What one transaction has read of the books, and what it changes in them."""

from collections.abc import Iterable, Mapping, Sequence

from allotment_allocator.domain.account import Account
from allotment_allocator.domain.lease import Lease
from allotment_allocator.domain.ports import Books, Party, Used
from allotment_core.names import ExperimentName, LeaseName


class Ledger:
    """Rows are read once and written together by `store`: thousands of leases may change at once.

    Everything else that reads these rows has to do so through the ledger, which knows what is not
    written yet.
    """

    def __init__(self, books: Books) -> None:
        self._books = books
        self.changed: dict[LeaseName, Lease] = {}
        self._read: dict[LeaseName, Lease | None] = {}
        self._live: dict[LeaseName, Lease] | None = None
        self._accounts: dict[Party, Account | None] = {}
        self._changed_accounts: dict[Party, Account] = {}
        self._used: dict[ExperimentName, Used] = {}

    def leases(self, names: Sequence[LeaseName]) -> list[Lease | None]:
        """In the order of the names; None where there is none."""
        if missing := [n for n in names if n not in self._read and n not in self.changed]:
            self._read |= dict.fromkeys(missing)
            self._read |= {lease.name: lease for lease in self._books.leases(missing)}
        return [self.changed.get(name) or self._read[name] for name in names]

    def live(self) -> Sequence[Lease]:
        """Those that have not ended, oldest first."""
        if self._live is None:
            self._live = {lease.name: lease for lease in self._books.live_leases()}
            for lease in self.changed.values():
                self._note_live(self._live, lease)
        return list(self._live.values())

    def holders(self, resource: str) -> Iterable[ExperimentName]:
        """Those with leases of the resource that have not ended."""
        if self._live is None and not self.changed:
            return self._books.holders(resource)
        return {lease.holder for lease in self.live() if lease.wanted.resource == resource}

    def competes(self, resource: str, holder: ExperimentName) -> bool:
        """Whether it has leases of the resource that have not ended."""
        if self._live is None and not self.changed:
            return self._books.competes(resource, holder)
        return holder in set(self.holders(resource))

    def put(self, lease: Lease) -> Lease:
        """Adds it or replaces it."""
        self.changed[lease.name] = lease
        if self._live is not None:
            self._note_live(self._live, lease)
        return lease

    @staticmethod
    def _note_live(live: dict[LeaseName, Lease], lease: Lease) -> None:
        if lease.ended:
            live.pop(lease.name, None)
        else:
            live[lease.name] = lease

    def accounts(self, of: Iterable[Party]) -> Mapping[Party, Account]:
        """Those that there are."""
        parties = set(of)
        if missing := parties - self._accounts.keys():
            self._accounts |= dict.fromkeys(missing)
            self._accounts |= self._books.accounts(missing)
        found = ((party, self._accounts[party]) for party in parties)
        return {party: account for party, account in found if account is not None}

    def put_account(self, party: Party, account: Account) -> None:
        self._accounts[party] = self._changed_accounts[party] = account

    def add_usage(self, holder: ExperimentName, used: Used) -> None:
        """Adds to the experiment's sum."""
        before = self._used.get(holder, Used())
        self._used[holder] = Used(
            before.slot_seconds + used.slot_seconds, before.lease_count + used.lease_count
        )

    def store(self) -> None:
        """Writes what has changed."""
        self._books.put_leases(tuple(self.changed.values()))
        self._books.put_accounts(self._changed_accounts)
        for holder, used in self._used.items():
            self._books.add_usage(holder, used)
        self._changed_accounts, self._used = {}, {}

"""What tenants are charged for that have nodes alone."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from allotment_allocator.adapters import schema
from allotment_allocator.adapters.sql_books import SqlBooks
from allotment_allocator.domain.allocation import Allocation, Rules
from allotment_allocator.domain.pool import GPU, Node, Pool, PoolKind, Wanted
from allotment_allocator.domain.tenant import Isolation, Terms
from allotment_core.errors import FailedPrecondition
from allotment_core.names import ExperimentName, LeaseName, PoolName, TenantName

START = datetime(2026, 1, 1, tzinfo=UTC)
ACME = TenantName("acme")
WANTED = Wanted(resource=GPU)
POOLS = (
    Pool(
        name=PoolName("p"),
        nodes=(Node(name="n0", slot_count=8), Node(name="n1", slot_count=8)),
        kind=PoolKind.NODES,
        resource=GPU,
    ),
)


class Ledger:
    """Changes in one database, seconds apart."""

    def __init__(self, connection: sa.Connection, dedicated_nodes: bool = True) -> None:
        self.dedicated_nodes = dedicated_nodes
        self.books = SqlBooks(connection)

    def at(self, second: float) -> Allocation:
        now = START + timedelta(seconds=second)
        return Allocation(
            self.books, POOLS, Rules(ttl_s=1e6, dedicated_nodes=self.dedicated_nodes), now
        )

    def ask(self, second: float, holder: str, slots: int) -> LeaseName:
        change = self.at(second)
        name = change.create_lease(ACME, ExperimentName(ACME, holder), slots, WANTED).name
        change.divide()
        change.store()
        return name

    def release(self, second: float, name: LeaseName) -> None:
        change = self.at(second)
        change.release(name, 0)
        change.store()

    def used(self, holder: str) -> float:
        return self.books.usage_of(ACME)[str(ExperimentName(ACME, holder))].slot_seconds

    def rate(self) -> int:
        """Slots that the tenant's account is charged for now."""
        return self.books.accounts([(GPU, ACME)])[(GPU, ACME)].slot_count


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        schema.metadata.create_all(connection)
        yield connection
    engine.dispose()


@pytest.fixture
def ledger(connection: sa.Connection) -> Ledger:
    made = Ledger(connection)
    change = made.at(0)
    change.create_tenant(ACME, Terms(), isolation=Isolation.DEDICATED)
    change.store()
    return made


def test_one_lease_is_charged_for_the_whole_node(ledger: Ledger) -> None:
    name = ledger.ask(0, "x", 1)
    assert ledger.rate() == 8
    ledger.release(10, name)
    assert ledger.used("x") == 80.0
    assert ledger.rate() == 0


def test_leases_on_a_node_share_its_cost_from_the_moment_they_come(ledger: Ledger) -> None:
    first = ledger.ask(0, "x", 2)
    second = ledger.ask(10, "y", 2)
    assert ledger.rate() == 8
    ledger.release(20, first)
    assert ledger.rate() == 8
    ledger.release(30, second)
    assert ledger.used("x") == 8 * 10 + 4 * 10
    assert ledger.used("y") == 4 * 10 + 8 * 10
    assert ledger.rate() == 0


def test_a_second_node_costs_as_much_again(ledger: Ledger) -> None:
    ledger.ask(0, "x", 6)
    ledger.ask(0, "x", 6)
    assert ledger.rate() == 16


def test_who_shares_again_pays_for_what_it_asked_for(ledger: Ledger) -> None:
    name = ledger.ask(0, "x", 1)
    change = ledger.at(10)
    change.update_tenant(ACME, {"isolation": Isolation.SHARED}, ("isolation",), "")
    change.store()
    assert ledger.rate() == 1
    ledger.release(20, name)
    assert ledger.used("x") == 8 * 10 + 10


def test_where_nodes_can_not_be_marked_nobody_has_one_alone(connection: sa.Connection) -> None:
    with pytest.raises(FailedPrecondition, match="can't have nodes alone"):
        Ledger(connection, dedicated_nodes=False).at(0).create_tenant(
            ACME, Terms(), isolation=Isolation.DEDICATED
        )

"""Leases, tenants, accounts and usage."""

from datetime import UTC, datetime, timedelta

import pytest

from allotment_allocator.domain.account import Account
from allotment_allocator.domain.lease import Lease, LeaseState, Problem
from allotment_allocator.domain.pool import CPU, GPU, Place, Wanted, check_fits, local_pool
from allotment_allocator.domain.ports import Used
from allotment_allocator.domain.tenant import Tenant, Terms, check_guarantees
from allotment_allocator.domain.usage import add_running, total
from allotment_core.errors import AllotmentError, FailedPrecondition, InvalidArgument
from allotment_core.names import ExperimentName, LeaseName, PoolName, TenantName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = TenantName("a")
HOLDER = ExperimentName(TENANT, "x")
HERE = Place(PoolName("local"), "local")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def queued(slots: int = 1) -> Lease:
    return Lease(name=LeaseName(TENANT, "l1"), holder=HOLDER, slot_count=slots, create_time=NOW)


def held(slots: int = 1) -> Lease:
    return queued(slots).granted_at(HERE, NOW, 60)


def test_the_epoch_grows_at_the_grant_and_at_each_new_trainer() -> None:
    lease = held()
    assert (queued().epoch, lease.epoch, lease.restarted(None).epoch) == (0, 1, 2)
    assert lease.restarted(None).expire_time == lease.expire_time


def test_an_ended_lease_stays_ended() -> None:
    ended = held().released(after(1))
    with pytest.raises(AllotmentError):
        ended.released(NOW)
    with pytest.raises(AllotmentError):
        ended.expired(NOW)
    with pytest.raises(AllotmentError):
        ended.restarted(None)
    with pytest.raises(AllotmentError):
        ended.granted_at(HERE, NOW, 60)


def test_only_a_held_lease_is_revoked_or_restarted() -> None:
    problem = Problem("X", "x")
    with pytest.raises(FailedPrecondition):
        queued().revoked(NOW, 10, problem)
    with pytest.raises(FailedPrecondition):
        held().revoked(NOW, 10, problem).restarted(None)


def test_a_lease_is_overdue_at_its_expiry_or_its_revocation_deadline() -> None:
    lease = held()
    assert not lease.overdue(after(59.9))
    assert lease.overdue(after(60))
    assert not lease.renewed(after(50), 60).overdue(after(100))
    revoked = lease.renewed(after(50), 600).revoked(after(50), 10, Problem("X", "x"))
    assert revoked.overdue(after(60))
    assert not queued().overdue(after(1e6))


def test_a_revoked_lease_that_expires_keeps_the_reason() -> None:
    revoked = held().revoked(NOW, 10, Problem("REVOKED_GUARANTEE", "x"))
    assert revoked.expired(after(10)).problem == Problem("REVOKED_GUARANTEE", "x")
    expired = held().expired(after(60))
    assert expired.state is LeaseState.EXPIRED
    assert expired.problem is not None
    assert expired.problem.reason == "LEASE_EXPIRED"


def test_slot_seconds_count_from_the_grant_to_the_end() -> None:
    assert queued().slot_seconds(after(100)) == 0
    assert held(2).slot_seconds(after(10)) == 20
    assert held(2).released(after(10)).slot_seconds(after(99)) == 20


def test_usage_adds_running_leases_to_ended_ones() -> None:
    used = add_running({str(HOLDER): Used(5.0, 1)}, [held(2), queued()], TENANT, after(10))
    assert used == {str(HOLDER): Used(25.0, 2)}
    assert total(used.values()) == Used(25.0, 2)


def test_attained_time_fades_by_half_in_a_half_life() -> None:
    account = Account(attained=100.0, as_of=NOW)
    assert account.at(after(600), 600).attained == pytest.approx(50)
    assert account.at(after(-5), 600) == account


def test_attained_time_is_the_same_in_one_step_or_in_many() -> None:
    account = Account(attained=7.0, as_of=NOW, slot_count=3)
    stepwise = account
    for second in range(0, 101, 10):
        stepwise = stepwise.at(after(second), 60)
    assert stepwise.attained == pytest.approx(account.at(after(100), 60).attained)
    assert account.at(after(1e-3), 600).attained == pytest.approx(7.003, abs=1e-4)


def test_who_begins_sits_at_the_level_of_the_least_of_the_others() -> None:
    account = Account(attained=0.0, as_of=NOW)
    assert account.seated(2.0, [(30.0, 1.0), (80.0, 4.0)]).attained == 40.0
    assert Account(attained=99.0, as_of=NOW).seated(1.0, [(30.0, 1.0)]).attained == 99.0
    assert account.seated(1.0, []).attained == 0.0


@pytest.mark.parametrize(
    "terms",
    [
        {"weight": 0.0},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"weight": 1001.0},
        {"guaranteed_slots": -1},
        {"quota_slots": -1},
        {"guaranteed_slots": 3, "quota_slots": 2},
    ],
)
def test_terms_that_make_no_sense_are_not_built(terms: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        Terms(**terms)  # type: ignore[arg-type]


def test_guarantees_never_exceed_the_pool() -> None:
    def guaranteed(name: str, slots: int) -> Tenant:
        terms = Terms(guaranteed_slots=slots)
        return Tenant(name=TenantName(name), terms=terms, create_time=NOW, update_time=NOW)

    others = [guaranteed("a", 2), guaranteed("b", 1)]
    check_guarantees(others, guaranteed("b", 2), {CPU: 4})
    with pytest.raises(FailedPrecondition, match="guarantee at most 2") as caught:
        check_guarantees(others, guaranteed("b", 3), {CPU: 4, GPU: 100})
    assert caught.value.reason == "GUARANTEES_EXCEED_POOL"


def test_a_lease_larger_than_the_pool_is_refused() -> None:
    pools = (local_pool(PoolName("local"), 2),)
    check_fits(pools, Wanted(), 2)
    for slots in (3, 0, -1):
        with pytest.raises(InvalidArgument):
            check_fits(pools, Wanted(), slots)


def test_a_lease_of_slots_that_no_pool_has_is_refused() -> None:
    pools = (local_pool(PoolName("local"), 2),)
    with pytest.raises(InvalidArgument, match="there are cpu") as caught:
        check_fits(pools, Wanted(resource=GPU), 1)
    assert caught.value.reason == "NO_SUCH_POOL"

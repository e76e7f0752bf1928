"""Leases outlive their time while nobody renews any, and not for ever."""

from datetime import datetime, timedelta

from allotment_allocator.domain.absence import Absence
from allotment_allocator.domain.lease import Lease, Problem
from allotment_testkit.pool_market import HERE, START, experiment, lease_name

WHO = experiment("acme/x")


def held() -> Lease:
    made = Lease(name=lease_name(1, WHO), holder=WHO, slot_count=1, create_time=START)
    return made.granted_at(HERE, START, 60.0)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def absence() -> Absence:
    return Absence(ttl_s=60.0, spared_s=60.0)


def renewed_until(last: float) -> Absence:
    """By a controller that renews every 15 s from the instant 0 on."""
    made = absence()
    instant = 0.0
    while instant <= last:
        made.renewed(instant)
        instant += 15.0
    return made


def test_a_lease_that_is_not_renewed_while_others_are_ends_in_time() -> None:
    controller = renewed_until(300.0)
    assert controller.spares_s(310.0) == 0.0
    assert held().overdue(after(60), controller.spares_s(310.0))


def test_leases_outlive_their_time_while_nobody_renews() -> None:
    controller = renewed_until(300.0)
    assert controller.spares_s(329.0) == 0.0
    assert controller.spares_s(331.0) == 60.0
    lease = held()
    assert not lease.overdue(after(119), controller.spares_s(419.0))
    assert lease.overdue(after(120), controller.spares_s(420.0))


def test_a_controller_that_is_back_after_a_minute_finds_its_leases() -> None:
    # Renewed last at 300 s, away right after; back at 375 s, renews a quarter of the ttl later.
    controller = renewed_until(300.0)
    lease = held().renewed(after(300), 60.0)
    assert all(
        not lease.overdue(after(now), controller.spares_s(float(now))) for now in range(300, 391)
    )
    controller.renewed(390.0)
    # Those that it names in its next call are not lost to its first one.
    assert not lease.overdue(after(391), controller.spares_s(391.0))
    assert controller.spares_s(419.0) == 60.0
    controller.renewed(405.0)
    controller.renewed(420.0)
    assert controller.spares_s(421.0) == 0.0


def test_an_allocator_that_has_just_begun_waits_for_the_controller() -> None:
    assert absence().spares_s(0.0) == 60.0


def test_a_revoked_lease_ends_at_its_deadline_whoever_is_away() -> None:
    revoked = held().revoked(after(10), 10.0, Problem("FAIR_SHARE", "x"))
    assert revoked.overdue(after(20), 60.0)


def test_without_a_cluster_nothing_is_spared() -> None:
    assert Absence(ttl_s=60.0, spared_s=0.0).spares_s(1e6) == 0.0

"""Decisions about single snapshots."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from allotment_allocator.domain.division import decide
from allotment_allocator.domain.snapshot import (
    Claim,
    Holding,
    Policy,
    Revocation,
    RevocationReason,
    Snapshot,
)
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import ExperimentName, TenantName
from allotment_testkit.pool_market import HERE, START, experiment, lease_name, pool, tenant

A, B, C = tenant("a"), tenant("b"), tenant("c")


def claim(number: int, holder: str, slots: int = 1, waited_s: float = 0.0) -> Claim:
    who = experiment(holder)
    return Claim(
        lease=lease_name(number, who),
        holder=who,
        slot_count=slots,
        create_time=START + timedelta(seconds=number),
        waited_s=waited_s,
    )


def holding(
    number: int, holder: str, slots: int = 1, held_s: float = 100.0, revoking: bool = False
) -> Holding:
    who = experiment(holder)
    return Holding(
        lease=lease_name(number, who),
        holder=who,
        slot_count=slots,
        held_s=held_s,
        place=HERE,
        revoking=revoking,
    )


def snapshot(slots: int, queued: list[Claim], held: list[Holding], **more: object) -> Snapshot:
    given_terms = more.pop("terms", {A: Terms(), B: Terms()})
    return Snapshot(
        pools=(pool(slots),),
        queued=tuple(queued),
        held=tuple(held),
        terms=given_terms,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def test_free_slots_alternate_between_tenants() -> None:
    queued = [claim(n, "a/x") for n in range(4)] + [claim(9, "b/x"), claim(10, "b/x")]
    decision = decide(snapshot(4, queued, []))
    assert [str(n.tenant) for n in decision.grants].count("tenants/b") == 2
    assert len(decision.grants) == 4


def test_slots_alternate_between_a_tenants_experiments() -> None:
    queued = [claim(n, "a/x") for n in range(4)] + [claim(9, "a/y")]
    decision = decide(snapshot(2, queued, []))
    assert decision.grants == {queued[0].lease: HERE, queued[4].lease: HERE}


def test_who_attained_less_is_next() -> None:
    queued = [claim(1, "a/x"), claim(2, "b/x")]
    decision = decide(snapshot(1, queued, [], attained={A: 10.0, B: 5.0}))
    assert decision.grants == {queued[1].lease: HERE}


def test_weight_divides_what_was_attained() -> None:
    queued = [claim(1, "a/x"), claim(2, "b/x")]
    terms = {A: Terms(weight=4), B: Terms()}
    decision = decide(snapshot(1, queued, [], attained={A: 40.0, B: 20.0}, terms=terms))
    assert decision.grants == {queued[0].lease: HERE}


def test_a_tenant_below_its_guarantee_goes_first() -> None:
    queued = [claim(1, "a/x"), claim(2, "b/x")]
    terms = {A: Terms(), B: Terms(guaranteed_slots=1)}
    decision = decide(snapshot(1, queued, [], attained={B: 1000.0}, terms=terms))
    assert decision.grants == {queued[1].lease: HERE}


def test_quota_holds_and_is_named() -> None:
    queued = [claim(1, "a/x"), claim(2, "a/x")]
    decision = decide(snapshot(4, queued, [], terms={A: Terms(quota_slots=1)}))
    assert decision.grants == {queued[0].lease: HERE}
    wait = decision.waits[queued[1].lease]
    assert wait.reason == "QUOTA"
    assert "tenants/a holds 1 of the 1 slots" in wait.message


def test_slots_of_a_leaving_trainer_are_not_given() -> None:
    queued = [claim(1, "a/x")]
    decision = decide(snapshot(1, queued, [], leaving={HERE: 1}))
    assert decision.grants == {}
    assert decision.waits[queued[0].lease].reason == "POOL_FULL"
    assert "on its way out" in decision.waits[queued[0].lease].message


def test_a_lease_larger_than_the_pool_is_explained() -> None:
    queued = [claim(1, "a/x", slots=3), claim(2, "a/x")]
    decision = decide(snapshot(2, queued, []))
    assert decision.grants == {queued[1].lease: HERE}
    assert decision.waits[queued[0].lease].reason == "NO_POOL"


def test_a_gang_is_granted_whole_or_not_at_all() -> None:
    gang = claim(1, "a/x", slots=3)
    assert decide(snapshot(4, [gang], [holding(5, "b/x", 2, held_s=0)])).grants == {}
    assert decide(snapshot(4, [gang], [holding(5, "b/x", 1, held_s=0)])).grants == {
        gang.lease: HERE
    }


def test_small_leases_pass_a_gang_that_has_not_waited_long() -> None:
    gang, small = claim(1, "a/x", slots=3), claim(2, "b/x")
    held = [holding(5, "b/y", 2, held_s=0)]
    assert decide(snapshot(4, [gang, small], held)).grants == {small.lease: HERE}


def test_free_slots_are_kept_for_a_gang_that_has_waited_long() -> None:
    gang, small = claim(1, "a/x", slots=3, waited_s=60), claim(2, "b/x")
    decision = decide(snapshot(4, [gang, small], [holding(5, "b/y", 2, held_s=0)]))
    assert decision.grants == {}
    assert f"kept for {gang.lease}" in decision.waits[small.lease].message


def test_a_guarantee_takes_slots_back_after_the_minimum_runtime() -> None:
    terms = {A: Terms(), B: Terms(guaranteed_slots=1)}
    queued = [claim(9, "b/x")]
    young = [holding(1, "a/x", held_s=1), holding(2, "a/x", held_s=2)]
    assert decide(snapshot(2, queued, young, terms=terms)).revocations == ()
    old = [holding(1, "a/x", held_s=60), holding(2, "a/x", held_s=20)]
    assert decide(snapshot(2, queued, old, terms=terms)).revocations == (
        Revocation(old[1].lease, RevocationReason.GUARANTEE, queued[0].lease),
    )


def test_slots_within_a_guarantee_are_not_taken() -> None:
    terms = {A: Terms(guaranteed_slots=1), B: Terms(guaranteed_slots=1, weight=100)}
    held = [holding(1, "a/x"), holding(2, "b/x")]
    queued = [claim(9, "b/y")]
    decision = decide(snapshot(2, queued, held, terms=terms, attained={A: 1e6}))
    assert all(r.lease.tenant == B for r in decision.revocations)


def test_a_guarantee_is_not_met_out_of_another_one() -> None:
    terms = {A: Terms(guaranteed_slots=1), B: Terms(guaranteed_slots=1), C: Terms()}
    held = [holding(1, "a/x"), holding(2, "c/x")]
    queued = [claim(9, "b/x")]
    decision = decide(snapshot(2, queued, held, terms=terms, attained={A: 1e6}))
    assert [r.lease for r in decision.revocations] == [held[1].lease]


def test_an_experiment_without_slots_gets_one_of_two() -> None:
    held = [holding(1, "a/x", held_s=20), holding(2, "a/x", held_s=10)]
    queued = [claim(9, "a/y")]
    attained = {A: 30.0, experiment("a/x"): 30.0, experiment("a/y"): 30.0}
    decision = decide(snapshot(2, queued, held, attained=attained))
    assert decision.revocations == (
        Revocation(held[1].lease, RevocationReason.FAIR_SHARE, queued[0].lease),
    )
    assert "taken back for it" in decision.waits[queued[0].lease].message


def test_room_that_comes_anyway_is_not_asked_for_twice() -> None:
    held = [holding(1, "a/x"), holding(2, "a/x"), holding(3, "a/x", revoking=True)]
    assert decide(snapshot(3, [claim(9, "a/y")], held)).revocations == ()
    assert len(decide(snapshot(3, [claim(9, "a/y"), claim(10, "b/x")], held)).revocations) == 1


def test_one_slot_goes_round_in_turns() -> None:
    queued = [claim(9, "b/x")]
    policy = Policy(turn_s=30)
    early = snapshot(1, queued, [holding(1, "a/x", held_s=29)], attained={A: 29.0}, policy=policy)
    assert decide(early).revocations == ()
    late = snapshot(1, queued, [holding(1, "a/x", held_s=31)], attained={A: 31.0}, policy=policy)
    assert [r.reason for r in decide(late).revocations] == [RevocationReason.TURN_OVER]


def test_nobody_gives_up_a_turn_to_who_has_had_nearly_as_much() -> None:
    held = [holding(1, "a/x", held_s=1000)]
    seen = snapshot(1, [claim(9, "b/x")], held, attained={A: 110.0, B: 90.0})
    assert decide(seen).revocations == ()


def test_a_pool_that_shrank_takes_leases_back_at_once() -> None:
    held = [holding(n, "a/x", held_s=float(n)) for n in range(4)]
    decision = decide(snapshot(2, [], held))
    assert {r.lease for r in decision.revocations} == {held[0].lease, held[1].lease}
    assert {r.reason for r in decision.revocations} == {RevocationReason.POOL_SHRANK}


def test_places_count_from_one_in_the_order_of_service() -> None:
    queued = [claim(1, "a/x"), claim(2, "a/x"), claim(3, "b/x")]
    decision = decide(snapshot(1, queued, [holding(7, "b/y", held_s=0)], attained={B: 1e3}))
    assert [decision.waits[c.lease].position for c in queued] == [1, 2, 3]


HOLDERS = st.sampled_from(["a/x", "a/y", "b/x", "b/y", "c/x"])
QUEUED = st.lists(st.tuples(HOLDERS, st.integers(1, 4), st.floats(0, 100)), max_size=8)
HELD = st.lists(st.tuples(HOLDERS, st.integers(1, 3), st.floats(0, 100), st.booleans()), max_size=5)
TERMS = st.builds(
    lambda weight, guaranteed, quota: Terms(
        weight=weight, guaranteed_slots=guaranteed, quota_slots=quota and max(quota, guaranteed)
    ),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 2),
    st.integers(0, 6),
)
ATTAINED = st.dictionaries(HOLDERS.map(experiment), st.floats(0, 1000))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    slots = draw(st.integers(1, 6))
    held: list[Holding] = []
    for number, (who, size, held_s, revoking) in enumerate(draw(HELD)):
        if sum(h.slot_count for h in held) + size <= slots:
            held.append(holding(100 + number, who, size, held_s, revoking))
    attained: dict[TenantName | ExperimentName, float] = {}
    for holder, slot_seconds in draw(ATTAINED).items():
        attained[holder] = slot_seconds
        attained[holder.tenant] = attained.get(holder.tenant, 0.0) + slot_seconds
    return snapshot(
        slots,
        [claim(n, *fields) for n, fields in enumerate(draw(QUEUED))],
        held,
        terms={tenant(name): draw(TERMS) for name in "abc"},
        attained=attained,
        leaving={HERE: draw(st.integers(0, max(0, slots - sum(h.slot_count for h in held))))},
    )


@given(snapshots())
def test_never_more_slots_than_the_pool_and_every_wait_is_explained(seen: Snapshot) -> None:
    decision = decide(seen)
    size = {c.lease: c.slot_count for c in seen.queued}
    used = sum(h.slot_count for h in seen.held) + seen.leaving[HERE]
    assert used + sum(size[n] for n in decision.grants) <= seen.pools[0].slot_count
    assert decision.waits.keys() == size.keys() - set(decision.grants)
    positions = sorted(w.position for w in decision.waits.values())
    assert positions == list(range(1, len(positions) + 1))
    assert decide(seen) == decision


@given(snapshots())
def test_no_lease_waits_for_slots_that_are_free(seen: Snapshot) -> None:
    decision = decide(seen)
    size = {c.lease: c for c in seen.queued}
    free = seen.pools[0].slot_count - seen.leaving[HERE] - sum(h.slot_count for h in seen.held)
    free -= sum(size[n].slot_count for n in decision.grants)
    reserve = seen.policy.reserve_after_s
    if any(size[n].slot_count > 1 and size[n].waited_s >= reserve for n in decision.waits):
        return
    for name, wait in decision.waits.items():
        assert wait.reason == "QUOTA" or size[name].slot_count > free


@given(snapshots())
def test_quotas_hold(seen: Snapshot) -> None:
    decision = decide(seen)
    size = {c.lease: c.slot_count for c in seen.queued}
    for name, terms in seen.terms.items():
        granted = sum(size[n] for n in decision.grants if n.tenant == name)
        held = sum(h.slot_count for h in seen.held if h.lease.tenant == name)
        assert not granted or not terms.quota_slots or granted + held <= terms.quota_slots


@given(snapshots())
def test_revocations_never_undercut_a_guarantee_for_a_share(seen: Snapshot) -> None:
    decision = decide(seen)
    taken = {r.lease: r for r in decision.revocations}
    for name, terms in seen.terms.items():
        own = [h for h in seen.held if h.lease.tenant == name and not h.revoking]
        lost = [h for h in own if h.lease in taken]
        others = [
            h
            for h in lost
            if (claimed := taken[h.lease].claim) is not None and claimed.tenant != name
        ]
        if others and all(taken[h.lease].reason is not RevocationReason.GUARANTEE for h in others):
            left = sum(h.slot_count for h in own) - sum(h.slot_count for h in others)
            assert left >= terms.guaranteed_slots

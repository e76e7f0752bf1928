"""What holds in the long run, in virtual time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from allotment_allocator.domain.snapshot import Policy, RevocationReason
from allotment_allocator.domain.tenant import Terms
from allotment_testkit.pool_market import Market, experiment, tenant

A, B, C = tenant("a"), tenant("b"), tenant("c")
WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 3.0])
MUCH = 5


@given(st.tuples(WEIGHTS, WEIGHTS, WEIGHTS), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=5, deadline=None)
def test_no_hungry_tenant_envies_another(
    weights: tuple[float, float, float], slots: int, seed: int
) -> None:
    """All want all the time; leases end by themselves: slot-time is by weight."""
    terms = {name: Terms(weight=w) for name, w in zip((A, B, C), weights, strict=True)}
    market = Market(
        slots=slots,
        terms=terms,
        demand={experiment(f"{name}/x"): MUCH for name in "abc"},
        lease_s=(5.0, 40.0),
        seed=seed,
        step_s=3.0,
    )
    market.run(800)
    shares = [market.used[name] / terms[name].weight for name in (A, B, C)]
    one_lease = 40.0 / market.step_s / min(weights)
    assert min(shares) + one_lease >= 0.9 * max(shares)


@given(st.tuples(WEIGHTS, WEIGHTS, WEIGHTS), st.integers(1, 4))
@settings(max_examples=5, deadline=None)
def test_nobody_envies_when_leases_never_end(
    weights: tuple[float, float, float], slots: int
) -> None:
    """Turns and fair revocation do what departures do not, as near as whole turns can.

    The worst of all these weights is one slot among 0.5, 0.5 and 3: 0.645.
    """
    terms = {name: Terms(weight=w) for name, w in zip((A, B, C), weights, strict=True)}
    market = Market(
        slots=slots,
        terms=terms,
        demand={experiment(f"{name}/x"): MUCH for name in "abc"},
        step_s=3.0,
    )
    market.run(1200)
    shares = [market.used[name] / terms[name].weight for name in (A, B, C)]
    assert min(shares) >= 0.6 * max(shares)


def test_experiments_of_a_tenant_share_evenly_however_many_leases_they_ask_for() -> None:
    demand = {experiment("a/x"): MUCH, experiment("a/y"): 3, experiment("a/z"): 3}
    market = Market(slots=3, terms={A: Terms()}, demand=demand, lease_s=(5.0, 30.0))
    market.run(1000)
    shares = [market.used[holder] for holder in demand]
    assert min(shares) >= 0.9 * max(shares)


@given(st.integers(1, 3), st.integers(4, 6), st.integers(0, 5))
@settings(max_examples=6, deadline=None)
def test_a_guarantee_is_met_soon_and_kept(guaranteed: int, slots: int, seed: int) -> None:
    terms = {A: Terms(weight=100), B: Terms(guaranteed_slots=guaranteed, weight=0.01)}
    market = Market(slots=slots, terms=terms, demand={experiment("a/x"): MUCH}, seed=seed)
    market.run(60)
    market.demand = {experiment("a/x"): MUCH, experiment("b/x"): MUCH}
    market.run(10)
    for _ in range(100):
        market.step()
        assert market.holdings()[experiment("b/x")] >= guaranteed


@given(
    st.dictionaries(
        st.sampled_from(["a/x", "a/y", "b/x", "b/y", "c/x"]), st.integers(1, 6), min_size=2
    ),
    st.dictionaries(st.sampled_from(["a/x", "b/x", "b/y"]), st.integers(2, 4)),
    st.tuples(WEIGHTS, WEIGHTS),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(4, 8),
)
@settings(max_examples=20, deadline=None)
def test_no_two_preempt_each_other_without_an_arrival_or_a_departure(
    demand: dict[str, int],
    gangs: dict[str, int],
    weights: tuple[float, float],
    guarantees: tuple[int, int],
    slots: int,
) -> None:
    """Leases never end and the same experiments want for ever: taking back comes to an end."""
    market = Market(
        slots=slots,
        terms={
            A: Terms(weight=weights[0], guaranteed_slots=guarantees[0]),
            B: Terms(weight=weights[1], guaranteed_slots=guarantees[1]),
        },
        demand={},
        gang={experiment(who): size for who, size in gangs.items()},
        policy=Policy(turn_s=1e9),
    )
    for who, wanted in demand.items():
        market.demand = {**market.demand, experiment(who): wanted}
        market.run(12)
    market.run(150)
    settled = len(market.revocations)
    market.run(100)
    assert len(market.revocations) == settled


def test_turns_are_no_shorter_than_a_turn() -> None:
    demand = {experiment(f"a/{name}"): 1 for name in "uvwxyz"}
    market = Market(slots=2, terms={A: Terms()}, demand=demand, policy=Policy(turn_s=30))
    market.run(1200)
    reasons = {r.reason for _, d in market.revocations for r in d.revocations}
    assert reasons == {RevocationReason.TURN_OVER}
    assert sum(len(d.revocations) for _, d in market.revocations) <= 2 * 1200 / 30
    assert min(market.used[who] for who in demand) >= 0.7 * 2 * 1200 / 6


@given(st.integers(2, 4), st.integers(0, 5))
@settings(max_examples=4, deadline=None)
def test_a_gang_does_not_starve_among_small_leases(size: int, seed: int) -> None:
    demand = {experiment("a/gang"): 1, experiment("b/x"): MUCH, experiment("c/x"): MUCH}
    market = Market(
        slots=4,
        terms={},
        demand=demand,
        gang={experiment("a/gang"): size},
        lease_s=(5.0, 25.0),
        seed=seed,
    )
    market.run(800)
    assert market.longest_wait[experiment("a/gang")] < 300
    assert market.used[A] >= 0.6 * 4 * 800 / 3

"""A pool in virtual time: experiments that want slots, and `decide` as the only judge."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from allotment_allocator.domain.account import Account
from allotment_allocator.domain.division import decide
from allotment_allocator.domain.pool import GPU, Place, Pool, Wanted, local_pool
from allotment_allocator.domain.snapshot import Claim, Decision, Holding, Policy, Snapshot
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import ExperimentName, LeaseName, PoolName, TenantName

START = datetime(2026, 1, 1, tzinfo=UTC)
HALF_LIFE_S = 600.0


HERE = Place(PoolName("local"), "local")


def pool(slots: int) -> Pool:
    return local_pool(PoolName("local"), slots)


def tenant(name: str) -> TenantName:
    return TenantName(name)


def experiment(name: str) -> ExperimentName:
    """`a/x`: experiment x of tenant a."""
    owner, _, own = name.partition("/")
    return ExperimentName(TenantName(owner), own or "x")


def lease_name(number: int, holder: ExperimentName) -> LeaseName:
    return LeaseName(holder.tenant, f"l{number:06d}")


def gpu_claim(number: int, holder: str, slots: int = 1, **more: object) -> Claim:
    """A claim to GPUs of any pool, the later the higher its number."""
    who = experiment(holder)
    made = Claim(
        lease=lease_name(number, who),
        holder=who,
        slot_count=slots,
        create_time=START + timedelta(seconds=number),
        waited_s=0.0,
        wanted=Wanted(resource=GPU),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def gpu_holding(number: int, holder: str, place: Place, slots: int = 1, **more: object) -> Holding:
    """GPUs that have been held for a while."""
    who = experiment(holder)
    made = Holding(
        lease=lease_name(number, who),
        holder=who,
        slot_count=slots,
        held_s=100.0,
        place=place,
        wanted=Wanted(resource=GPU),
    )
    return replace(made, **more)  # type: ignore[arg-type]


@dataclass
class Live:
    """A lease of the market."""

    name: LeaseName
    holder: ExperimentName
    slots: int
    created: float
    granted: float | None = None
    ends: float | None = None
    gone: float | None = None
    """When a lease that is being revoked is gone."""


@dataclass
class Market:
    """Steps of `step_s`; each experiment keeps `demand` leases queued or held."""

    slots: int
    terms: Mapping[TenantName, Terms]
    demand: Mapping[ExperimentName, int]
    gang: Mapping[ExperimentName, int] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    seed: int = 0
    lease_s: tuple[float, float] | None = None
    """Bounds of how long leases last; None: they never end by themselves."""
    grace_s: float = 2.0
    step_s: float = 1.0
    now: float = 0.0
    live: list[Live] = field(default_factory=list)
    used: Counter[TenantName | ExperimentName] = field(default_factory=Counter)
    longest_wait: Counter[ExperimentName] = field(default_factory=Counter)
    revocations: list[tuple[float, Decision]] = field(default_factory=list)
    accounts: dict[TenantName | ExperimentName, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._count = 0

    def _moment(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def _arrive(self) -> None:
        for holder, wanted in self.demand.items():
            present = sum(1 for each in self.live if each.holder == holder and each.gone is None)
            if present == 0 and wanted:
                self._seat(holder)
            for _ in range(wanted - present):
                self._count += 1
                name = lease_name(self._count, holder)
                self.live.append(Live(name, holder, self.gang.get(holder, 1), self.now))

    def _seat(self, holder: ExperimentName) -> None:
        for who in (holder.tenant, holder):
            account = self.accounts.get(who, Account(attained=0.0, as_of=self._moment()))
            self.accounts[who] = account.at(self._moment(), HALF_LIFE_S)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            pools=(pool(self.slots),),
            terms=self.terms,
            queued=tuple(
                Claim(
                    lease=each.name,
                    holder=each.holder,
                    slot_count=each.slots,
                    create_time=START + timedelta(seconds=each.created),
                    waited_s=self.now - each.created,
                )
                for each in self.live
                if each.granted is None
            ),
            held=tuple(
                Holding(
                    lease=each.name,
                    holder=each.holder,
                    slot_count=each.slots,
                    held_s=self.now - each.granted,
                    place=HERE,
                    revoking=each.gone is not None,
                )
                for each in self.live
                if each.granted is not None
            ),
            attained={
                w: a.at(self._moment(), HALF_LIFE_S).attained for w, a in self.accounts.items()
            },
            policy=self.policy,
        )

    def step(self) -> Decision:
        """Ends what ends, lets demand arrive, divides, moves on."""
        self.live = [
            each
            for each in self.live
            if (each.ends is None or each.ends > self.now)
            and (each.gone is None or each.gone > self.now)
        ]
        self._arrive()
        decision = decide(self.snapshot())
        for each in self.live:
            if each.name in decision.grants:
                each.granted = self.now
                waited = self.now - each.created
                self.longest_wait[each.holder] = max(self.longest_wait[each.holder], int(waited))
                if self.lease_s is not None:
                    each.ends = self.now + self._random.uniform(*self.lease_s)
        taken = {r.lease for r in decision.revocations}
        for each in self.live:
            if each.name in taken:
                each.gone = self.now + self.grace_s
        if taken:
            self.revocations.append((self.now, decision))
        self._settle()
        for each in self.live:
            if each.granted is not None:
                self.used[each.holder] += each.slots
                self.used[each.holder.tenant] += each.slots
        self.now += self.step_s
        return decision

    def _settle(self) -> None:
        held: Counter[TenantName | ExperimentName] = Counter()
        for each in self.live:
            if each.granted is not None:
                held[each.holder] += each.slots
                held[each.holder.tenant] += each.slots
        for who, account in self.accounts.items():
            self.accounts[who] = account.at(self._moment(), HALF_LIFE_S).holding(held[who])

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            assert self.used_slots <= self.slots

    @property
    def used_slots(self) -> int:
        return sum(each.slots for each in self.live if each.granted is not None)

    def holdings(self) -> Counter[ExperimentName]:
        return Counter(
            {
                holder: sum(
                    each.slots
                    for each in self.live
                    if each.holder == holder and each.granted is not None
                )
                for holder in self.demand
            }
        )

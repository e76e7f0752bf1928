"""Whose trainer a pod is: asked once, remembered for a moment, never guessed."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from allotment_core.auth import pod_identities
from allotment_core.auth.pod_identities import (
    CONFIRMED_S,
    KEPT_S,
    REFUSED_S,
    Held,
    PodIdentities,
)
from allotment_core.auth.pod_tokens import Pod, PodClaims
from allotment_core.auth.principal import Principal, Role
from allotment_core.errors import AllotmentError, NotFound, Unauthenticated, Unavailable
from allotment_core.names import LeaseName, TenantName
from allotment_testkit.clock import ManualClock

TENANT = TenantName("acme")
LEASE = LeaseName(TENANT, "l1")
POD = Pod("allotment-acme", "uid-1")
ENDS = datetime(2026, 1, 1, 1, tzinfo=UTC)
CLAIMS = PodClaims(POD, ENDS)


class Answers:
    """The allocator, as the identities ask it."""

    def __init__(self) -> None:
        self.held: Held | AllotmentError = (LEASE, 3)
        self.asked: list[Pod] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, pod: Pod) -> Held:
        self.asked.append(pod)
        await self.go_on.wait()
        if isinstance(self.held, AllotmentError):
            raise self.held
        return self.held


async def found(identities: PodIdentities, claims: PodClaims = CLAIMS) -> Principal:
    holder = identities.find(claims)
    return holder if isinstance(holder, Principal) else await holder


async def test_a_pod_is_the_trainer_of_its_lease() -> None:
    identities = PodIdentities(Answers(), ManualClock())
    trainer = await found(identities)
    assert (trainer.role, trainer.tenant) == (Role.TRAINER, TENANT)
    assert (trainer.lease, trainer.lease_epoch) == (LEASE, 3)
    assert trainer.expires_at == ENDS


async def test_what_is_known_is_told_at_once_and_not_asked_again() -> None:
    answers = Answers()
    identities = PodIdentities(answers, ManualClock())
    await found(identities)
    later = identities.find(PodClaims(POD, ENDS + timedelta(hours=1)))
    assert isinstance(later, Principal)
    # The next token of the same pod has its own end.
    assert later.expires_at == ENDS + timedelta(hours=1)
    assert answers.asked == [POD]


async def test_calls_at_the_same_time_ask_once_and_one_that_gives_up_takes_nothing_away() -> None:
    answers = Answers()
    answers.go_on.clear()
    identities = PodIdentities(answers, ManualClock())
    calls = [asyncio.create_task(found(identities)) for _ in range(50)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.sleep(0)
    answers.go_on.set()
    trainers = await asyncio.gather(*calls[1:])
    assert {t.lease for t in trainers} == {LEASE}
    assert answers.asked == [POD]


async def test_a_lease_that_has_ended_is_noticed() -> None:
    answers, clock = Answers(), ManualClock()
    identities = PodIdentities(answers, clock)
    await found(identities)
    answers.held = NotFound("gone")
    clock.advance(CONFIRMED_S - 1)
    await found(identities)
    clock.advance(1)
    with pytest.raises(Unauthenticated) as refused:
        await found(identities)
    assert refused.value.reason == "LEASE_ENDED"


async def test_a_refusal_is_remembered_for_a_moment_alone() -> None:
    answers, clock = Answers(), ManualClock()
    answers.held = NotFound("not seen yet")
    identities = PodIdentities(answers, clock)
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await found(identities)
    assert len(answers.asked) == 1
    answers.held = (LEASE, 1)
    clock.advance(REFUSED_S)
    assert (await found(identities)).lease_epoch == 1


async def test_nobody_is_let_in_while_the_allocator_is_away() -> None:
    answers = Answers()
    answers.held = Unavailable("away")
    identities = PodIdentities(answers, ManualClock())
    with pytest.raises(Unavailable) as refused:
        await found(identities)
    assert refused.value.retry_after_s
    answers.held = (LEASE, 3)
    assert (await found(identities)).lease == LEASE


async def test_a_known_trainer_works_on_while_the_allocator_is_away_but_not_for_ever() -> None:
    answers, clock = Answers(), ManualClock()
    identities = PodIdentities(answers, clock)
    await found(identities)
    answers.held = Unavailable("away")
    for _ in range(int(KEPT_S / CONFIRMED_S) - 1):
        clock.advance(CONFIRMED_S)
        assert (await found(identities)).lease == LEASE
    clock.advance(CONFIRMED_S)
    with pytest.raises(Unavailable):
        await found(identities)


async def test_a_known_trainer_does_not_wait_for_an_allocator_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pod_identities, "PATIENCE_S", 0.0)
    answers, clock = Answers(), ManualClock()
    identities = PodIdentities(answers, clock)
    await found(identities)
    answers.go_on.clear()
    clock.advance(CONFIRMED_S)
    for _ in range(3):
        assert (await found(identities)).lease == LEASE
    assert len(answers.asked) == 2
    # Its answer counts as soon as it is there.
    answers.held = NotFound("gone")
    answers.go_on.set()
    await asyncio.sleep(0)
    with pytest.raises(Unauthenticated):
        await found(identities)


async def test_an_answer_that_is_none_is_no_answer() -> None:
    async def broken(_pod: Pod) -> Held:
        raise RuntimeError("not a lease's name")

    with pytest.raises(Unavailable):
        await found(PodIdentities(broken, ManualClock()))

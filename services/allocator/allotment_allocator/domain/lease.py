"""The right to run one trainer on some slots for a while.

The server's clock alone counts. A lease that is not renewed in time ends, and its slots are given
again only when its trainer is known to be gone.
"""

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from allotment_allocator.domain.pool import CPU_SLOTS, Place, Wanted
from allotment_core.errors import FailedPrecondition
from allotment_core.names import ExperimentName, LeaseName, TenantName
from allotment_core.states import Moves


class LeaseState(enum.Enum):
    QUEUED = "QUEUED"
    HELD = "HELD"
    REVOKING = "REVOKING"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


MOVES = Moves(
    {
        LeaseState.QUEUED: frozenset({LeaseState.HELD, LeaseState.RELEASED}),
        LeaseState.HELD: frozenset(
            {LeaseState.HELD, LeaseState.REVOKING, LeaseState.RELEASED, LeaseState.EXPIRED}
        ),
        LeaseState.REVOKING: frozenset({LeaseState.RELEASED, LeaseState.EXPIRED}),
        LeaseState.RELEASED: frozenset(),
        LeaseState.EXPIRED: frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the allocator ended a lease, or could not start its trainer."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a lease waits, what would end the wait, and its place in the queue (0: not queued)."""

    reason: str
    message: str
    position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease at one revision; every change makes the next one."""

    name: LeaseName
    holder: ExperimentName
    slot_count: int
    create_time: datetime
    wanted: Wanted = CPU_SLOTS
    state: LeaseState = LeaseState.QUEUED
    epoch: int = 0
    place: Place | None = None
    """Where its slots are, once granted."""
    submit_time: datetime | None = None
    """Since when the cluster's queue knows it; None: no queue has to admit it."""
    grant_time: datetime | None = None
    expire_time: datetime | None = None
    revoke_deadline: datetime | None = None
    end_time: datetime | None = None
    problem: Problem | None = None
    trainer_end: str = ""
    """Why the trainer of the epoch before ended, where that is known."""
    charged_slots: int | None = None
    """Where its tenant has the node alone: its part of all slots of the node."""
    charged_from: datetime | None = None
    charged_before: float = 0.0
    """Slot-seconds until then."""
    revision: int = 1

    @property
    def alone(self) -> bool:
        """Whether its node is to be its tenant's alone."""
        return self.charged_slots is not None

    @property
    def charge(self) -> int:
        """Slots that its holder is charged for while it has them."""
        return self.slot_count if self.charged_slots is None else self.charged_slots

    @property
    def tenant(self) -> TenantName:
        return self.name.tenant

    @property
    def ended(self) -> bool:
        return self.state in MOVES.final

    @property
    def submitted(self) -> bool:
        """Whether the cluster's queue has still to admit its trainer."""
        return self.state is LeaseState.QUEUED and self.submit_time is not None

    @property
    def staffed(self) -> bool:
        """Whether a trainer is to be there for it, or to be ready."""
        return self.granted or self.submitted

    @property
    def granted(self) -> bool:
        """Whether it has slots now."""
        return self.state in (LeaseState.HELD, LeaseState.REVOKING)

    def granted_at(self, place: Place, now: datetime, ttl_s: float) -> "Lease":
        """The first grant: epoch 1."""
        if self.state is not LeaseState.QUEUED:
            raise FailedPrecondition(f"{self.name} is {self.state.name} already")
        return self._to(
            LeaseState.HELD,
            epoch=self.epoch + 1,
            place=place,
            grant_time=now,
            expire_time=now + timedelta(seconds=ttl_s),
        )

    def submitted_at(self, place: Place, now: datetime, *, alone: bool) -> "Lease":
        """The cluster's queue is asked to admit its first trainer: epoch 1."""
        if self.state is not LeaseState.QUEUED or self.submitted:
            raise FailedPrecondition(f"{self.name} is {self.state.name} already")
        return replace(
            self,
            epoch=self.epoch + 1,
            place=place,
            submit_time=now,
            charged_slots=self.slot_count if alone else None,
            revision=self.revision + 1,
        )

    def admitted(self, now: datetime, ttl_s: float) -> "Lease":
        """The queue has admitted its trainer: it is held from now on."""
        if not self.submitted:
            raise FailedPrecondition(f"{self.name} is {self.state.name}: no queue admits it")
        return self._to(LeaseState.HELD, grant_time=now, expire_time=now + timedelta(seconds=ttl_s))

    def restarted(self, problem: Problem | None, trainer_end: str = "") -> "Lease":
        """A new trainer takes over: the next epoch. Its time to live is not extended."""
        changes = {"epoch": self.epoch + 1, "problem": problem, "trainer_end": trainer_end}
        if self.submitted:
            return replace(self, revision=self.revision + 1, **changes)  # type: ignore[arg-type]
        if self.state is not LeaseState.HELD:
            raise FailedPrecondition(f"{self.name} is {self.state.name}: it gets no new trainer")
        return self._to(LeaseState.HELD, **changes)

    def moved(self, place: Place) -> "Lease":
        """It goes on elsewhere: the next epoch. Its time to live is not extended."""
        return replace(self.restarted(None), place=place)

    def found(self, place: Place) -> "Lease":
        """Its trainer is here: the node that it was granted on had still to come."""
        return replace(self, place=place, revision=self.revision + 1)

    def mended(self) -> "Lease":
        """Its trainer runs again: no problem any more."""
        return replace(self, problem=None, revision=self.revision + 1)

    def renewed(self, now: datetime, ttl_s: float) -> "Lease":
        return replace(self, expire_time=now + timedelta(seconds=ttl_s), revision=self.revision + 1)

    def revoked(self, now: datetime, grace_s: float, problem: Problem) -> "Lease":
        deadline = now + timedelta(seconds=grace_s)
        return self._to(LeaseState.REVOKING, revoke_deadline=deadline, problem=problem)

    def released(self, now: datetime) -> "Lease":
        return self._to(LeaseState.RELEASED, end_time=now)

    def expired(self, now: datetime) -> "Lease":
        """The allocator ends it; the reason stays that of its revocation where there was one."""
        problem = self.problem
        if self.state is not LeaseState.REVOKING or problem is None:
            problem = Problem(
                "LEASE_EXPIRED",
                f"{self.name} was not renewed before {self.expire_time}; its trainer is stopped",
            )
        return self._to(LeaseState.EXPIRED, end_time=now, problem=problem)

    def overdue(self, now: datetime, spared_s: float = 0.0) -> bool:
        """Whether its time and `spared_s`, or the grace after its revocation, is over."""
        if not self.granted:
            return False
        expire_time, deadline = self.expire_time, self.revoke_deadline
        if deadline is not None and deadline <= now:
            return True
        if expire_time is None or expire_time > now:
            return False
        return (now - expire_time).total_seconds() >= spared_s

    def slot_seconds(self, now: datetime) -> float:
        """Slots x seconds that it is charged for until it ended, or until now."""
        if self.grant_time is None:
            return 0.0
        since, end = self.charged_from or self.grant_time, self.end_time or now
        return self.charged_before + self.charge * max(0.0, (end - since).total_seconds())

    def charged(self, slots: int | None, now: datetime) -> "Lease":
        """From now on for so many slots; None: its own."""
        return replace(
            self,
            charged_slots=slots,
            charged_from=now,
            charged_before=self.slot_seconds(now),
            revision=self.revision + 1,
        )

    def _to(self, state: LeaseState, **changes: Any) -> "Lease":
        MOVES.check(self.state, state, what=str(self.name))
        return replace(self, state=state, revision=self.revision + 1, **changes)

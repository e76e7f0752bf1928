"""What the domain needs from outside. Books are bound to one transaction and are not shared."""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from allotment_allocator.domain.account import Account
from allotment_allocator.domain.lease import Lease, Wait
from allotment_allocator.domain.pool import Place
from allotment_allocator.domain.tenant import Tenant
from allotment_core.names import ExperimentName, LeaseName, TenantName

Who = TenantName | ExperimentName
Party = tuple[str, Who]
"""Somebody as a user of one resource."""


@dataclass(frozen=True, slots=True)
class Used:
    """What was used by leases that have ended."""

    slot_seconds: float = 0.0
    lease_count: int = 0


class Books(Protocol):
    """The rows of one transaction: reads see its own writes."""

    def tenant(self, name: TenantName) -> Tenant | None: ...

    def tenants(self) -> Sequence[Tenant]: ...

    def tenants_page(self, after: str, limit: int) -> Sequence[Tenant]:
        """By name, those after the given one."""
        ...

    def put_tenant(self, tenant: Tenant) -> None:
        """Adds it or replaces its row."""
        ...

    def delete_tenant(self, name: TenantName) -> None:
        """Its leases, accounts and usage go with it."""
        ...

    def lease(self, name: LeaseName) -> Lease | None: ...

    def leases(self, names: Iterable[LeaseName]) -> Sequence[Lease]:
        """Those of them that there are, in no particular order."""
        ...

    def holders(self, resource: str) -> Iterable[ExperimentName]:
        """Who has leases of the resource that have not ended, each once."""
        ...

    def competes(self, resource: str, holder: ExperimentName) -> bool:
        """Whether it has leases of the resource that have not ended."""
        ...

    def live_leases(self) -> Sequence[Lease]:
        """Those that have not ended, oldest first."""
        ...

    def leases_page(
        self, tenant: TenantName, after: str, limit: int, *, include_ended: bool
    ) -> Sequence[Lease]:
        """By name, those after the given one; the wildcard: of every tenant."""
        ...

    def put_leases(self, leases: Sequence[Lease]) -> None:
        """Adds them or replaces their rows."""
        ...

    def accounts(self, of: Iterable[Party]) -> Mapping[Party, Account]: ...

    def put_accounts(self, accounts: Mapping[Party, Account]) -> None:
        """Adds them or replaces their rows."""
        ...

    def add_usage(self, holder: ExperimentName, used: Used) -> None:
        """Adds to the experiment's sum."""
        ...

    def usage_of(self, tenant: TenantName) -> Mapping[str, Used]:
        """Of ended leases, by the experiment's name."""
        ...

    def prune(self, now: datetime, kept_s: float) -> int:
        """Forgets leases that ended long ago (their usage stays) and accounts that have faded."""
        ...


class TrainerState(enum.Enum):
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    IDLE = "IDLE"
    """Its session is over; it can take another lease of its tenant."""
    LEAVING = "LEAVING"
    """Told to end; its slots are free once it is known to be gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """A process that works, or could work, for one tenant. It never changes its tenant."""

    trainer_id: str
    tenant: TenantName
    slot_count: int
    place: Place
    lease: LeaseName
    epoch: int
    state: TrainerState
    since_s: float
    """Monotonic instant of the last change of its state."""
    alone: bool = False
    """Its tenant is to have the node alone."""
    suspended: bool = False
    """The cluster's queue has not admitted it, or has taken its slots back."""
    hint: Wait | None = None
    """While it starts: what it waits for, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerExit:
    """A trainer that is known to be gone."""

    trainer: Trainer
    cause: str
    log_tail: str
    kind: str = ""
    """OUT_OF_MEMORY, DISRUPTED or CRASHED, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerOrder:
    """What a trainer is told at its start or with its next lease."""

    trainer_id: str
    lease: LeaseName
    epoch: int
    slot_count: int
    place: Place
    resource: str
    """What a slot is."""
    server: str
    token: str
    threads: int
    memory_bytes: int
    cache_dir: Path
    alone: bool = False
    """The tenant is to have the node alone."""
    selector: tuple[tuple[str, str], ...] = ()
    """Labels of the pool's nodes."""
    cores: float = 0.0
    """CPU that it has, in cores and parts of one; 0: one for each thread."""


class Launcher(Protocol):
    """Starts and ends trainers. Calls return at once; what came of them is seen in `trainers`."""

    @property
    def ready(self) -> bool:
        """Whether trainers can be started now."""
        ...

    @property
    def obstacle(self) -> str:
        """Why it is not ready."""
        ...

    def trainers(self) -> Sequence[Trainer]:
        """Every trainer that is not known to be gone."""
        ...

    def take_exits(self) -> Sequence[TrainerExit]:
        """Trainers that are gone since the last call."""
        ...

    def resident_bytes(self, trainer_id: str) -> int:
        """Memory that an idle trainer keeps."""
        ...

    def launch(self, order: TrainerOrder) -> None: ...

    def hand_over(self, order: TrainerOrder) -> None:
        """Gives an IDLE trainer its next lease."""
        ...

    def stop(self, trainer_id: str, grace_s: float) -> None:
        """Lets it end by itself within the grace, then kills it."""
        ...

    def kill(self, trainer_id: str) -> None:
        """Ends it now; repeated, by ever harder means."""
        ...

"""The controller's settings."""

from dataclasses import dataclass
from pathlib import Path

from allotment_controller.domain.experiment import BudgetStart
from allotment_core.rpc.alone import ServerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """What `build` needs; the environment has each as ALLOTMENT_CONTROLLER_<NAME>."""

    database_url: str
    """sqlite:////absolute/path, or postgresql://user:password@host/database (docs/databases.md)."""
    heartbeat_interval_s: float = 2.0
    """How often trainers say that they live; three missing heartbeats end a session."""
    lease_ttl_s: float = 60.0
    """Has to be the allocator's: leases are renewed at each sixth of it."""
    start_grace_s: float = 600.0
    """A trainer's time from its lease's grant to its first session: its node may have to be bought
    and its image to be fetched. The allocator says on the lease what it waits for."""
    away_grace_s: float = 60.0
    """How long a trainer, or after a restart all of them, may be away before its trial goes back
    to the queue. Of a trainer that is gone the allocator tells at once."""
    export_limit: int = 2
    """Models of one experiment that are exported at once."""
    early_stopping_grace: int = 6
    """Trials that have to be finished before any is put off."""
    early_stopping_saving_s: float = 0.2
    """A trial whose other folds are expected to take less than these seconds is not put off; within
    its first fit neither one where the rest of that fit is."""
    early_stopping_fit_rungs: int = 2
    """How often a trial of boosting rounds or epochs is judged within its first fit: 2 is after a
    ninth and a third of them, 0 after whole folds alone."""
    trial_limit_s: float = 3600.0
    """Seconds that a trial may take where the experiment's deadline is not nearer."""
    budget_starts: BudgetStart = BudgetStart.CREATED
    """From when the wall time of a new experiment counts: created, or granted (from its first
    lease, as in a cluster, where that may take long). Each experiment keeps what it began with."""
    families_dir: Path | None = None
    """A folder of *.json: productions of further model families, whose modules trainers have
    (docs/decisions/registered-families.md)."""
    sampler: str = "tpe"
    """What chooses trials beyond the portfolio: tpe, with a share of random draws, or random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerServer(ServerConfig):
    """What serving the controller alone needs besides: ALLOTMENT_SERVE_<NAME>."""

    address: str = "127.0.0.1:50052"
    dataset_address: str = "127.0.0.1:50051"
    """Where the dataset service serves services."""
    exporter_address: str = "127.0.0.1:50055"
    """Where the exporter does."""

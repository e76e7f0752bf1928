"""The allocator's settings."""

import sys
from dataclasses import dataclass
from pathlib import Path

from allotment_core.rpc.alone import ServerConfig

HOST_COMMAND = (sys.executable, "-P", "-m", "allotment_trainer.host")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorConfig:
    """What `build` needs; the environment has each as ALLOTMENT_ALLOCATOR_<NAME>."""

    database_url: str
    """sqlite:////absolute/path, or postgresql://user:password@host/database (docs/databases.md)."""
    work_dir: Path | None = None
    """A folder for this service alone: trainers' own folders, which go with them. Needed, as
    `cache_dir` is, unless trainers run in a cluster.
    """
    cache_dir: Path | None = None
    """Where trainers keep data by content; they make a folder for each tenant."""
    server_address: str = "127.0.0.1:50051"
    """Where trainers reach the controller and the dataset service."""
    server_ca_file: Path | None = None
    """The authority (PEM) of that server's certificate; empty: the system's, or plaintext on
    loopback.
    """
    slots: int = 0
    """Slots of the local pool; 0: as many as this process may use cores, by threads_per_slot."""
    threads_per_slot: int = 1
    """Threads of a trainer for each of its slots."""
    memory_bytes_per_slot: int = 0
    """Memory of a trainer for each of its slots; 0: an even part of 70 % of what is usable."""
    local_tenant: str | None = "local"
    """The id of a tenant that is there from the start; empty: none."""
    lease_ttl_s: float = 60.0
    """How long a lease lasts unless it is renewed."""
    revoke_grace_s: float = 10.0
    """What a trainer has to hand in its work when its lease is taken back."""
    minimum_runtime_s: float = 5.0
    """A lease is not taken back for others before it was held for so long."""
    turn_s: float = 30.0
    """Where more experiments want slots than there are slots: how long a turn is, at least."""
    reserve_after_s: float = 15.0
    """A lease of several slots that waits longer keeps free slots for itself when it is next."""
    half_life_s: float = 600.0
    """Slot-time that was used so long ago counts half in the division."""
    trainer_idle_s: float = 30.0
    """How long a trainer without a lease is kept for the next one of its tenant."""
    idle_memory_bytes: int = 2 << 30
    """Memory that all trainers without a lease may keep together."""
    trainer_token_ttl_s: int = 7 * 24 * 3600
    """How long a trainer's token is valid; its lease and epoch end it earlier."""
    ended_lease_kept_s: float = 7 * 24 * 3600.0
    """How long a lease that has ended is shown; its usage is kept for good."""
    host_command: tuple[str, ...] = HOST_COMMAND
    """Starts the process that trainers are forked from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorServer(ServerConfig):
    """What serving the allocator alone needs besides: ALLOTMENT_SERVE_<NAME>."""

    key_file: Path
    """Signs tokens (PEM, ECDSA on P-256); made at the first start."""
    retired_key_files: tuple[str, ...] = ()
    """Public keys (PEM) of earlier key files: their tokens count until they expire."""
    address: str = "127.0.0.1:50053"

    def retired_keys(self) -> list[bytes]:
        """What the files hold."""
        return [Path(name).read_bytes() for name in self.retired_key_files]

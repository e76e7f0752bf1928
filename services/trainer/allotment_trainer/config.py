"""Settings of a trainer that runs by itself, as in a Kubernetes Job. A host's trainers get theirs
with their lease.
"""

from dataclasses import dataclass
from pathlib import Path

PREFIX = "ALLOTMENT_TRAINER_"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """Read from ALLOTMENT_TRAINER_*."""

    server: str
    """host:port of the controller, or of the gateway before it."""
    dataset: str = ""
    """host:port of the dataset service; empty: the same as `server`."""
    lease: str
    """tenants/*/leases/*"""
    epoch: int
    """The lease's, as the token is bound to."""
    token: str = ""
    """The lease's token; or"""
    token_file: Path | None = None
    """the file that has it. Read again at each call, for who renews it: a projected service-account
    token of a pod does as well.
    """
    ca: Path | None = None
    """PEM of the authority that signed the server's certificate; needed unless the server is on
    loopback or its certificate is signed by one that the system trusts. Read again when it changes.
    """
    threads: int = 1
    memory_bytes: int = 2 << 30
    """Of one trial; less where a container's limit leaves less."""
    outlives_s: float = 90.0
    """How long it works on without a word of its controller, and at least two thirds of the lease's
    time to live: what is done meanwhile is handed in when the controller is back.
    """
    grace_s: float = 25.0
    """What it takes at most to hand in its work and leave after SIGTERM; less than its pod has."""
    cache_dir: Path = Path("/var/cache/allotment")
    cache_bytes: int = 8 << 30
    work_dir: Path = Path("/tmp/allotment-trainer")
    families: tuple[str, ...] = ()
    """Modules of further model families (docs/decisions/registered-families.md)."""
    log_level: str = "INFO"

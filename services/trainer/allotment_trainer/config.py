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
    """host:port of the controller and the dataset service, or of the gateway before them."""
    lease: str
    """tenants/*/leases/*"""
    epoch: int
    """The lease's, as the token is bound to."""
    token: str = ""
    """The lease's token; or"""
    token_file: Path | None = None
    """the file that has it."""
    ca: Path | None = None
    """PEM of the authority that signed the server's certificate; needed unless the server is on
    loopback or its certificate is signed by one that the system trusts.
    """
    threads: int = 1
    memory_bytes: int = 2 << 30
    """Of one trial."""
    cache_dir: Path = Path("/var/cache/allotment")
    cache_bytes: int = 8 << 30
    work_dir: Path = Path("/tmp/allotment-trainer")
    log_level: str = "INFO"

"""A lease as its holder sees it: fenced by an epoch, dead when its server is silent too long."""

import enum
from dataclasses import dataclass
from pathlib import Path

DEFAULT_TTL_S = 60.0
PATIENCE = 2 / 3
"""Share of the time to live without an answer after which the holder stops its work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a trainer needs to know to work for a lease."""

    server: str
    """host:port of the controller."""
    dataset: str = ""
    """host:port of the dataset service; empty: that of the controller."""
    token: str
    """As it was at the start, where there is a file of it."""
    token_file: Path | None = None
    lease: str
    epoch: int
    threads: int
    memory_bytes: int
    ca: str | None = None
    outlives_s: float = 0.0
    """How long the holder goes on without an answer where that is longer than its patience."""


class Ending(enum.Enum):
    """How a session ended."""

    RELEASED = "RELEASED"
    PREEMPTED = "PREEMPTED"
    EXPIRED = "EXPIRED"
    """The server says that the lease is over or another's."""
    SILENT = "SILENT"
    """The server was silent for longer than the lease allows."""
    STOPPED = "STOPPED"
    """The trainer was asked to leave."""
    BROKEN = "BROKEN"
    """The trainer cannot run trials any more."""


class LeaseClock:
    """How long the holder may go on. All instants are by one monotonic clock, in seconds."""

    def __init__(
        self, now: float, ttl_s: float = DEFAULT_TTL_S, *, outlives_s: float = 0.0
    ) -> None:
        self._answered = now
        self._ttl_s = ttl_s
        self._outlives_s = outlives_s

    def answered(self, now: float, ttl_s: float | None = None) -> None:
        """The server sent something; `ttl_s` where it named the lease's time to live."""
        self._answered = max(self._answered, now)
        if ttl_s:
            self._ttl_s = ttl_s

    def remaining_s(self, now: float) -> float:
        """Seconds until the holder has to stop; never negative."""
        patience_s = max(PATIENCE * self._ttl_s, self._outlives_s)
        return max(0.0, self._answered + patience_s - now)

    def is_over(self, now: float) -> bool:
        return self.remaining_s(now) <= 0.0

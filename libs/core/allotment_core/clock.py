"""Time as an argument: whoever needs the time gets a Clock."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where time comes from; tests have one that they move by hand."""

    def now(self) -> datetime:
        """The instant, in UTC with its zone: for everything that is stored or shown."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back: for durations within this process."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

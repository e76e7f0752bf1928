"""A clock that tests move by hand."""

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Stands still until `advance`. Satisfies `allotment_core.clock.Clock`."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Moves both clocks forward."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

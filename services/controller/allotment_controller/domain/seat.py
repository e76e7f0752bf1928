"""Where a trainer works: one seat for each epoch of a lease, taken while its session lives."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping

from allotment_controller.domain.messages import (
    Acknowledge,
    Hello,
    LeaseView,
    Order,
    ReportKey,
    Revoke,
    RunningTrial,
)
from allotment_core.names import ExperimentName, LeaseName

log = logging.getLogger(__name__)

_OUTBOX_LIMIT = 256
REVOKE_GRACE_S = 5.0
"""What a trainer has to hand in and leave when its lease is taken back."""

SeatKey = tuple[str, int]
"""(lease, lease epoch)"""


class Line:
    """What is to be sent over one stream of a seat; ends when the seat has a newer stream."""

    def __init__(self) -> None:
        self._orders: asyncio.Queue[Order | None] = asyncio.Queue()
        self._open = True

    def send(self, order: Order) -> bool:
        """False: the trainer has not read for too long, and its stream ends."""
        if self._open and self._orders.qsize() >= _OUTBOX_LIMIT:
            self.close()
            return False
        if self._open:
            self._orders.put_nowait(order)
        return True

    def close(self) -> None:
        if self._open:
            self._open = False
            self._orders.put_nowait(None)

    async def orders(self) -> AsyncIterator[Order]:
        """Every order, until the line is closed."""
        while (order := await self._orders.get()) is not None:
            yield order


class Seat:
    """The trainer of a lease's epoch, across broken streams."""

    def __init__(self, hello: Hello, holder: ExperimentName) -> None:
        self.lease: LeaseName = hello.lease
        self.lease_epoch = hello.lease_epoch
        self.holder = holder
        self.line: Line | None = None
        self.away_since: float | None = None
        """Monotonic; None while connected."""
        self.leaving = False
        """It was told to leave: it gets no more work."""
        self.busy: RunningTrial | None = None
        """The trial that it was last given, until it is known to have let go of it."""
        self.unsure: bool = False
        """Since its last stream broke it has not said yet what it runs and what it has done."""
        self.families: frozenset[str] = frozenset()
        self.library_versions: Mapping[str, str] = {}
        self.greet(hello)

    @property
    def key(self) -> SeatKey:
        return (str(self.lease), self.lease_epoch)

    @property
    def is_free(self) -> bool:
        return self.line is not None and not (self.leaving or self.busy or self.unsure)

    def greet(self, hello: Hello) -> None:
        """Takes over what the trainer says of itself."""
        self.families = frozenset(f.family for f in hello.families if f.unavailable is None)
        self.library_versions = dict(hello.library_versions)

    def connect(self) -> Line:
        """A line for a new stream; the one before, if any, ends. It gets no work before it is known
        what the trainer has in its hands."""
        if self.line is not None:
            self.line.close()
        self.line = Line()
        self.unsure = True
        self.away_since = None
        return self.line

    def disconnect(self, line: Line, monotonic: float) -> bool:
        """The stream of this line has ended; whether it was the newest one."""
        line.close()
        if self.line is not line:
            return False
        self.line = None
        self.away_since = monotonic
        return True

    def hang_up(self) -> None:
        """Ends its stream: the next one begins with what the trainer has in its hands."""
        self.unsure = True
        if self.line is not None:
            self.line.close()

    def lease_changed(self, view: LeaseView) -> None:
        """Tells the trainer when its lease ends or is taken back."""
        if self.leaving:
            return
        if view.has_ended or view.epoch > self.lease_epoch:
            self.leaving = True
            self.send(Revoke("RELEASED" if view.state == "RELEASED" else "EXPIRED", 0.0))
        elif view.state == "REVOKING":
            self.leaving = True
            self.send(Revoke("PREEMPTED", REVOKE_GRACE_S))

    def acknowledge(self, key: ReportKey) -> None:
        """A report of an experiment that is over: it counts for nothing and is not sent again."""
        self.busy = None
        self.send(Acknowledge(key))

    def send(self, order: Order) -> None:
        """Sends it if the trainer is connected; if not, its next Hello tells what it has missed."""
        if self.line is not None and not self.line.send(order):
            log.warning("trainer not reading", extra={"lease": str(self.lease)})


class Seats:
    """Every seat that there is."""

    def __init__(self) -> None:
        self._seats: dict[SeatKey, Seat] = {}

    def take(self, hello: Hello, holder: ExperimentName) -> Seat:
        """The seat of this lease and epoch, new or known."""
        key = (str(hello.lease), hello.lease_epoch)
        seat = self._seats.get(key)
        if seat is None:
            seat = self._seats[key] = Seat(hello, holder)
        else:
            seat.greet(hello)
        return seat

    def get(self, lease: str, epoch: int) -> Seat | None:
        return self._seats.get((lease, epoch))

    def drop(self, seat: Seat) -> None:
        """Forgets a seat; its stream, if any, ends."""
        if seat.line is not None:
            seat.line.close()
        self._seats.pop(seat.key, None)

    def of(self, holder: ExperimentName) -> list[Seat]:
        return [s for s in self._seats.values() if s.holder == holder]

    def of_lease(self, lease: str) -> list[Seat]:
        return [s for s in self._seats.values() if str(s.lease) == lease]

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

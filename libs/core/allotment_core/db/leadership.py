"""Of all processes of a service, the one that may change its rows.

A process that has taken the leadership has a term, and every transaction that it writes checks in
itself that the term is still the newest one (`Backend.fence`): what a deposed leader wanted to
store is refused, however late it finds out. Times are only there so that it finds out early:

- the leader renews its row; others take it once it has run out on the database's clock, or once
  the session that renewed it has been gone for a while (the leader's process died);
- by its own monotonic clock the leader stops acting at two thirds of that time. It goes on when a
  renewal succeeds: nobody has written in between.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError, Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderTimes:
    """Seconds."""

    ttl_s: float = 9.0
    """How long a leader that can't be heard keeps the others waiting."""
    renew_s: float = 1.0
    absent_s: float = 1.6
    """The leader's session has to be gone for this long: longer than a leader takes to make a new
    one after the database's restart."""
    poll_s: float = 0.25
    """How often those who stand by look: what a leader has released is taken so soon."""

    @property
    def acting_s(self) -> float:
        return self.ttl_s * 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reign:
    """The row, as one process has just read it."""

    term: int
    """Grows at each take-over; 0: nobody has led yet."""
    holder: str
    is_over: bool
    """It has run out or was released."""
    is_absent: bool
    """The session that renewed it last is not there."""


class LeaderRow(Protocol):
    """The row. Blocks; used by one thread. Raises storage errors."""

    def read(self) -> Reign: ...

    def take(self, after: Reign) -> int | None:
        """The new term; None when somebody else was faster. What the deposed leader was about to
        store is undone.
        """
        ...

    def renew(self, term: int) -> bool:
        """False: the term is over."""
        ...

    def release(self, term: int) -> None:
        """Whoever stands by need not wait."""
        ...

    def close(self) -> None: ...


class Phase(Enum):
    STANDING_BY = "STANDING_BY"
    LEADING = "LEADING"
    LOST = "LOST"


class Leadership:
    """Stands by, leads, and loses it at most once. Its thread renews while it leads."""

    def __init__(
        self,
        row: LeaderRow,
        clock: Clock,
        times: LeaderTimes,
        *,
        has_died: Callable[[str], bool],
        on_leading: Callable[[int, Callable[[], None]], None],
        on_change: Callable[[], None],
    ) -> None:
        """`has_died`: whether a holder is known to be gone. `on_leading` is told the term before
        anything is written in it, and whom to tell when a write finds it over. `on_change` is
        called in the thread whenever one of the properties has changed.
        """
        self._row = row
        self._clock = clock
        self._times = times
        self._has_died = has_died
        self._on_leading = on_leading
        self._on_change = on_change
        self._phase = Phase.STANDING_BY
        self._acts_until_s = 0.0
        self._was_acting = False
        self._waits_until_s = 0.0
        """After an outage of the database its leader may go on, late as it is."""
        self._absent: tuple[int, float] | None = None
        """The term whose leader's session is not there, and since when."""
        self._entry = threading.Lock()
        self._ends = threading.Event()
        self.term = 0
        self.leader = ""
        """Who led when this process last looked; empty: nobody, or it isn't known yet."""
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def is_acting(self) -> bool:
        """Whether it leads as far as anybody can know."""
        return self._phase is Phase.LEADING and self._clock.monotonic() < self._acts_until_s

    def check(self) -> None:
        """Raises: Unavailable (LEADERSHIP_LOST, STANDBY) unless it leads and may act."""
        if self._phase is Phase.LOST:
            raise deposed()
        if not self.is_acting:
            raise Unavailable(
                "this process does not lead, or could not renew its leadership at the database; "
                "try again in a moment",
                reason="STANDBY",
                retry_after_s=0.5,
            )

    def lose(self) -> None:
        """Another process has taken it. May be called by any thread."""
        with self._entry:
            if self._phase is not Phase.LEADING:
                return
            self._phase = Phase.LOST
        log.error("leadership lost", extra={"term": self.term})
        self._ends.set()
        self._on_change()

    def end(self) -> None:
        """Gives it back. Nothing may be written any more. Blocks."""
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> float:
        """Looks at the row or renews it; seconds until the next step. Blocks."""
        is_well = self._stand_by() if self._phase is Phase.STANDING_BY else self._renew()
        return self._times.renew_s if is_well else self._times.poll_s

    def _run(self) -> None:
        try:
            while not self._ends.is_set():
                self._ends.wait(self.step())
            if self._phase is Phase.LEADING:
                self._release()
        except Exception:
            log.exception("leadership broke")
            self._phase = Phase.LOST
            self._on_change()
        finally:
            self._row.close()

    def _stand_by(self) -> bool:
        """Whether it leads now."""
        try:
            reign = self._row.read()
            if not self._is_free(reign):
                self._note_leader(reign.holder)
                return False
            asked_s = self._clock.monotonic()
            term = self._row.take(reign)
        except AllotmentError as e:
            self._absent = None
            self._waits_until_s = self._clock.monotonic() + self._times.absent_s
            log.warning("leadership can't be asked for", extra={"reason": e.reason})
            return False
        if term is None:
            return False
        self._acts_until_s = asked_s + self._times.acting_s
        self.term = term
        self._on_leading(term, self.lose)
        self._phase = Phase.LEADING
        log.info("leading", extra={"term": term, "before": reign.holder})
        self._was_acting = True
        self._on_change()
        return True

    def _is_free(self, reign: Reign) -> bool:
        now_s = self._clock.monotonic()
        if self._has_died(reign.holder):
            return True
        if reign.is_over:
            return now_s >= self._waits_until_s
        if not reign.is_absent or self._absent is None or self._absent[0] != reign.term:
            self._absent = (reign.term, now_s) if reign.is_absent else None
            return False
        return now_s - self._absent[1] >= self._times.absent_s

    def _note_leader(self, holder: str) -> None:
        if holder != self.leader:
            self.leader = holder
            log.info("standing by", extra={"leader": holder})
            self._on_change()

    def _renew(self) -> bool:
        """Whether it could."""
        is_renewed = False
        asked_s = self._clock.monotonic()
        try:
            if not self._row.renew(self.term):
                self.lose()
                return False
            is_renewed = True
            self._acts_until_s = asked_s + self._times.acting_s
        except AllotmentError as e:
            log.warning("leadership not renewed", extra={"reason": e.reason})
        if self.is_acting != self._was_acting:
            self._was_acting = not self._was_acting
            self._on_change()
        return is_renewed

    def _release(self) -> None:
        try:
            self._row.release(self.term)
        except AllotmentError as e:
            log.warning("leadership not released", extra={"reason": e.reason})


def deposed() -> Unavailable:
    """What every write of a leader whose term is over ends with."""
    return Unavailable(
        "another process leads this service now, and nothing was stored; repeat the request",
        reason="LEADERSHIP_LOST",
        retry_after_s=0.5,
    )

"""Whether whoever renews leases is away, and how long leases outlive their time then."""

import math


class Absence:
    """Leases are renewed by one controller, again and again. One lease that isn't renewed has lost
    its trainer; when none is, it is the controller that is gone, and trainers work on for it.

    Instants are monotonic seconds. At the start it counts as away: nothing was heard of it yet.
    """

    def __init__(self, *, ttl_s: float, spared_s: float) -> None:
        """`spared_s`: for how long leases are kept beyond their time to live; 0: not at all."""
        self._silence_s = ttl_s / 2
        """Renewals come several times within the time to live."""
        self._spared_s = spared_s
        self._heard = -math.inf
        self._back = -math.inf

    def renewed(self, now: float) -> None:
        """Some leases were renewed."""
        if self._is_away(now):
            self._back = now
        self._heard = now

    def spares_s(self, now: float) -> float:
        """How much longer than their time to live leases last now. One that has come back has a
        moment to renew them all.
        """
        if self._is_away(now) or now - self._back < self._silence_s:
            return self._spared_s
        return 0.0

    def _is_away(self, now: float) -> bool:
        return now - self._heard > self._silence_s

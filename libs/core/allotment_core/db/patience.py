"""Trying again for a bounded time."""

import random
import time

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5


class Patience:
    """Pauses that double, with jitter so that those who collided do not collide again."""

    def __init__(self, limit_s: float) -> None:
        self._ends = time.monotonic() + limit_s
        self._pause_s = FIRST_PAUSE_S

    def pause(self) -> bool:
        """Waits a while; False at once when the time is up."""
        left = self._ends - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, self._pause_s * random.uniform(0.5, 1.0)))
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        return True

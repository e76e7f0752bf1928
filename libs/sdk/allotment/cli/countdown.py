"""When the budget of a run is over."""

import time
from collections.abc import Callable
from datetime import datetime

from allotment.types import BudgetStart, Experiment


class Countdown:
    """On this machine's monotonic clock. The command's own start counts, unless the server says
    that the budget counts from the experiment's first lease: then nothing does before that.
    """

    def __init__(
        self,
        started_monotonic: float,
        budget_s: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget_s = budget_s
        self._monotonic = monotonic
        self._start_time: datetime | None = None
        self.ends: float | None = None if budget_s is None else started_monotonic + budget_s
        """None: there is no limit in time, or it does not count yet."""

    @property
    def left_s(self) -> float | None:
        return None if self.ends is None else max(0.0, self.ends - self._monotonic())

    def heard(self, experiment: Experiment) -> None:
        """The server has told of the experiment. Its clock may be another one than ours: what it
        says when the budget starts is heard a moment later, and counts from then."""
        if self._budget_s is None or experiment.budget_start is not BudgetStart.GRANTED:
            return
        if experiment.start_time is None:
            self.ends = None
        elif experiment.start_time != self._start_time:
            self.ends = self._monotonic() + self._budget_s
        self._start_time = experiment.start_time

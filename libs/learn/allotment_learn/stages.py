"""Looking at a model while it is fitted, without a trace in what the fit comes to.

A step is what the family is counted in: a boosting round, an epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from allotment_learn.forms import Fitted, Saved
from allotment_search.halving import Scale

Look = Callable[[int, int, Fitted, Saved | None], None]
"""(rung, steps done, the model so far, the fit's state): a fit whose state is None starts anew
where it is taken up, to the same model."""


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """When a fit is looked at: as soon as one n-th of its steps is done, for each n of `rungs`.

    `begun`: the state that a look was given before; the fit goes on from there, bit by bit.
    """

    scale: Scale
    rungs: tuple[int, ...]
    look: Look
    begun: Saved | None = None

    def marks(self, steps: int) -> dict[int, int]:
        """Of a fit of so many steps: after which of them it is looked at, and for which rung."""
        marks = {self.scale.step_at(rung, steps): rung for rung in self.rungs}
        marks.pop(0, None)
        return marks

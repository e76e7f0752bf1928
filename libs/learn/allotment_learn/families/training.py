"""What every family is given to fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from allotment_learn.checkpoints import Pace
from allotment_learn.stages import Stages
from allotment_learn.task import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """`target`: class indices 0 .. class_count - 1, all of them there and at least two of them; or
    numbers (class_count 0). `out_of_time` is asked by libraries that can stop in the middle."""

    matrix: Floats
    target: npt.NDArray[np.int64] | Floats
    class_count: int
    weights: Floats | None
    params: Mapping[str, str | float | int | bool]
    metric: str
    seed: int
    threads: int
    out_of_time: Callable[[], bool]
    pace: Pace | None = None
    """For families that can pause between two steps; the others fit in one go."""
    stages: Stages | None = None
    """For families that are counted in steps: who looks at the model before its end."""

    @property
    def output_count(self) -> int:
        """Raw outputs: one for two classes and for numbers, else one for each class."""
        return self.class_count if self.class_count > 2 else 1

    def stand_in(self) -> tuple[Floats, npt.NDArray[np.int64] | Floats]:
        """A few empty rows of this width with every class: what a model is fitted on that gets its
        real contents afterwards."""
        count = max(2, self.class_count)
        target = np.arange(count) if self.class_count else np.zeros(count)
        return np.zeros((count, self.matrix.shape[1])), target

    def number(self, name: str, default: float) -> float:
        return float(self.params.get(name, default))

    def integer(self, name: str, default: int) -> int:
        return int(self.params.get(name, default))

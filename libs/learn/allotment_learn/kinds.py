"""Words that tasks, splits and metrics share. Numpy alone."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class TaskKind(StrEnum):
    """What is learnt."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class SplitMethod(StrEnum):
    """How rows are divided: every row validated once, or one part held out."""

    FOLDS = "folds"
    HOLD_OUT = "hold_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSpec:
    """FOLDS: `part_count` folds. HOLD_OUT: one part of `part_count` is held out."""

    method: SplitMethod
    part_count: int
    seed: int

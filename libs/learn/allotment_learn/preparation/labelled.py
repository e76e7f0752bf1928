"""Training rows with what they teach: what components that look at the target are fitted on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from allotment_learn.features import Features
from allotment_learn.task import Floats, Integers

INNER_PARTS = 5
OUTPUT_LIMIT = 20
"""Classes that target encoding has a column for; the most frequent ones of more."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """`outputs` [rows, outputs]: what is averaged by category; `parts`: each row's inner part, 0 to
    INNER_PARTS - 1, so that no row's code depends on its own target."""

    features: Features
    outputs: Floats
    weights: Floats
    parts: Integers
    seed: int

    @classmethod
    def of(
        cls,
        features: Features,
        target: npt.NDArray[np.int64] | Floats,
        *,
        class_count: int,
        weights: Floats | None = None,
        groups: Integers | None = None,
        seed: int = 0,
    ) -> "Labelled":
        """`target`: class indices, or numbers (class_count 0). Rows of a group share a part."""
        rows = features.row_count
        rng = np.random.default_rng([seed, rows])
        if groups is None:
            parts = rng.permutation(rows) % INNER_PARTS
        else:
            names, of_row = np.unique(groups, return_inverse=True)
            parts = (rng.permutation(len(names)) % INNER_PARTS)[of_row]
        return cls(
            features,
            _outputs(target, class_count),
            np.ones(rows) if weights is None else weights,
            parts.astype(np.int64),
            seed,
        )


def _outputs(target: npt.NDArray[np.int64] | Floats, class_count: int) -> Floats:
    """Numbers as they are; shares of all classes but the most frequent one (of two: the first)."""
    if not class_count:
        return np.asarray(target, dtype=np.float64)[:, None]
    classes = np.array([1])
    if class_count != 2:
        counts = np.bincount(target.astype(np.int64), minlength=class_count)
        classes = np.sort(np.argsort(-counts, kind="stable")[1 : OUTPUT_LIMIT + 1])
    return np.asarray(target[:, None] == classes, dtype=np.float64)

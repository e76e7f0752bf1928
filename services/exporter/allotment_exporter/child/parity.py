"""The gate: the artefact predicts what its source predicted, on every row of the reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from allotment_core.errors import clip
from allotment_exporter.child.references import Reference, spread
from allotment_exporter.domain.exports import OffendingRow, ParityReport, Task

MAX_OFFENDING_ROWS = 10
MAX_CELLS = 100
SINGLE_ROWS = 32
"""Rows that are run alone as well: a batch of one is what a service sends."""

Floats = npt.NDArray[np.float64]


class BadAnswer(Exception):
    """The graph answers in another form than its signature promises."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the artefact gave: values [N, C] or [N, 1], and for classes their labels [N]."""

    values: Floats
    labels: npt.NDArray[Any] | None


class Artefact:
    """A session of onnxruntime with the outputs of one task."""

    def __init__(self, session: Any, task: Task, classes: tuple[str, ...]) -> None:
        self._session = session
        self._task = task
        self._classes = classes

    def answer(self, inputs: Mapping[str, npt.NDArray[Any]], row_count: int) -> Answer:
        """Runs one batch. Raises: BadAnswer."""
        if self._task is Task.REGRESSION:
            (values,) = self._session.run(["prediction"], dict(inputs))
            _check_form("prediction", values, (row_count, 1), "f")
            return Answer(values, None)
        labels, values = self._session.run(["label", "probabilities"], dict(inputs))
        _check_form("label", labels, (row_count,), "OU")
        _check_form("probabilities", values, (row_count, len(self._classes)), "f")
        return Answer(values, labels)


def _check_form(name: str, values: npt.NDArray[Any], shape: tuple[int, ...], kinds: str) -> None:
    if values.shape != shape or values.dtype.kind not in kinds:
        raise BadAnswer(
            f"output '{name}' is {values.dtype} {list(values.shape)} for {shape[0]} rows, "
            f"it has to have the shape {list(shape)}"
        )


def compare(
    artefact: Artefact, reference: Reference, classes: tuple[str, ...], tolerance: float
) -> ParityReport:
    """Runs the reference in one batch, some rows alone, and no row at all. Raises: BadAnswer."""
    count = reference.row_count
    answer = artefact.answer(reference.inputs, count)
    differences = _differences(answer, reference.expected, classes, tolerance)
    values = np.array(answer.values)
    for row in spread(reference.kinds, SINGLE_ROWS):
        alone = slice(row, row + 1)
        one = artefact.answer({name: a[alone] for name, a in reference.inputs.items()}, 1)
        difference = _differences(one, reference.expected[alone], classes, tolerance)[0]
        if difference > differences[row]:
            differences[row] = difference
            values[row] = one.values[0]
    artefact.answer({name: a[:0] for name, a in reference.inputs.items()}, 0)
    return _report(reference, values, differences, tolerance)


def _differences(
    answer: Answer, expected: Floats, classes: tuple[str, ...], tolerance: float
) -> Floats:
    """The largest relative difference of each row; infinite where only one side is a number,
    or where the label is not the most probable class."""
    actual = answer.values.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        raw = np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))
    equal = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    raw = np.where(equal, 0.0, np.where(np.isnan(raw), np.inf, raw))
    worst: Floats = raw.max(axis=1, initial=0.0)
    if answer.labels is not None and len(expected):
        place = {name: index for index, name in enumerate(classes)}
        chosen = np.array([place.get(str(label), -1) for label in answer.labels])
        best = expected.max(axis=1)
        given = np.where(
            chosen >= 0, expected[np.arange(len(expected)), np.maximum(chosen, 0)], -np.inf
        )
        # Each of the two may be off by the tolerance.
        worst = np.where(best - given > 2 * tolerance, np.inf, worst)
    return worst


def _report(
    reference: Reference, values: Floats, differences: Floats, tolerance: float
) -> ParityReport:
    offending = np.flatnonzero(~(differences <= tolerance))
    order = offending[np.argsort(-differences[offending], kind="stable")][:MAX_OFFENDING_ROWS]
    kinds, counts = np.unique(reference.kinds, return_counts=True)
    return ParityReport(
        row_count=reference.row_count,
        offending_row_count=len(offending),
        worst_difference=float(differences.max(initial=0.0)),
        tolerance=tolerance,
        offending_rows=tuple(
            OffendingRow(
                row=int(row),
                kind=str(reference.kinds[row]),
                cells={
                    clip(name): clip(column[row, 0])
                    for name, column in list(reference.inputs.items())[:MAX_CELLS]
                },
                expected=tuple(float(value) for value in reference.expected[row]),
                actual=tuple(float(value) for value in values[row]),
            )
            for row in order
        ),
        rows_by_kind={str(kind): int(count) for kind, count in zip(kinds, counts, strict=True)},
    )

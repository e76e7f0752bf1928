"""The metrics of an artefact on labelled rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allotment.cells import RowFile
from allotment.predict import OnWarning, Predictor, batches, column_places
from allotment_core.errors import FailedPrecondition, InvalidArgument, clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """`metrics` holds every metric of the task that is defined for the rows."""

    task: str
    target: str
    row_count: int
    skipped_row_count: int
    """Rows without a label, or with one that the model does not know."""
    metrics: Mapping[str, float]


def evaluate_file(
    model: Path, rows_path: Path, *, on_warning: OnWarning | None = None
) -> Evaluation:
    """Raises: InvalidArgument (MISSING_COLUMNS, NO_LABELS, ...), FailedPrecondition
    (RUNTIME_MISSING).
    """
    metrics, np = _metrics()
    predictor = Predictor(model)
    rows = RowFile(rows_path)
    target = predictor.signature.target
    columns = [name for name in predictor.columns if name != target]
    places = column_places([*columns, target], rows.header)
    truth: list[float] = []
    kept: list[Any] = []
    unknown: dict[str, int] = {}
    skipped = 0
    for cells in batches(rows, places):
        labels = [_label(predictor, cell) for cell in cells[target]]
        known = [at for at, label in enumerate(labels) if label is not None]
        for cell, label in zip(cells[target], labels, strict=True):
            if label is None and cell.strip():
                unknown[cell] = unknown.get(cell, 0) + 1
        kept.append(predictor.predict(cells)[known])
        truth.extend(label for label in labels if label is not None)
        skipped += len(labels) - len(known)
    if not truth:
        raise InvalidArgument(
            f"no row of {rows_path} has a label in {clip(target)!r} that the model knows",
            reason="NO_LABELS",
        )
    if unknown and on_warning:
        first = next(iter(unknown))
        on_warning(
            f"{sum(unknown.values())} rows have labels that the model does not know, such as "
            f"{clip(first)!r}; they are left out"
        )
    return Evaluation(
        task=predictor.signature.task,
        target=target,
        row_count=len(truth),
        skipped_row_count=skipped,
        metrics=_scores(metrics, np, predictor, truth, np.concatenate(kept)),
    )


def _metrics() -> tuple[Any, Any]:
    try:
        import numpy  # noqa: PLC0415 - not part of the base install

        from allotment_learn import metrics  # noqa: PLC0415 - needs numpy
    except ImportError as e:
        raise FailedPrecondition(
            f"evaluating needs {e.name}; pip install 'allotment[trainer]'", reason="RUNTIME_MISSING"
        ) from e
    return metrics, numpy


def _label(predictor: Predictor, cell: str) -> float | None:
    """The class's index, or the target's value; None where there is no label."""
    signature = predictor.signature
    if signature.regression:
        value = signature.rules.number(cell)
        return None if value is None or value != value else value
    return class_index(signature.classes, cell)


def class_index(classes: Sequence[str], cell: str) -> int | None:
    """The class that a cell spells; "1.0" spells the class "1" where nothing is closer."""
    for spelling in (cell, cell.strip()):
        if spelling in classes:
            return classes.index(spelling)
    try:
        value = float(cell)
        return [float(label) for label in classes].index(value)
    except ValueError:
        return None


def _scores(
    metrics: Any, np: Any, predictor: Predictor, truth: Sequence[float], predictions: Any
) -> dict[str, float]:
    task = metrics.TaskKind(predictor.signature.task)
    if predictor.signature.regression:
        values = np.array(truth, dtype=np.float64)
        positive = 1
    else:
        values = np.array(truth, dtype=np.int64)
        positive = metrics.rarer_class(values)
    scores: dict[str, float] = metrics.all_scores(task, values, predictions, None, positive)
    return scores

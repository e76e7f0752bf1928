"""Other forms of a proven artefact: built, run and measured beside it."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from allotment_exporter.child.graphs import clean
from allotment_exporter.child.int8 import quantised
from allotment_exporter.child.measure import measure
from allotment_exporter.child.parity import Answer, Artefact
from allotment_exporter.child.references import Reference
from allotment_exporter.domain.builds import BuildJob, Candidate, Change
from allotment_exporter.domain.exports import Precision, Task

_LEAST_PROBABILITY = 1e-15


def int8_candidate(
    content: bytes,
    exact: Artefact,
    reference: Reference,
    job: BuildJob,
    session: Callable[[bytes], Any],
) -> Candidate | None:
    """Writes the artefact with products in eight bits to `job.candidate`. None: it has no product
    that is worth it, or does not answer with numbers on every row."""
    model = onnx.load_model_from_string(content)
    version = model.producer_version
    made = quantised(model)
    if made is None:
        return None
    clean(made, version)
    written = made.SerializeToString(deterministic=True)
    artefact = Artefact(session(written), job.task, job.classes)
    count = reference.row_count
    artefact.answer({name: cells[:0] for name, cells in reference.inputs.items()}, 0)
    before, after = exact.answer(reference.inputs, count), artefact.answer(reference.inputs, count)
    if not np.isfinite(after.values).all():
        return None
    job.candidate.write_bytes(written)
    return Candidate(
        precision=Precision.INT8,
        artefact_sha256=hashlib.sha256(written).hexdigest(),
        measurement=measure(artefact, reference.inputs, len(written), job.limits.measure_s),
        change=_change(before, after, reference.kinds == "VALIDATION", job.task),
    )


def _change(before: Answer, after: Answer, chosen: np.ndarray, task: Task) -> Change:
    exact = before.values[chosen].astype(np.float64, copy=False)
    other = after.values[chosen].astype(np.float64, copy=False)
    rows = len(exact)
    if not rows or task is Task.REGRESSION:
        distance = float(np.sqrt(np.mean((other - exact) ** 2))) if rows else float("inf")
        return Change(row_count=rows, labels_changed=0.0, distance=distance)
    logs = np.log(np.maximum(exact, _LEAST_PROBABILITY))
    others = np.log(np.maximum(other, _LEAST_PROBABILITY))
    divergence = (exact * (logs - others)).sum(axis=1)
    # Of a row's loss: over the rows, and over the label that each of them might have.
    mean = (exact * -logs).sum(axis=1).mean()
    return Change(
        row_count=rows,
        labels_changed=float((exact.argmax(axis=1) != other.argmax(axis=1)).mean()),
        divergence=float(divergence.mean()),
        divergence_deviation=float(divergence.std()),
        loss_deviation=float(np.sqrt((exact * (-logs - mean) ** 2).sum(axis=1).mean())),
    )

"""What an artefact costs on one thread."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from allotment_exporter.child.parity import Artefact
from allotment_exporter.domain.exports import Measurement

BATCH_ROWS = 1_000
_FEWEST_RUNS = 5
_MOST_RUNS = 2_000


def measure(
    artefact: Artefact,
    inputs: Mapping[str, npt.NDArray[Any]],
    size_bytes: int,
    budget_s: float,
) -> Measurement:
    """Half of the budget for single rows, half for batches; each runs at least once."""
    row_count = len(next(iter(inputs.values())))
    places = np.arange(BATCH_ROWS) % row_count
    batch = {name: column[places] for name, column in inputs.items()}
    one = {name: column[:1] for name, column in inputs.items()}
    single = _durations(lambda: artefact.answer(one, 1), budget_s / 2, _FEWEST_RUNS)
    batches = _durations(lambda: artefact.answer(batch, BATCH_ROWS), budget_s / 2, 1)
    return Measurement(
        size_bytes=size_bytes,
        latency_p50_ms=float(np.percentile(single, 50)) * 1e3,
        latency_p95_ms=float(np.percentile(single, 95)) * 1e3,
        rows_per_s=BATCH_ROWS / float(np.median(batches)),
    )


def _durations(run: Callable[[], object], budget_s: float, fewest: int) -> list[float]:
    run()
    durations: list[float] = []
    begin = time.perf_counter()
    while len(durations) < _MOST_RUNS:
        before = time.perf_counter()
        run()
        now = time.perf_counter()
        durations.append(max(now - before, 1e-9))
        if now - begin > budget_s and len(durations) >= fewest:
            break
    return durations

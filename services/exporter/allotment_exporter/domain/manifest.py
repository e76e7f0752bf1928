"""The manifest: what an artefact is, where it comes from, and what was proven of it.

docs/manifest.md describes the fields. The same facts give the same bytes.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from allotment_exporter.domain.builds import Built
from allotment_exporter.domain.candidates import judge
from allotment_exporter.domain.exports import (
    Export,
    Measurement,
    ModelSource,
    ParityReport,
    Precision,
)

FORMAT_VERSION = 1
MINIMUM_RUNTIME = "1.23"
"""The oldest onnxruntime that artefacts are for."""
_Z95 = 1.959963984540054


def write_manifest(
    export: Export, built: Built, now: datetime, exact: Measurement | None = None
) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8, a line end. `exact`: of the exact artefact,
    where another one was chosen."""
    source = export.source
    document = {
        "format_version": FORMAT_VERSION,
        "name": str(export.name),
        "create_time": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "files": {
            "model.onnx": {
                "sha256": built.artefact_sha256,
                "size_bytes": built.measurement.size_bytes,
            }
        },
        "signature": built.signature,
        "task": source.task.value,
        "target": source.target,
        "classes": list(source.classes),
        "runtime": {
            "onnxruntime_minimum": MINIMUM_RUNTIME,
            "ir_version": built.ir_version,
            "opsets": dict(built.opsets),
        },
        "metric": {
            "name": source.metric,
            "score": source.score,
            "interval_95": interval_95(source),
            "validation_rows": source.validation_row_count,
        },
        "metrics": dict(source.metrics),
        "calibration": None
        if source.calibration is None
        else {"method": "temperature", **asdict(source.calibration)},
        "parity": _parity(built.parity),
        "measurement": _measurement(built.measurement),
        "candidates": _candidates(source, built, exact or built.measurement),
        "dataset_version": source.dataset_version,
        "lineage": {
            "model": source.model,
            "experiment": source.model.rsplit("/", 2)[0],
            "trials": list(source.trials),
            "family": source.family,
            "members": [asdict(member) for member in source.parts],
            "graph_sha256": source.graph_sha256 or None,
            "reference_sha256": source.reference_sha256 or None,
            "seed": source.seed,
        },
        "license": None,
        "library_versions": {
            "training": dict(source.library_versions),
            "export": dict(built.library_versions),
        },
    }
    text = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def interval_95(source: ModelSource) -> list[float] | None:
    """Wilson's score interval of a proportion (accuracy); None where rows alone can't give one.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    count = source.validation_row_count
    if source.metric != "accuracy" or count <= 0 or not 0 <= source.score <= 1:
        return None
    share = source.score
    scale = 1 + _Z95**2 / count
    centre = (share + _Z95**2 / (2 * count)) / scale
    spread = math.sqrt(share * (1 - share) / count + _Z95**2 / (4 * count**2)) * _Z95 / scale
    return [_rounded(max(0.0, centre - spread)), _rounded(min(1.0, centre + spread))]


def _parity(parity: ParityReport) -> Mapping[str, object]:
    return {
        "rows": parity.row_count,
        "rows_by_kind": dict(parity.rows_by_kind),
        "offending_rows": parity.offending_row_count,
        "worst_difference": parity.worst_difference,
        "tolerance": parity.tolerance,
    }


def _measurement(measured: Measurement) -> Mapping[str, object]:
    return {
        "size_bytes": measured.size_bytes,
        "latency_p50_ms": _rounded(measured.latency_p50_ms),
        "latency_p95_ms": _rounded(measured.latency_p95_ms),
        "rows_per_s": _rounded(measured.rows_per_s),
        "threads": 1,
    }


def _candidates(
    source: ModelSource, built: Built, exact: Measurement
) -> list[Mapping[str, object]]:
    """The forms that were measured against each other; empty where there was the one alone."""
    candidate = built.candidate
    if candidate is None:
        return []
    verdict = judge(source, candidate)
    plain = {
        "precision": Precision.EXACT.value,
        "chosen": not verdict.is_within,
        "measurement": _measurement(exact),
    }
    other = {
        "precision": candidate.precision.value,
        "chosen": verdict.is_within,
        "measurement": _measurement(candidate.measurement),
        "metric_loss_at_most": _rounded(verdict.loss),
        "metric_loss_allowed": _rounded(verdict.allowed),
        "judged_by": verdict.metric,
        "labels_changed": _rounded(candidate.change.labels_changed),
        "rows": candidate.change.row_count,
    }
    return [plain, other]


def _rounded(value: float) -> float:
    """Six significant digits: more would be noise."""
    return float(f"{value:.6g}")

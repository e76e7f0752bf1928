"""Whether a model source can be exported at all: checked before anything is queued."""

import math
import re
from collections.abc import Callable

from allotment_core.errors import FieldViolation, InvalidArgument, clip
from allotment_core.names import ModelName, TenantName, TrialName, VersionName
from allotment_exporter.domain.exports import Member, ModelSource, Task

MAX_CLASSES = 10_000
MAX_TRIALS = 1_000
MAX_MEMBERS = 64
TEMPERATURES = (0.01, 100.0)
MAX_TEXT_BYTES = 1 << 20
"""Of all texts of a source together: an export has to fit into a message."""
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def check_source(source: ModelSource, tenant: TenantName) -> None:
    """Raises InvalidArgument with every violation at once."""
    violations = [
        FieldViolation(f"source.{field}", description)
        for field, description in (
            *_names(source, tenant),
            *_digests(source),
            *_classes(source),
            *_figures(source),
            *_members(source),
        )
    ]
    if violations:
        first = violations[0]
        raise InvalidArgument(
            f"{first.field}: {first.description}", reason="BAD_SOURCE", violations=tuple(violations)
        )


def _names(source: ModelSource, tenant: TenantName) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def check(field: str, text: str, parse: Callable[[str], object]) -> None:
        try:
            name = parse(text)
        except InvalidArgument as error:
            found.append((field, error.message))
            return
        if getattr(name, "tenant", None) != tenant:
            found.append((field, f"'{clip(text)}' is not a resource of {tenant}"))

    check("model", source.model, ModelName.parse)
    check("dataset_version", source.dataset_version, VersionName.parse)
    if len(source.trials) > MAX_TRIALS:
        found.append(("trials", f"{len(source.trials)} trials, at most {MAX_TRIALS} are allowed"))
        return found
    for index, trial in enumerate(source.trials):
        check(f"trials[{index}]", trial, TrialName.parse)
    for index, member in enumerate(source.members[:MAX_MEMBERS]):
        check(f"members[{index}].trial", member.trial, TrialName.parse)
    return found


def _digests(source: ModelSource) -> list[tuple[str, str]]:
    return [
        (field, f"'{clip(text)}' is not a sha256 of 64 lower-case hex digits")
        for prefix, member in _placed(source)
        for field, text in (
            (f"{prefix}graph_sha256", member.graph_sha256),
            (f"{prefix}reference_sha256", member.reference_sha256),
        )
        if not _SHA256.match(text)
    ]


def _placed(source: ModelSource) -> list[tuple[str, Member]]:
    """What stands before the fields of each member, and the member."""
    if not source.members:
        return [("", source.parts[0])]
    return [(f"members[{index}].", m) for index, m in enumerate(source.members[:MAX_MEMBERS])]


def _members(source: ModelSource) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if len(source.members) > MAX_MEMBERS:
        found.append(("members", f"{len(source.members)} members, at most {MAX_MEMBERS} fit"))
    weights = [member.weight for member in source.members]
    if weights and not (min(weights) > 0 and abs(math.fsum(weights) - 1) <= 1e-9):
        found.append(("members", "the weights have to be above 0 and to sum to 1"))
    calibration = source.calibration
    if calibration is None:
        return found
    low, high = TEMPERATURES
    if not low <= calibration.temperature <= high:
        found.append(
            ("calibration.temperature", f"{calibration.temperature} is not in {low:g} to {high:g}")
        )
    if source.task is Task.REGRESSION:
        found.append(("calibration", "a regression has no probabilities to calibrate"))
    if not (math.isfinite(calibration.ece_before) and math.isfinite(calibration.ece_after)):
        found.append(("calibration", "its errors have to be finite numbers"))
    return found


def _classes(source: ModelSource) -> list[tuple[str, str]]:
    count = len(source.classes)
    if source.task is Task.REGRESSION:
        return [("classes", f"{count} classes, but a regression has none")] if count else []
    if count > MAX_CLASSES:
        return [("classes", f"{count} classes, at most {MAX_CLASSES} are allowed")]
    if count < 2 or (source.task is Task.BINARY and count != 2):
        wanted = "exactly 2" if source.task is Task.BINARY else "at least 2"
        return [("classes", f"{count} classes, a {source.task.value} task has {wanted}")]
    if len(set(source.classes)) != count:
        return [("classes", "a class is named twice")]
    return []


def _figures(source: ModelSource) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if not math.isfinite(source.score):
        found.append(("score", f"{source.score} is not a finite number"))
    found.extend(
        (f"metrics[{clip(name)}]", f"{value} is not a finite number")
        for name, value in source.metrics.items()
        if not math.isfinite(value)
    )
    if source.validation_row_count < 0:
        found.append(("validation_row_count", f"{source.validation_row_count} is negative"))
    if not source.target:
        found.append(("target", "empty; the name of the learnt column is needed"))
    size = sum(
        len(text.encode())
        for text in (
            source.target,
            source.family,
            source.metric,
            *source.classes,
            *source.metrics,
            *source.library_versions,
            *source.library_versions.values(),
        )
    )
    if size > MAX_TEXT_BYTES:
        found.append(("classes", f"{size} bytes of text in all, at most {MAX_TEXT_BYTES} fit"))
    return found

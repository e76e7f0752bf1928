"""Whether another form of an artefact costs less of the metric than is known of it anyway.

The exporter has no labels: the loss is bounded from how the answers change on validation rows, pair
by pair, and compared with half the width of the metric's 95 % interval.
"""

import math
from dataclasses import dataclass

from allotment_exporter.domain.builds import Candidate
from allotment_exporter.domain.exports import ModelSource, Task

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`metric` may lose at most `loss`, which has to be within `allowed`."""

    metric: str
    loss: float
    allowed: float

    @property
    def is_within(self) -> bool:
        return self.loss <= self.allowed


def judge(source: ModelSource, candidate: Candidate) -> Verdict:
    """By accuracy where labels are what is scored, by log loss for the other metrics of classes, by
    the root mean square error in regression."""
    change, known = candidate.change, max(1, source.validation_row_count)
    rows = max(1, change.row_count)
    if source.task is Task.REGRESSION:
        error = source.metrics.get("rmse", source.score if source.metric == "rmse" else 0.0)
        # The change is not related to the error but by chance, whose size is its standard error.
        loss = math.hypot(error, change.distance) - error + _Z95 * change.distance / math.sqrt(rows)
        return Verdict(metric="rmse", loss=loss, allowed=_Z95 * error / math.sqrt(2 * known))
    if source.metric in ("accuracy", "f1"):
        share = source.metrics.get("accuracy", source.score)
        return Verdict(
            metric="accuracy",
            loss=_upper(change.labels_changed, rows),
            allowed=_Z95 * math.sqrt(max(0.0, share * (1 - share)) / known),
        )
    loss = change.divergence + _Z95 * change.divergence_deviation / math.sqrt(rows)
    return Verdict(
        metric="log_loss", loss=loss, allowed=_Z95 * change.loss_deviation / math.sqrt(known)
    )


def _upper(share: float, count: int) -> float:
    """The upper end of Wilson's interval of a proportion."""
    square = _Z95**2 / count
    spread = math.sqrt(share * (1 - share) / count + square / (4 * count)) * _Z95
    return (share + square / 2 + spread) / (1 + square)

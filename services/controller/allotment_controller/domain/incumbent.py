"""Which model comes next, and which one is the best: pure functions of an edit."""

from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.model import Model
from allotment_controller.domain.trial import Trial


def next_model(edit: Edit) -> Trial | None:
    """The best trial that would improve on every model that is ready or being exported."""
    metric = edit.experiment.plan.spec.metric
    rivals = [metric.loss(m.score) for m in edit.exporting_models()]
    if edit.experiment.best_score is not None:
        rivals.append(metric.loss(edit.experiment.best_score))
    bar = min(rivals, default=None)
    better = [(loss, n) for n, loss in edit.contenders() if bar is None or loss < bar]
    return edit.trial(min(better)[1]) if better else None


def improves(edit: Edit, model: Model) -> bool:
    """Whether a model that has become ready is the best one now."""
    best = edit.experiment.best_score
    metric = edit.experiment.plan.spec.metric
    return best is None or metric.loss(model.score) < metric.loss(best)

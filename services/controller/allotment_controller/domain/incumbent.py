"""Which model comes next, and which one is the best: pure functions of an edit."""

from allotment_controller.domain.experiment import ExperimentState
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.model import Member, Model, ModelState, Recipe
from allotment_controller.domain.refitting import refit_recipe

_REST = 3.0
"""While trials are trained: after an ensemble's export exports rest that many times as long."""


def next_model(edit: Edit) -> Recipe | None:
    """What would improve most on every model that is ready or being exported.

    While an ensemble is about to be computed the rest waits for it, once there is a model.
    """
    refit = edit.experiment.plan.refit
    if refit is not None:
        return refit_recipe(edit, refit)
    exporting = edit.exporting_models()
    if edit.mix_is_due and (edit.experiment.best_model or exporting):
        return None
    metric = edit.experiment.plan.spec.metric
    rivals = [metric.loss(m.score) for m in exporting]
    if edit.experiment.best_score is not None:
        rivals.append(metric.loss(edit.experiment.best_score))
    bar = min(rivals, default=float("inf"))
    recipe = edit.ledger.mix.recipe
    better = min(((loss, n) for n, loss in edit.contenders() if loss < bar), default=None)
    if recipe is not None and not _rests(edit):
        loss = metric.loss(recipe.score)
        if loss < bar and (better is None or loss <= better[0]):
            return recipe
    trial = None if better is None else edit.trial(better[1])
    if trial is None or trial.result is None:
        return None
    return Recipe(members=(Member(trial.number),), score=trial.result.score)


def _rests(edit: Edit) -> bool:
    """Exports of ensembles leave most of the time to trials."""
    last = edit.last_ensemble()
    if edit.experiment.state is not ExperimentState.RUNNING or last is None:
        return False
    if last.state is ModelState.EXPORTING:
        return True
    if last.ready_time is None:
        return False
    return edit.now - last.ready_time < _REST * (last.ready_time - last.create_time)


def improves(edit: Edit, model: Model) -> bool:
    """Whether a model that has become ready is the best one now."""
    best = edit.experiment.best_score
    metric = edit.experiment.plan.spec.metric
    return best is None or metric.loss(model.score) < metric.loss(best)

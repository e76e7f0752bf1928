"""One fold: preparation and model fitted on its training rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from allotment_core.errors import InvalidArgument, clip
from allotment_learn.families import constant, light
from allotment_learn.families.offered import fitter, restorer, takes_missing
from allotment_learn.families.training import Training
from allotment_learn.features import Features
from allotment_learn.forms import Fitted, Saved
from allotment_learn.preparation import (
    Labelled,
    NativeNumbers,
    Preparation,
    Prepared,
    fit_preparation,
)
from allotment_learn.splits import group_numbers
from allotment_learn.stages import Stages
from allotment_learn.task import Floats, Integers, TaskKind, TrialTask
from allotment_search.halving import SCALES
from allotment_search.pipeline import Component


def library_errors() -> tuple[type[Exception], ...]:
    """What libraries that are loaded raise for rows or parameters that they do not take."""
    return (ValueError, ArithmeticError, np.linalg.LinAlgError, *light.errors())


@dataclass(frozen=True, slots=True)
class LogTarget:
    """The model learns log(1 + target); its outputs are cut to `low` .. `high` before they are
    undone."""

    low: float
    high: float

    @classmethod
    def fit(cls, target: Floats) -> "LogTarget":
        """Raises: InvalidArgument when a value is -1 or less."""
        if not target.min() > -1:
            raise InvalidArgument(
                f"log1p needs targets above -1, there is {target.min()}; use identity",
                reason="TARGET_RANGE",
            )
        learnt = np.log1p(target)
        return cls(float(learnt.min()) - 1.0, float(learnt.max()) + 1.0)

    def undo(self, outputs: Floats) -> Floats:
        return np.asarray(np.exp(np.clip(outputs, self.low, self.high)) - 1.0, dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class FoldModel:
    """`present`: the classes that training rows had; the others get probability 0."""

    preparation: Preparation
    fitted: Fitted
    class_count: int
    present: tuple[int, ...]
    log_target: LogTarget | None

    def predict(self, features: Features) -> Floats:
        """By the source library: float64 [rows, classes], or [rows, 1]."""
        if not features.row_count:
            return np.empty((0, self.class_count or 1))
        found = self.fitted.predict(self.preparation.transform(features))
        if self.log_target is not None:
            return self.log_target.undo(found)
        if not self.class_count or len(self.present) == self.class_count:
            return found
        placed = np.zeros((features.row_count, self.class_count))
        placed[:, list(self.present)] = found
        return placed


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """Who looks at a fold's model while it is fitted, as `Stages` say; `begun`: the state that the
    fit goes on from."""

    rungs: tuple[int, ...]
    look: Callable[[int, int, FoldModel, Saved | None], None]
    begun: Saved | None = None

    def stages(self, family: str, whole: Callable[[Fitted], FoldModel]) -> Stages | None:
        """None: the family's fits are not counted in steps."""
        scale = SCALES.get(family)
        if scale is None:
            return None

        def look(rung: int, done: int, fitted: Fitted, state: Saved | None) -> None:
            self.look(rung, done, whole(fitted), state)

        return Stages(scale, self.rungs, look, self.begun)


def fit_fold(
    task: TrialTask,
    features: Features,
    rows: Integers,
    out_of_time: Callable[[], bool],
    saved: Saved | None = None,
    looks: Looks | None = None,
) -> FoldModel:
    """Fits on the given rows of the task. `saved`: what the model was that was fitted on them
    before; then only the preparation, which is cheap and has no choice, is fitted again.

    Raises:
        InvalidArgument: unknown or unfit components.
        FamilyUnavailable, DeadlineReached, or one of `library_errors`.
    """
    pipeline = task.pipeline
    fit = fitter(pipeline.family)
    train = features.take(rows)
    target: npt.NDArray[np.int64] | Floats = task.target[rows]
    weights = None if task.weights is None else task.weights[rows]
    log_target = _log_target(task, target)
    present: tuple[int, ...] = ()
    class_count = 0
    if task.task is not TaskKind.REGRESSION:
        there, target = np.unique(target, return_inverse=True)
        present, class_count = tuple(int(index) for index in there), len(there)
    elif log_target is not None:
        target = np.log1p(target)
    groups = None if task.groups is None else group_numbers(task.groups)[rows]
    labelled = Labelled.of(
        train,
        target,
        class_count=class_count,
        weights=weights,
        groups=groups,
        seed=task.seed,
    )
    prepared = _prepare(task, labelled)
    preparation = prepared.preparation

    def whole(fitted: Fitted) -> FoldModel:
        return FoldModel(preparation, fitted, len(task.classes), present, log_target)

    training = Training(
        matrix=prepared.matrix,
        target=target,
        class_count=class_count,
        weights=weights,
        params=_component(task, "model", pipeline.family).params,
        metric=task.metric,
        seed=task.seed,
        threads=task.threads,
        out_of_time=out_of_time,
        stages=None if looks is None else looks.stages(pipeline.family, whole),
    )
    if class_count == 1:
        fitted = constant.always(np.ones(1))
    elif preparation.width == 0:
        fitted = constant.fit(training)
    elif saved is not None and (restore := restorer(pipeline.family)) is not None:
        fitted = restore(training, saved)
    else:
        fitted = fit(training)
    return whole(fitted)


def _component(task: TrialTask, slot: str, default: str) -> Component:
    return task.pipeline.components.get(slot, Component(default, {}))


def reads_dates(task: TrialTask) -> bool:
    """Whether date columns become features. Raises: InvalidArgument for an unknown component."""
    name = _component(task, "date", "drop").name
    if name not in ("parts", "cyclic", "drop"):
        raise InvalidArgument(
            f"there is no date component '{clip(name)}'", reason="NO_SUCH_COMPONENT"
        )
    return name != "drop" and task.pipeline.family != "constant"


def _prepare(task: TrialTask, labelled: Labelled) -> Prepared:
    family = task.pipeline.family
    if family == "constant":
        nothing = NativeNumbers(np.empty(0, dtype=np.int64))
        return Prepared(Preparation(nothing), np.empty((labelled.features.row_count, 0)))
    components = dict(task.pipeline.components)
    # Dates alone may be the only numbers of a table: then the grammar gives no numeric component.
    default = "native" if takes_missing(family) else "impute"
    scale = {"scale": "standard"} if family in ("linear", "mlp") else {}
    numeric = components.setdefault("numeric", Component(default, scale))
    if numeric.name == "native" and not takes_missing(family):
        raise InvalidArgument(
            f"{family} does not take missing values: its numeric component has to be impute",
            reason="BAD_PIPELINE",
        )
    return fit_preparation(components, labelled)


def _log_target(task: TrialTask, target: npt.NDArray[np.int64] | Floats) -> LogTarget | None:
    name = _component(task, "target", "identity").name
    if name == "identity":
        return None
    if name != "log1p" or task.task is not TaskKind.REGRESSION:
        raise InvalidArgument(
            f"there is no target component '{clip(name)}' for {task.task.value}",
            reason="NO_SUCH_COMPONENT",
        )
    return LogTarget.fit(target.astype(np.float64))

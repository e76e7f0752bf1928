"""An experiment with all its trials and models as of a revision, and one change of it.

The conductor of an experiment holds its ledger in memory; the store holds the same rows. A change
is built as an `Edit`, committed by the store in one transaction that compares the revision, and
then absorbed.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from allotment_controller.domain.experiment import Experiment
from allotment_controller.domain.model import Model, ModelState
from allotment_controller.domain.trial import Trial, TrialState
from allotment_search import History

_TIMINGS_KEPT = 40


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a trial took, beside what the grammar expected."""

    family: str
    expected_s: float
    taken_s: float


class Ledger:
    """The rows, with the indexes that decisions need."""

    def __init__(
        self, experiment: Experiment, trials: Iterable[Trial] = (), models: Iterable[Model] = ()
    ) -> None:
        self.experiment = experiment
        self.trials: dict[int, Trial] = {}
        self.models: dict[int, Model] = {}
        self.open: set[int] = set()
        self.exporting: set[int] = set()
        self.contenders: dict[int, float] = {}
        """Succeeded trials that no model was made of, by their loss."""
        self.history = History()
        self.timings: deque[Timing] = deque(maxlen=_TIMINGS_KEPT)
        self.export_timings_s: deque[float] = deque(maxlen=5)
        self.success_count = 0
        for trial in sorted(trials, key=lambda t: t.number):
            self._absorb_trial(trial)
        for model in sorted(models, key=lambda m: m.number):
            self._absorb_model(model)

    def absorb(self, change: "Change") -> None:
        """Takes over a committed change."""
        self.experiment = change.experiment
        for trial in change.trials:
            self._absorb_trial(trial)
        for model in change.models:
            self._absorb_model(model)

    def _absorb_trial(self, trial: Trial) -> None:
        known = self.trials.get(trial.number)
        self.trials[trial.number] = trial
        if known is None:
            self.history.add(trial.derivation)
        if trial.is_open:
            self.open.add(trial.number)
            return
        self.open.discard(trial.number)
        if trial.state is not TrialState.SUCCEEDED or trial.result is None:
            return
        if known is None or known.is_open:
            self.success_count += 1
            metric = self.experiment.plan.spec.metric
            self.contenders[trial.number] = metric.loss(trial.result.score)
            if trial.start_time is not None and trial.end_time is not None:
                taken_s = (trial.end_time - trial.start_time).total_seconds()
                self.timings.append(Timing(trial.family, trial.cost_s, taken_s))

    def _absorb_model(self, model: Model) -> None:
        self.models[model.number] = model
        self.contenders.pop(model.trial, None)
        if model.state is ModelState.EXPORTING:
            self.exporting.add(model.number)
            return
        self.exporting.discard(model.number)
        if model.ready_time is not None:
            self.export_timings_s.append((model.ready_time - model.create_time).total_seconds())
            loss = self.experiment.plan.spec.metric.loss(model.score)
            self.contenders = {n: x for n, x in self.contenders.items() if x < loss}


@dataclass(frozen=True, slots=True)
class Change:
    """Rows to write in one transaction. Every changed row has a revision of its own."""

    experiment: Experiment
    trials: tuple[Trial, ...]
    models: tuple[Model, ...]
    base_revision: int
    """The revision that the change was made of; another one in the store voids it."""


class Edit:
    """A change in the making: reads see what was put."""

    def __init__(self, ledger: Ledger, now: datetime) -> None:
        self.ledger = ledger
        self.now = now
        self.experiment = ledger.experiment
        self._trials: dict[int, Trial] = {}
        self._models: dict[int, Model] = {}

    def trial(self, number: int) -> Trial | None:
        return self._trials.get(number) or self.ledger.trials.get(number)

    def put_trial(self, trial: Trial) -> Trial:
        self._trials[trial.number] = trial
        return trial

    def put_model(self, model: Model) -> Model:
        self._models[model.number] = model
        return model

    def model(self, number: int) -> Model | None:
        return self._models.get(number) or self.ledger.models.get(number)

    def open_trials(self) -> list[Trial]:
        """Trials that have not ended, by number."""
        numbers = self.ledger.open | self._trials.keys()
        trials = (self._trials.get(n) or self.ledger.trials[n] for n in sorted(numbers))
        return [t for t in trials if t.is_open]

    def exporting_models(self) -> list[Model]:
        numbers = self.ledger.exporting | self._models.keys()
        models = (self._models.get(n) or self.ledger.models[n] for n in sorted(numbers))
        return [m for m in models if m.state is ModelState.EXPORTING]

    def contenders(self) -> Iterator[tuple[int, float]]:
        """Succeeded trials that no model was made of, with their losses."""
        taken = {model.trial for model in self._models.values()}
        metric = self.experiment.plan.spec.metric
        for number, loss in self.ledger.contenders.items():
            if number not in taken:
                yield number, loss
        for trial in self._trials.values():
            fresh = trial.number not in self.ledger.contenders and trial.number not in taken
            if fresh and trial.state is TrialState.SUCCEEDED and trial.result is not None:
                yield trial.number, metric.loss(trial.result.score)

    @property
    def trial_count(self) -> int:
        return len(self.ledger.trials) + len(self._trials.keys() - self.ledger.trials.keys())

    @property
    def model_count(self) -> int:
        return len(self.ledger.models) + len(self._models.keys() - self.ledger.models.keys())

    @property
    def success_count(self) -> int:
        fresh = (
            t.state is TrialState.SUCCEEDED and t.number in self.ledger.open
            for t in self._trials.values()
        )
        return self.ledger.success_count + sum(fresh)

    def history(self) -> History:
        """What was proposed so far, this edit's new trials included."""
        fresh = sorted(self._trials.keys() - self.ledger.trials.keys())
        if not fresh:
            return self.ledger.history
        numbers = [*sorted(self.ledger.trials), *fresh]
        return History((self._trials.get(n) or self.ledger.trials[n]).derivation for n in numbers)

    def close(self) -> Change | None:
        """The change, with its revisions and counts; None when nothing changed."""
        open_trials = self.open_trials()
        counted = replace(
            self.experiment,
            finished_trial_count=self.trial_count - len(open_trials),
            running_trial_count=sum(t.is_out for t in open_trials),
        )
        if not self._trials and not self._models and counted == self.ledger.experiment:
            return None
        revision = base = self.ledger.experiment.revision
        trials, models = [], []
        for trial in self._trials.values():
            revision += 1
            trials.append(replace(trial, revision=revision))
        for model in self._models.values():
            revision += 1
            models.append(replace(model, revision=revision))
        return Change(
            experiment=replace(counted, revision=revision + 1),
            trials=tuple(trials),
            models=tuple(models),
            base_revision=base,
        )

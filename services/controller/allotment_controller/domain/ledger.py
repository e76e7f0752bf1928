"""An experiment with all its trials and models as of a revision, and one change of it.

The conductor of an experiment holds its ledger in memory; the store holds the same rows. A change
is built as an `Edit`, committed by the store in one transaction that compares the revision, and
then absorbed.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from allotment_controller.domain.experiment import Experiment, ExperimentState
from allotment_controller.domain.model import MixState, Model, ModelState, mix_is_due
from allotment_controller.domain.task import Metric
from allotment_controller.domain.trial import Trial, TrialState
from allotment_search import (
    Derivation,
    Experience,
    Grammar,
    History,
    HistoryView,
    untried_defaults,
)
from allotment_search.halving import Audit, Halving, Level, Rung

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
        self.active: set[int] = set()
        """Open ones that are not put off: few, however long a search goes on."""
        self.exporting: set[int] = set()
        self.contenders: dict[int, float] = {}
        """Succeeded trials that no model was made of, by their loss."""
        self.history = History()
        self._last_end = 0
        """The revision at which the newest outcome came."""
        self._past_defaults: set[frozenset[str]] = set()
        self._bar: float | None = None
        """The loss of the best model that is ready: no worse trial becomes one."""
        self.timings: deque[Timing] = deque(maxlen=_TIMINGS_KEPT)
        self.export_timings_s: deque[float] = deque(maxlen=5)
        self.success_count = 0
        self.succeeded: list[int] = []
        """Numbers of the trials that succeeded, in the order in which they ended."""
        self.mix = MixState()
        self.best_loss: float | None = None
        """Of all that succeeded."""
        self.rungs = {at: Rung() for at in Halving().levels(experiment.plan.split.fit_count)}
        """Standings, the lowest level first."""
        self.audit = Audit()
        self._finished: Counter[str] = Counter()
        stored = sorted(trials, key=lambda t: t.number)
        for trial in stored:
            self.history.add(trial.derivation)
        # In the order in which they ended: what samplers see depends on it.
        for trial in sorted(stored, key=lambda t: t.revision):
            self._stand(None, trial)
            self._absorb_trial(trial)
        for model in sorted(models, key=lambda m: m.number):
            self._absorb_model(model)

    def absorb(self, change: "Change") -> None:
        """Takes over a committed change."""
        self.experiment = change.experiment
        for trial in change.trials:
            self._stand(self.trials.get(trial.number), trial)
            self._absorb_trial(trial)
        for model in change.models:
            self._absorb_model(model)

    def begin_mixing(self) -> None:
        """From now on ensembles are computed; what was before is looked at once."""
        count = self.success_count
        refit = self.experiment.plan.refit
        self.mix = MixState(
            active=True,
            least=2 if refit is None else len(refit.derivations),
            considered=max(0, count - 1),
            fresh=count > 0,
        )

    def finished_in(self, family: str) -> int:
        """Trials of a family that succeeded."""
        return self._finished[family]

    def _stand(self, known: Trial | None, trial: Trial) -> None:
        """Where a trial stands at the rungs, and what audits say."""
        for level, rung in self.rungs.items():
            _place(rung, level, known, trial, self.experiment.plan.spec.metric)
        self.audit = _counted(self.audit, known, trial)

    def is_past_defaults(self, grammar: Grammar, families: frozenset[str]) -> bool:
        """Whether the whole portfolio of these families has been proposed."""
        if families not in self._past_defaults:
            shape = self.experiment.plan.shape
            if untried_defaults(grammar, shape, families, self.history):
                return False
            self._past_defaults.add(families)
        return True

    def view_as_of(self, revision: int) -> HistoryView:
        """What a sampler saw at a revision since which no trial was begun: what has ended later
        was pending then."""
        if self._last_end <= revision:
            return self.history.view()
        seen = History(self.trials[n].derivation for n in sorted(self.trials))
        ended = (t for t in self.trials.values() if not t.is_open and t.revision <= revision)
        for trial in sorted(ended, key=lambda t: t.revision):
            self._tell(seen, trial)
        return seen.view()

    def _tell(self, history: History, trial: Trial) -> bool:
        """A trial has ended; whether that is an outcome, and news."""
        if trial.state is TrialState.CANCELLED and not trial.paused_at:
            # Its time was over: that it has no score is no fault of its configuration.
            history.drop(trial.number)
            return False
        return history.end(trial.number, self._loss(trial))

    def _absorb_trial(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        if trial.number > len(self.history):
            self.history.add(trial.derivation)
        if trial.is_active:
            self.active.add(trial.number)
        else:
            self.active.discard(trial.number)
        if trial.is_open:
            self.open.add(trial.number)
            return
        self.open.discard(trial.number)
        self._last_end = max(self._last_end, trial.revision)
        loss = self._loss(trial)
        if self._tell(self.history, trial) and loss is not None:
            self.success_count += 1
            self.succeeded.append(trial.number)
            self._finished[trial.family] += 1
            self.best_loss = loss if self.best_loss is None else min(loss, self.best_loss)
            if self._bar is None or loss < self._bar:
                self.contenders[trial.number] = loss
            if trial.taken_s is not None:
                self.timings.append(Timing(trial.family, trial.cost_s, trial.taken_s))

    def _loss(self, trial: Trial) -> float | None:
        if trial.state is not TrialState.SUCCEEDED or trial.result is None:
            return None
        return self.experiment.plan.spec.metric.loss(trial.result.score)

    def _absorb_model(self, model: Model) -> None:
        self.models[model.number] = model
        if model.is_trial:
            self.contenders.pop(model.trial, None)
        if self.mix.recipe is not None and model.is_made_of(self.mix.recipe):
            self.mix.recipe = None
        if model.state is ModelState.EXPORTING:
            self.exporting.add(model.number)
            return
        self.exporting.discard(model.number)
        if model.ready_time is not None:
            self.export_timings_s.append((model.ready_time - model.create_time).total_seconds())
            loss = self.experiment.plan.spec.metric.loss(model.score)
            if self._bar is None or loss < self._bar:
                self._bar = loss
                self.contenders = {n: x for n, x in self.contenders.items() if x < loss}


def _place(rung: Rung, level: Level, known: Trial | None, trial: Trial, metric: Metric) -> None:
    """Takes a trial's new place at a rung over. The constant predictor has none."""
    loss = trial.loss_after(level.amount, metric)
    if loss is None or trial.family == "constant" or not level.holds(trial.family):
        return
    entry = (loss, trial.number)
    rung.reach(entry)
    if trial.waits_at == level.amount:
        rung.pause(entry)
    elif known is not None and known.waits_at == level.amount:
        rung.resume(entry)


def _counted(audit: Audit, known: Trial | None, trial: Trial) -> Audit:
    """The audit with a trial's change."""

    def counts(t: Trial | None) -> tuple[int, int, int]:
        if t is None:
            return 0, 0, 0
        done = t.state is TrialState.SUCCEEDED
        return t.paused_at > 0, done and t.held_at > 0, done and t.improved

    (p0, h0, i0), (p1, h1, i1) = counts(known), counts(trial)
    return Audit(
        paused_count=audit.paused_count + p1 - p0,
        held_count=audit.held_count + h1 - h0,
        improved_count=audit.improved_count + i1 - i0,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """Rows to write in one transaction. Every changed row has a revision of its own."""

    experiment: Experiment
    trials: tuple[Trial, ...]
    models: tuple[Model, ...]
    base_revision: int
    """The revision that the change was made of; another one in the store voids it."""
    has_new_plan: bool = False
    experience: Experience | None = None
    """What the experiment leaves with its end."""
    forgets_experience: bool = False
    """Its tenant does not consent: what any of its experiments left goes."""


class Known:
    """The derivations of a history and a few more."""

    def __init__(self, history: History, fresh: frozenset[Derivation]) -> None:
        self._history = history
        self._fresh = fresh

    def __len__(self) -> int:
        return len(self._history) + len(self._fresh)

    def __contains__(self, derivation: object) -> bool:
        return derivation in self._fresh or derivation in self._history


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

    def active_trials(self) -> list[Trial]:
        """Open trials that are not put off, by number."""
        numbers = self.ledger.active | self._trials.keys()
        trials = (self._trials.get(n) or self.ledger.trials[n] for n in sorted(numbers))
        return [t for t in trials if t.is_active]

    @property
    def open_count(self) -> int:
        """How many trials have not ended."""
        known = self.ledger.open
        more = (t.is_open - (n in known) for n, t in self._trials.items())
        return len(known) + sum(more)

    def rung(self, level: Level) -> Rung | None:
        """The standings there, this edit's changes included."""
        rung = self.ledger.rungs.get(level)
        return None if rung is None else self._as_changed(level, rung)

    def rungs_from_top(self) -> Iterator[Rung]:
        """The standings of all levels, this edit's changes included."""
        for level, rung in reversed(self.ledger.rungs.items()):
            yield self._as_changed(level, rung)

    def _as_changed(self, level: Level, rung: Rung) -> Rung:
        metric = self.experiment.plan.spec.metric
        changed = [
            (known, trial)
            for trial in self._trials.values()
            if (known := self.ledger.trials.get(trial.number)) is None
            or known.loss_after(level.amount, metric) != trial.loss_after(level.amount, metric)
            or known.waits_at != trial.waits_at
        ]
        if changed:
            rung = rung.copy()
            for known, trial in changed:
                _place(rung, level, known, trial, metric)
        return rung

    def ended_trials(self) -> list[Trial]:
        """Trials that end with this edit."""
        return [t for t in self._trials.values() if not t.is_open and t.number in self.ledger.open]

    @property
    def mix_is_due(self) -> bool:
        """An ensemble is about to be computed; not for who cancels: that is to end now."""
        if self.experiment.ends_as is ExperimentState.CANCELLED:
            return False
        finishing = self.experiment.state is ExperimentState.FINISHING
        return mix_is_due(self.ledger.mix, self.success_count, finishing=finishing)

    def last_ensemble(self) -> Model | None:
        """The newest model that is more than a trial."""
        for number in range(self.model_count, 0, -1):
            model = self.model(number)
            if model is not None and not model.is_trial:
                return model
        return None

    def exporting_models(self) -> list[Model]:
        numbers = self.ledger.exporting | self._models.keys()
        models = (self._models.get(n) or self.ledger.models[n] for n in sorted(numbers))
        return [m for m in models if m.state is ModelState.EXPORTING]

    def contenders(self) -> Iterator[tuple[int, float]]:
        """Succeeded trials that no model was made of, with their losses."""
        taken = {model.trial for model in self._models.values() if model.is_trial}
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

    def known(self) -> "Known":
        """What was proposed so far, this edit's new trials included."""
        fresh = self._trials.keys() - self.ledger.trials.keys()
        return Known(self.ledger.history, frozenset(self._trials[n].derivation for n in fresh))

    def close(self) -> Change | None:
        """The change, with its revisions and counts; None when nothing changed."""
        audit = self.ledger.audit
        for trial in self._trials.values():
            audit = _counted(audit, self.ledger.trials.get(trial.number), trial)
        counted = replace(
            self.experiment,
            early_stopping=audit,
            finished_trial_count=self.trial_count - self.open_count,
            running_trial_count=sum(t.is_out for t in self.active_trials()),
        )
        if not self._trials and not self._models and counted == self.ledger.experiment:
            return None
        revision = base = self.ledger.experiment.revision
        after = base + len(self._trials) + len(self._models) + 1
        trials, models = [], []
        for trial in self._trials.values():
            revision += 1
            begun = trial.create_revision if trial.number in self.ledger.trials else after
            trials.append(replace(trial, revision=revision, create_revision=begun))
        for model in self._models.values():
            revision += 1
            models.append(replace(model, revision=revision))
        return Change(
            experiment=replace(counted, revision=after),
            trials=tuple(trials),
            models=tuple(models),
            base_revision=base,
            has_new_plan=counted.plan is not self.ledger.experiment.plan,
        )

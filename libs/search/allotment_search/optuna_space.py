"""One space that Optuna's TPE samples from. Importing this module takes half a second: do it late.

Optuna's own storage copies every trial deeply, which costs more than the sampling; here trials are
read where they are. Nothing is ever stored.
"""

from collections.abc import Container, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from allotment_search.encoding import Dimension, Point

optuna.logging.set_verbosity(optuna.logging.WARNING)

_PENDING_FROM = 1 << 40
"""Numbers of pending trials: behind all that have ended."""


class _Shown(InMemoryStorage):
    """Shows the trials that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[FrozenTrial] = []

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return [t for t in self.shown if states is None or t.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Optuna notes what it has drawn; nobody reads it here."""


class Observed:
    """Dimensions of a space, and how its points are shown to Optuna."""

    def __init__(self, dimensions: tuple[Dimension, ...]) -> None:
        self.space: dict[str, BaseDistribution] = {
            d.name: CategoricalDistribution(range(len(d.values)))
            if d.values
            else FloatDistribution(0.0, 1.0)
            for d in dimensions
        }

    def ended(self, number: int, point: Point, loss: float | None) -> FrozenTrial:
        """A trial with its loss; without one it is worse than all that have one."""
        state = TrialState.PRUNED if loss is None else TrialState.COMPLETE
        return self._trial(number, point, state, loss)

    def pending(self, place: int, point: Point) -> FrozenTrial:
        return self._trial(_PENDING_FROM + place, point, TrialState.RUNNING, None)

    def _trial(
        self, number: int, point: Point, state: TrialState, loss: float | None
    ) -> FrozenTrial:
        params = {name: point[name] for name in self.space}
        trial = create_trial(params=params, distributions=self.space, state=state, value=loss)
        trial.number = number
        return trial


class OptunaSpace:
    """Draws points given trials."""

    def __init__(self, observed: Observed, trials: list[FrozenTrial]) -> None:
        self._space = observed.space
        self.trials = trials
        self._storage = _Shown()
        self._storage.shown = trials
        self._study = optuna.create_study(storage=self._storage, sampler=RandomSampler(seed=0))
        self._asked = create_trial(state=TrialState.RUNNING)

    def ask(self, seed: int) -> Mapping[str, Any]:
        """A point: a pure function of the trials and the seed."""
        if not self._space:
            return {}
        sampler = TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
        return sampler.sample_relative(self._study, self._asked, self._space)

"""A trial's first fit on its way: scores of its rungs, and the state that it is taken up from."""

from collections.abc import Callable
from pathlib import Path

from allotment_learn import fold_files
from allotment_learn.folds import FoldModel, Looks
from allotment_learn.forms import Saved
from allotment_learn.task import TrialTask


class FirstFit:
    """The first fold's fit. A score that was told once is told again as it was, so that what an
    earlier attempt has fitted beyond a rung hides nothing."""

    def __init__(
        self,
        task: TrialTask,
        rungs: tuple[int, ...],
        folds_dir: Path | None,
        score: Callable[[FoldModel], float],
        tell: Callable[[int, float], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._task = task
        self._rungs = rungs
        self._folds_dir = folds_dir
        self._score = score
        self._tell = tell
        self._monotonic = monotonic
        self._started = monotonic()
        self.told: dict[int, float] = {}
        self.earlier_s = 0.0
        """What earlier attempts took for what is gone on from."""

    def looks(self, known: fold_files.SavedFold | None) -> Looks | None:
        """Tells what was told before; what is still to be looked at. `known`: the whole fold."""
        state = known
        if state is None and self._folds_dir is not None:
            state = fold_files.read_fit(self._folds_dir, self._task)
        if state is not None:
            self.told.update(state.told)
        for rung in self._rungs:
            if rung in self.told:
                self._tell(rung, self.told[rung])
        rungs = tuple(rung for rung in self._rungs if rung not in self.told)
        if known is not None or (state is None and not rungs):
            return None
        if state is None:
            return Looks(rungs, self._look)
        self.earlier_s = state.fit_s
        return Looks(rungs, self._look, state.saved)

    def _look(self, rung: int, step: int, model: FoldModel, state: Saved | None) -> None:
        """Keeps the state before the score is told: who hears of it may end this process."""
        score = self.told[rung] = self._score(model)
        fit_s = self.earlier_s + self._monotonic() - self._started
        if state is not None and self._folds_dir is not None and fit_s >= fold_files.LEAST_FIT_S:
            fold_files.write_fit(self._folds_dir, self._task, step, state, fit_s, self.told)
        self._tell(rung, score)

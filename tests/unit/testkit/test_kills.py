"""What a search under kills is blamed for."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from allotment.types import ExperimentState, Trial, TrialState
from allotment_core.errors import NotFound
from allotment_testkit.kills import Tally, check_search

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = "tenants/local/experiments/x"


def trial(number: int) -> Trial:
    return Trial(
        name=f"{NAME}/trials/{number}",
        state=TrialState.SUCCEEDED,
        family="families/linear",
        origin="DEFAULT",
        score=0.5,
        metrics={},
        fit_s=1.0,
        attempts=1,
        attempts_by_cause={},
        epoch=1,
        finished_folds=5,
        fold_count=5,
        derivation={},
        problem=None,
        log_tail="",
        create_time=NOW,
        start_time=NOW,
        end_time=NOW,
    )


class FakeClient:
    """Lists what it is given."""

    def __init__(self, trials: list[Trial], *, counted: int = 0, model: bool = True) -> None:
        experiment = SimpleNamespace(
            state=ExperimentState.SUCCEEDED, finished_trial_count=counted or len(trials)
        )
        self.experiments = SimpleNamespace(trials=lambda _: trials, get=lambda _: experiment)
        self._model = model

    def best_model(self, _name: str) -> str:
        if not self._model:
            raise NotFound("no model")
        return "model"

    def download_model(self, _model: str, _folder: Path) -> None:
        """Nothing to do."""


def tally_of(client: Any) -> Tally:
    tally = Tally()
    check_search(client, NAME, {each.name: each for each in (trial(1), trial(2))}, Path(), tally)
    return tally


def test_a_search_that_kept_everything_is_good() -> None:
    tally = tally_of(FakeClient([trial(1), trial(2), trial(3)]))
    assert (tally.good, tally.finished, tally.words) == (True, 3, [])


@pytest.mark.parametrize(
    ("client", "blamed"),
    [
        (FakeClient([trial(1)]), "lost"),
        (FakeClient([trial(1), replace(trial(2), score=0.4)]), "changed"),
        (FakeClient([trial(1), trial(2), trial(2)]), "doubled"),
        (FakeClient([trial(1), trial(2)], counted=3), "doubled"),
        (FakeClient([trial(1), trial(2)], model=False), "without_model"),
    ],
)
def test_what_went_wrong_is_counted(client: FakeClient, blamed: str) -> None:
    tally = tally_of(client)
    assert not tally.good
    assert getattr(tally, blamed) == 1
    assert tally.words

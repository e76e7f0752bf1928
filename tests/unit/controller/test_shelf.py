"""Predictions in memory: of all experiments together no more than a limit."""

import numpy as np

from allotment_controller.domain.recipes import Predictions
from allotment_controller.domain.shelf import Shelf
from allotment_core.names import ExperimentName

A, B, C = (ExperimentName.parse(f"tenants/t/experiments/{e}") for e in "abc")


def predictions(size_bytes: int) -> Predictions:
    rows = size_bytes // 8
    return Predictions(
        rows=np.arange(rows),
        predictions=np.zeros((rows, 1)),
        truth=np.zeros(rows),
        weights=np.ones(rows),
        positive=1,
    )


def test_what_was_used_longest_ago_goes_first() -> None:
    shelf = Shelf(limit_bytes=1000)
    for experiment in (A, B):
        shelf.put(experiment, {1: predictions(400)})
    shelf.put(A, {1: predictions(400), 2: predictions(80)})
    shelf.put(C, {1: predictions(400)})
    assert not shelf.of(B)
    assert set(shelf.of(A)) == {1, 2}
    assert set(shelf.of(C)) == {1}
    shelf.drop(A)
    assert not shelf.of(A)


def test_the_newest_stays_whatever_its_size() -> None:
    shelf = Shelf(limit_bytes=100)
    shelf.put(A, {1: predictions(80)})
    shelf.put(B, {1: predictions(800)})
    assert not shelf.of(A)
    assert shelf.of(B)

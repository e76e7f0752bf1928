"""Who trains and who validates."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allotment_core.errors import InvalidArgument
from allotment_learn.kinds import SplitMethod, SplitSpec
from allotment_learn.splits import Fold, assign_parts, divide

KEYS = ("a", "b", "c")


def spec(part_count: int = 5, method: SplitMethod = SplitMethod.FOLDS, seed: int = 1) -> SplitSpec:
    return SplitSpec(method=method, part_count=part_count, seed=seed)


def classes(values: list[int]) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


strata = st.lists(st.integers(0, 2), max_size=200).map(classes)


@given(strata, st.integers(2, 7), st.integers(0, 2**64 - 1), st.integers(0, 200))
def test_rows_appended_later_move_no_row(
    rows: npt.NDArray[np.int64], part_count: int, seed: int, first: int
) -> None:
    before = assign_parts(rows[:first], KEYS, part_count, seed)
    assert np.array_equal(assign_parts(rows, KEYS, part_count, seed)[:first], before)


@given(strata, st.integers(2, 7))
def test_a_class_is_spread_within_one_row(rows: npt.NDArray[np.int64], part_count: int) -> None:
    parts = assign_parts(rows, KEYS, part_count, 3)
    for stratum in range(3):
        counts = np.bincount(parts[rows == stratum], minlength=part_count)
        assert counts.max() - counts.min() <= 1


@given(strata)
def test_a_class_keeps_its_parts_when_classes_are_numbered_anew(
    rows: npt.NDArray[np.int64],
) -> None:
    parts = assign_parts(rows, KEYS, 5, 3)
    assert np.array_equal(parts, assign_parts(2 - rows, KEYS[::-1], 5, 3))


def test_seeds_give_other_parts() -> None:
    rows = np.zeros(100, dtype=np.int64)
    assert (assign_parts(rows, ["a"], 5, 1) != assign_parts(rows, ["a"], 5, 2)).any()


def test_every_row_is_validated_once() -> None:
    folds = divide(spec(), row_count=103)
    validated = np.sort(np.concatenate([validation for _, validation in folds]))
    assert np.array_equal(validated, np.arange(103))
    for train, validation in folds:
        assert np.array_equal(np.union1d(train, validation), np.arange(103))
        assert not np.intersect1d(train, validation).size


def test_hold_out_is_one_part() -> None:
    ((train, validation),) = divide(spec(4, SplitMethod.HOLD_OUT), row_count=100)
    assert (len(train), len(validation)) == (75, 25)


def check_groups(folds: list[Fold], groups: npt.NDArray[np.object_]) -> None:
    for train, validation in folds:
        assert not set(groups[train]) & set(groups[validation])


@given(st.lists(st.sampled_from("uvwxyz"), min_size=20, max_size=80), st.booleans())
def test_groups_are_never_split(cells: list[str], ordered: bool) -> None:
    groups = np.array([*cells, "u", "v"], dtype=np.object_)
    times = np.arange(len(groups), dtype=np.float64) if ordered else None
    for method in SplitMethod:
        try:
            folds = divide(spec(3, method), row_count=len(groups), groups=groups, times=times)
        except InvalidArgument:
            assert ordered
            continue
        check_groups(folds, groups)


def test_groups_keep_their_parts_when_rows_are_appended() -> None:
    groups = np.array(list("aabbcdeffg" * 3) + ["new"] * 5, dtype=np.object_)
    first = divide(spec(3), row_count=30, groups=groups[:30])
    grown = divide(spec(3), row_count=35, groups=groups)
    for (_, before), (_, after) in zip(first, grown, strict=True):
        assert np.array_equal(before, after[after < 30])


@given(st.lists(st.floats(allow_nan=True, width=16), min_size=6, max_size=60))
def test_validation_is_never_older_than_training(cells: list[float]) -> None:
    times = np.array(cells)
    for method in SplitMethod:
        for train, validation in divide(spec(3, method), row_count=len(times), times=times):
            known = np.where(np.isnan(times), -np.inf, times)
            assert known[train].max() <= known[validation].min()


def test_one_row_can_not_be_divided() -> None:
    with pytest.raises(InvalidArgument, match="too few rows") as caught:
        divide(spec(), row_count=1)
    assert caught.value.reason == "TOO_FEW_ROWS"


def test_one_group_can_not_be_divided() -> None:
    with pytest.raises(InvalidArgument, match="too few groups"):
        divide(spec(), row_count=9, groups=np.array(["g"] * 9, dtype=np.object_))


def test_one_part_is_no_division() -> None:
    with pytest.raises(InvalidArgument, match="at least 2 parts"):
        divide(spec(1), row_count=9)

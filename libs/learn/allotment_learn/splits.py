"""Who trains and who validates. Numpy alone.

Without a time column, a row's part depends on the seed, on its stratum (class) or group, and on how
many rows of the stratum (groups) came before it: rows appended later move nothing. Within each
stratum, consecutive blocks of `part_count` rows get one row into each part, in a seeded order; so
the parts of a stratum differ by one row at most.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from allotment_core.errors import InvalidArgument
from allotment_learn.kinds import Integers, SplitMethod, SplitSpec

Cells = npt.NDArray[np.object_] | npt.NDArray[np.float64]
Fold = tuple[Integers, Integers]
"""Training rows and validation rows, both ascending."""


def assign_parts(
    strata: npt.NDArray[np.int64], keys: Sequence[str], part_count: int, seed: int
) -> Integers:
    """The part (0 to part_count - 1) of each row. `keys` names the strata, whatever their
    numbers."""
    parts = np.empty(len(strata), dtype=np.int64)
    for stratum, key in enumerate(keys):
        rows = np.flatnonzero(strata == stratum)
        parts[rows] = _blockwise(len(rows), key, part_count, seed)
    return parts


def _blockwise(count: int, key: str, part_count: int, seed: int) -> Integers:
    blocks = -(-count // part_count)
    digest = hashlib.blake2b(f"{seed}:{part_count}:{key}".encode(), digest_size=8).digest()
    start = np.uint64(int.from_bytes(digest, "little"))
    draws = _mix(start + np.arange(blocks * part_count, dtype=np.uint64))
    order = np.argsort(draws.reshape(blocks, part_count), axis=1, kind="stable")
    return order.reshape(-1)[:count].astype(np.int64)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64 (Steele, Lea, Flood 2014): the n-th draw without the draws before it."""
    with np.errstate(over="ignore"):
        mixed = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def group_numbers(groups: Cells) -> Integers:
    """Numbers the groups in order of first appearance; missing values are one group."""
    cells = np.where(np.isnan(groups), np.inf, groups) if groups.dtype == np.float64 else groups
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(cell, len(numbers)) for cell in cells], dtype=np.int64)


def divide(
    spec: SplitSpec,
    *,
    row_count: int,
    strata: Integers | None = None,
    keys: Sequence[str] = (),
    groups: Cells | None = None,
    times: Cells | None = None,
) -> list[Fold]:
    """The folds (or the one hold-out) of a table, none of them empty on either side.

    By time, fold i validates part i + 1 of `part_count` + 1 equal parts and trains on those before;
    the hold-out is the latest part. Rows of a group that is being validated are left out of
    training.

    Raises:
        InvalidArgument: the rows can't be divided in two.
    """
    if spec.part_count < 2:
        raise InvalidArgument(
            f"rows have to be divided in at least 2 parts, not {spec.part_count}",
            reason="BAD_SPLIT",
        )
    numbers = None if groups is None else group_numbers(groups)
    if times is not None:
        pairs = _by_time(spec, times)
    else:
        pairs = _by_part(spec, _parts(spec, row_count, strata, keys, numbers))
    if numbers is not None:
        pairs = [(t[~np.isin(numbers[t], numbers[v])], v) for t, v in pairs]
    folds = [(t, v) for t, v in pairs if len(t) and len(v)]
    if not folds:
        what = "groups" if groups is not None else "rows"
        raise InvalidArgument(
            f"{row_count} rows have too few {what} to train on some and validate on others; "
            "add rows or choose another split",
            reason="TOO_FEW_ROWS",
        )
    return folds


def _parts(
    spec: SplitSpec,
    row_count: int,
    strata: Integers | None,
    keys: Sequence[str],
    numbers: Integers | None,
) -> Integers:
    if numbers is not None:
        of_group = _blockwise(int(numbers.max(initial=-1)) + 1, "group", spec.part_count, spec.seed)
        return of_group[numbers]
    if strata is None:
        return _blockwise(row_count, "", spec.part_count, spec.seed)
    return assign_parts(strata, keys, spec.part_count, spec.seed)


def _by_part(spec: SplitSpec, parts: Integers) -> list[Fold]:
    validated = range(spec.part_count)
    if spec.method is SplitMethod.HOLD_OUT:
        # The first part that has rows: small strata may leave part 0 empty.
        validated = range(int(parts.min(initial=0)), int(parts.min(initial=0)) + 1)
    return [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in validated]


def _by_time(spec: SplitSpec, times: Cells) -> list[Fold]:
    if times.dtype == np.float64:
        times = np.where(np.isnan(times), -np.inf, times)
    order = np.argsort(times, kind="stable")
    hold_out = spec.method is SplitMethod.HOLD_OUT
    pieces = np.array_split(order, spec.part_count if hold_out else spec.part_count + 1)
    first = len(pieces) - 1 if hold_out else 1
    return [
        (np.sort(np.concatenate(pieces[:index])), np.sort(pieces[index]))
        for index in range(first, len(pieces))
    ]

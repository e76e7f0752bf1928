"""Types of text columns, roles of all columns, and what is worth a warning: once all rows have
been seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from allotment_core.errors import InvalidArgument, clip
from allotment_dataset.domain.column_names import require_column
from allotment_dataset.domain.table import (
    Column,
    ColumnOverride,
    ColumnRole,
    ColumnType,
    Notice,
)
from allotment_dataset.parse.evidence import LEAST_UNIQUE_ROWS
from allotment_dataset.parse.profile import TextProfile

_TEXT_DISTINCT_SHARE = 0.5
_TEXT_WORDS = 4.0
_TEXT_LETTERS = 50.0
_MANY_VALUES = 1_000
_MANY_SHARE = 0.5
_MANY_AT_LEAST = 50


def text_type(profile: TextProfile, *, may_be_id: bool, may_be_text: bool) -> ColumnType:
    """What a text column that holds neither numbers nor dates is.

    TEXT: 20 cells or more, over half of the values distinct, and prose (4 words or more a cell, or
    50 letters or more in at least 2 words, on average). ID: 20 cells or more, complete, no two the
    same. Else CATEGORICAL.
    """
    present = profile.present_count
    if present < LEAST_UNIQUE_ROWS:
        return ColumnType.CATEGORICAL
    prose = profile.mean_words >= _TEXT_WORDS or (
        profile.mean_letters >= _TEXT_LETTERS and profile.mean_words >= 2
    )
    mostly_distinct = profile.all_unique or profile.distinct_count > _TEXT_DISTINCT_SHARE * present
    if may_be_text and prose and mostly_distinct:
        return ColumnType.TEXT
    if may_be_id and profile.all_unique and profile.missing_count == 0:
        return ColumnType.ID
    return ColumnType.CATEGORICAL


def with_role(
    column: Column, row_count: int, override: ColumnOverride | None, *, is_target: bool
) -> Column:
    """The column with its role. A target is never ignored by inference.

    Raises: InvalidArgument when a wanted role does not fit the column.
    """
    wanted = override.role if override else ColumnRole.UNSPECIFIED
    reason = _uselessness(column, row_count)
    if wanted in (ColumnRole.WEIGHT, ColumnRole.GROUP, ColumnRole.TIME):
        _check_special(column, wanted)
        return replace(column, role=wanted, ignored_because="")
    if wanted is ColumnRole.IGNORED:
        if is_target:
            raise InvalidArgument(
                f"column {clip(column.name)!r} is the target and was asked to be ignored; drop "
                "one of both",
                reason="TARGET_IGNORED",
            )
        return replace(column, role=ColumnRole.IGNORED, ignored_because="BY_REQUEST")
    if wanted is ColumnRole.FEATURE and reason in ("CONSTANT", "UNIQUE_ID"):
        reason = ""
    if is_target or not reason:
        return replace(column, role=ColumnRole.FEATURE, ignored_because="")
    return replace(column, role=ColumnRole.IGNORED, ignored_because=reason)


def _uselessness(column: Column, row_count: int) -> str:
    statistics = column.statistics
    if statistics.missing_count == row_count:
        return "EMPTY"
    if statistics.distinct_count == 1 and statistics.missing_count == 0:
        return "CONSTANT"
    return "UNIQUE_ID" if column.type is ColumnType.ID else ""


def _check_special(column: Column, role: ColumnRole) -> None:
    name = clip(column.name)
    if column.statistics.missing_count:
        raise InvalidArgument(
            f"column {name!r} can't be the {role.value.lower()}: "
            f"{column.statistics.missing_count} of its cells "
            "are missing; fill them, or drop these rows",
            reason="ROLE_NEEDS_VALUES",
        )
    if role is ColumnRole.WEIGHT:
        low = column.statistics.minimum
        if column.type is not ColumnType.NUMERIC or low is None or low < 0:
            raise InvalidArgument(
                f"column {name!r} can't be the weight: weights are numbers of 0 or more, and it is "
                f"{column.type.value} with a minimum of {low}",
                reason="BAD_WEIGHT",
            )
    if role is ColumnRole.TIME and column.type not in (ColumnType.NUMERIC, ColumnType.DATE):
        raise InvalidArgument(
            f"column {name!r} can't be the time: it is {column.type.value}, and a time is "
            "numbers or dates "
            "of one spelling such as 2026-12-31",
            reason="BAD_TIME",
        )


def check_overrides(
    names: Sequence[str], overrides: Sequence[ColumnOverride]
) -> Mapping[str, ColumnOverride]:
    """The overrides by column.

    Raises: InvalidArgument for columns that are not there or named twice.
    """
    by_name: dict[str, ColumnOverride] = {}
    for override in overrides:
        require_column(override.column, names, reason="COLUMN_NOT_FOUND", what="override")
        if override.column in by_name:
            raise InvalidArgument(
                f"column {clip(override.column)!r} has two overrides; give it one",
                reason="TWO_OVERRIDES",
            )
        by_name[override.column] = override
    for role in (ColumnRole.WEIGHT, ColumnRole.TIME, ColumnRole.GROUP):
        holders = [o.column for o in overrides if o.role is role]
        if len(holders) > 1:
            raise InvalidArgument(
                f"columns {', '.join(repr(clip(h)) for h in holders[:3])} were all asked to be the "
                f"{role.value.lower()}; there can be one",
                reason="TWO_OF_A_ROLE",
            )
    return by_name


def column_notices(column: Column, row_count: int) -> list[Notice]:
    """What is worth knowing about a column with its role."""
    name, statistics = column.name, column.statistics
    texts = {
        "UNIQUE_ID": (
            "UNIQUE_ID",
            f"{name!r} is different in every row: it is ignored as an identifier",
        ),
        "CONSTANT": ("CONSTANT_COLUMN", f"{name!r} is the same in every row: it is ignored"),
        "EMPTY": ("EMPTY_COLUMN", f"{name!r} has no value in any row: it is ignored"),
    }
    if column.ignored_because in texts:
        reason, message = texts[column.ignored_because]
        return [Notice(reason=reason, message=message, column=name)]
    distinct = statistics.distinct_count
    present = row_count - statistics.missing_count
    many = distinct > _MANY_VALUES or (
        distinct > _MANY_AT_LEAST and distinct > _MANY_SHARE * present
    )
    if column.type is ColumnType.CATEGORICAL and column.role is ColumnRole.FEATURE and many:
        message = f"{name!r} has {distinct} different values in {present} rows; rare ones are "
        "taken together"
        return [Notice(reason="HIGH_CARDINALITY", message=message, column=name)]
    return []

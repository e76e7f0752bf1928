"""Columns as callers name them."""

import difflib
from collections.abc import Sequence

from allotment_core.errors import InvalidArgument, clip

LONGEST_NAME = 256
"""Characters of a column's name at most."""


def check_column_name(name: str) -> None:
    """Raises: InvalidArgument for a name that no column can have."""
    if len(name) > LONGEST_NAME:
        raise InvalidArgument(
            f"{clip(name)!r} has {len(name)} characters; a column's name has at most "
            f"{LONGEST_NAME}",
            reason="NAME_TOO_LONG",
        )


def require_column(name: str, names: Sequence[str], *, reason: str, what: str) -> None:
    """Raises: InvalidArgument with the closest name when there is no such column."""
    if name in names:
        return
    close = closest_name(name, names)
    hint = f"did you mean {clip(close)!r}?" if close else f"there are {clip(', '.join(names), 200)}"
    raise InvalidArgument(
        f"{what} {clip(name)!r} is not a column of the table; {hint}", reason=reason
    )


def closest_name(name: str, names: Sequence[str]) -> str:
    """The name that was most likely meant, or ""."""
    if len(name) > LONGEST_NAME:
        return ""
    folded = {n.casefold(): n for n in reversed(names)}
    if name.strip().casefold() in folded:
        return folded[name.strip().casefold()]
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[close[0]] if close else ""

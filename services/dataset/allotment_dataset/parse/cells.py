"""How cells are read: blanks, numbers, missing markers, dates.

The rules of every format and of every later reader.

* A cell that is empty or white space alone is missing, in every column.
* A number is digits with an optional sign, decimal mark and exponent, or inf/infinity with an
  optional sign in any
  case; white space around it is dropped. Digits whose value is too large for a float64 are no
  number.
* A missing marker ("NA", "?") is missing only in columns whose other cells are all numbers or all
  dates; in a
  categorical column it stays the value that it is.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

STRONG_MARKERS = frozenset(
    ("NA", "N/A", "n/a", "#N/A", "<NA>", "na", "NaN", "nan", "NAN", "-nan", "NULL", "null", "Null")
) | frozenset(("?", "#NA", "#NULL!", "#VALUE!", "#DIV/0!", "\\N"))
"""Cells that mean "missing" wherever the rest of the column is numbers or dates."""

WEAK_MARKERS = frozenset(
    ("none", "None", "NONE", "missing", "unknown", "Unknown", "-", "--", ".", "*")
)
"""Cells that mean "missing" among more than `FEW_VALUES` distinct numbers; among fewer they may
be a category.
"""

FEW_VALUES = 20
"""Distinct numbers of a column that may be codes of categories rather than measurements."""

EXACT_INTEGER = 2**53
"""Integers beyond it are not all float64: such columns stay strings."""

_NUMBER_DOT = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?$"
_NUMBER_COMMA = r"^[+-]?(?:[0-9]+,?[0-9]*|,[0-9]+)(?:[eE][+-]?[0-9]{1,5})?$"
_INFINITE = r"(?i)^[+-]?inf(?:inity)?$"
_GROUPED = r"^[+-]?[0-9]{1,3}(?:,[0-9]{3})+$"
_BARE_INTEGER = r"^[+-]?[0-9]{16,}$"

_MOST_UNUSUAL = 0.25

Floats = npt.NDArray[np.float64]


def is_number(trimmed: Any, decimal: str) -> Any:
    """A boolean array: which of the trimmed strings are numbers with this decimal mark."""
    pattern = _NUMBER_DOT if decimal == "." else _NUMBER_COMMA
    shape = pc.match_substring_regex(trimmed, pattern)
    if pc.all(shape).as_py():
        return shape
    return pc.or_(shape, pc.match_substring_regex(trimmed, _INFINITE))


def plain_numbers(strings: Any) -> Floats | None:
    """The values of strings that are all finite numbers, most of them digits, minus and point
    alone.

    None when it is not so, or would take long to find out: then `is_number` has to look at each.
    A shortcut, several times as fast: the rule is applied to the few with other characters.
    """
    data, ends = _bytes_of(strings)
    # The characters from "-" to "9": minus, point, slash and digits; the cast refuses a slash.
    if not len(data):
        return None
    if data.min() < ord("-") or data.max() > ord("9"):
        places = np.flatnonzero((data < ord("-")) | (data > ord("9")))
        if len(places) > len(strings) * _MOST_UNUSUAL:
            return None
        unusual = strings.take(pa.array(np.unique(np.searchsorted(ends, places, side="right"))))
        if not pc.all(pc.match_substring_regex(unusual, _NUMBER_DOT)).as_py():
            return None
    try:
        values = strings.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    numbers = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    return numbers if np.isfinite(numbers).all() else None


def trim(strings: Any) -> Any:
    """Without the white space around. Returns the same array when there is none anywhere."""
    data, _ = _bytes_of(strings)
    if len(data) and ord(" ") < data.min() and data.max() < 0x80:
        return strings
    return pc.utf8_trim_whitespace(strings)


def _bytes_of(strings: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """All characters of the strings, and where in them each string ends."""
    _, offsets, data = strings.buffers()
    if data is None or not len(strings):
        return np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int32)
    begin = strings.offset
    ends = np.frombuffer(offsets, np.int32)[begin : begin + len(strings) + 1]
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]], ends[1:] - ends[0]


def is_grouped(trimmed: Any) -> Any:
    """Which strings look like digits in groups of three: "1,234" reads as 1234 or as 1.234."""
    return pc.match_substring_regex(trimmed, _GROUPED)


def to_numbers(trimmed: Any, decimal: str) -> Floats:
    """The values of strings for which `is_number` holds. Too large a number becomes an infinity."""
    if decimal == ",":
        trimmed = pc.replace_substring(trimmed, ",", ".")
    try:
        values = trimmed.cast(pa.float64())
    except pa.ArrowInvalid:  # A leading plus is all that the cast refuses.
        values = pc.replace_substring_regex(trimmed, r"^\+", "").cast(pa.float64())
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def overflowing(trimmed: Any, values: Floats) -> bool:
    """True when digits became an infinity."""
    infinite = np.isinf(values)
    if not infinite.any():
        return False
    spelt = trimmed.filter(pa.array(infinite))
    return not pc.all(pc.match_substring_regex(spelt, _INFINITE)).as_py()


def inexact_integers(trimmed: Any) -> bool:
    """True when an integer among the strings is not exactly a float64."""
    long = trimmed.filter(pc.greater_equal(pc.binary_length(trimmed), 16))
    if not len(long):
        return False
    long = long.filter(pc.match_substring_regex(long, _BARE_INTEGER))
    return any(
        np.isfinite(value := float(text)) and int(text) != int(value) for text in long.to_pylist()
    )


def number_text(value: float) -> str:
    """The shortest spelling of a number that reads back as it: "1" for 1.0, "0.1", "1e+22"."""
    if value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return repr(value)


_PARTS = {
    "Y": "[0-9]{4}",
    "m": "(?:0?[1-9]|1[0-2])",
    "d": "(?P<day>0?[1-9]|[12][0-9]|3[01])",
    "H": "(?:[01]?[0-9]|2[0-3])",
    "M": "[0-5]?[0-9]",
    "S": "[0-5]?[0-9]",
    "f": "[0-9]{1,9}",
}
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y")
_TIMES = (" %H:%M:%S", " %H:%M", "T%H:%M:%S", "T%H:%M")

DATE_FORMATS: tuple[str, ...] = (
    *_DATES,
    *(date + time for date in _DATES for time in _TIMES[:2]),
    *("%Y-%m-%d" + time for time in _TIMES[2:]),
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%Y-%m",
)
"""Patterns that are found out, the preferred one first.

A field other than the year may have one digit ("3" for "03").
"""


def date_regex(date_format: str) -> str:
    """The regular expression of a pattern's cells."""
    pieces = re.split(r"(%[YmdHMSf])", date_format)
    body = "".join(_PARTS[p[1:]] if p.startswith("%") else re.escape(p) for p in pieces)
    return f"^{body}$"


def is_date(trimmed: Any, date_format: str) -> Any:
    """Which of the trimmed strings are days that exist, spelt by the pattern."""
    pattern = date_regex(date_format)
    shape = pc.match_substring_regex(trimmed, pattern)
    if "%d" not in date_format:
        return shape
    plain = date_format.replace(".%f", "")
    text = trimmed
    if plain != date_format:
        text = pc.replace_substring_regex(trimmed, r"\.[0-9]+", "")
    parsed = pc.strptime(text, format=plain, unit="s", error_is_null=True)
    # strptime rolls 31 February over: the day that was read has to be the day that is written.
    written = pc.extract_regex(trimmed, pattern=pattern).field("day")
    written = pc.if_else(shape, written, "0").cast(pa.int64())
    return pc.and_(shape, pc.fill_null(pc.equal(pc.day(parsed), written), False))

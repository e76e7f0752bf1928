"""Tables and inspections as JSON: between the server and its parse child, and in the database.

The JSON of a dataclass is an object with its fields; enums are their values; tuples are arrays.
Unknown fields are ignored and absent ones take their defaults, so that stored rows outlive
releases.
"""

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from allotment_core.errors import DataLoss

T = TypeVar("T")


def to_json(value: object) -> str:
    """The dataclass as one line of JSON."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def from_json(cls: type[T], text: str | bytes) -> T:
    """The dataclass that `to_json` wrote. Raises: DataLoss for anything else."""
    try:
        built: T = _build(cls, json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise DataLoss(
            f"a stored {cls.__name__} can't be read ({type(e).__name__}); "
            "restore the database from a backup",
            reason="BAD_RECORD",
        ) from e
    return built


def _plain(value: object) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _build(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_build(item, v) for v in value)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _build(next(a for a in typing.get_args(hint) if a is not type(None)), value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = _hints(hint)
        return hint(**{k: _build(hints[k], v) for k, v in value.items() if k in hints})
    return value

"""Configuration: one frozen dataclass per service, read once from the environment."""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from allotment_core.errors import InvalidArgument, clip

C = TypeVar("C")

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True}
_BOOLEANS |= {"0": False, "false": False, "no": False, "off": False}


def load(cls: type[C], env: Mapping[str, str], prefix: str) -> C:
    """The config: field `work_dir` comes from `{prefix}WORK_DIR`, unset fields keep their defaults.

    Fields are str, int, float, bool, Path, an Enum (by its values), tuples of str (separated by
    commas), or one of these or None ("" reads as None).
    Raises: InvalidArgument (INVALID_CONFIG) for an unknown variable with the prefix, a value that
        does not read, or a field without a default that is not set.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values: dict[str, Any] = {}
    for variable, text in env.items():
        if not variable.startswith(prefix):
            continue
        name = variable.removeprefix(prefix).lower()
        if name not in fields:
            known = ", ".join(prefix + f.upper() for f in sorted(fields))
            raise _bad(f"{clip(variable)} is not a setting; there are {known}")
        values[name] = _read(variable, text, hints[name])
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise _bad(f"{prefix}{name.upper()} is not set and has no default")
    return cls(**values)


def _read(variable: str, text: str, hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if text == "":
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(hint, enum.EnumType):
        return _member(variable, text, hint)
    try:
        if hint is bool:
            return _BOOLEANS[text.lower()]
        if hint in (int, float, str, Path):
            return hint(text)
    except (ValueError, KeyError):
        raise _bad(f"{variable} is {clip(text)!r}, which is not a {hint.__name__}") from None
    raise TypeError(f"settings of type {hint} are not supported")


def _member(variable: str, text: str, kind: enum.EnumType) -> Any:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)  # type: ignore[var-annotated]
        raise _bad(f"{variable} is {clip(text)!r}; it has to be one of {known}") from None


def _bad(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="INVALID_CONFIG")

"""Hyper-parameters of a production: their kinds, ranges and defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from allotment_search.derivation import Value
from allotment_search.rules import RULES
from allotment_search.shape import TaskShape


@dataclass(frozen=True, slots=True)
class Bound:
    """A number, or the name of a rule that computes it from the task's shape."""

    number: float | None = None
    rule: str = ""

    def of(self, shape: TaskShape) -> int | float:
        return RULES[self.rule](shape) if self.number is None else self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One hyper-parameter. ``when``: another one of its component, and the value that it needs."""

    kind: str
    default: Value | Bound
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    zero: bool = False
    """0 is allowed besides the range, and drawn in one case of four."""
    values: tuple[Value, ...] = ()
    at_least: Bound | None = None
    at_most: Bound | None = None
    when: tuple[str, Value] | None = None

    def problem(self, value: Value) -> str:
        """Why the value is not allowed; "" when it is."""
        if self.kind == "flag":
            return "" if isinstance(value, bool) else "has to be true or false"
        if self.kind == "choice":
            known = any(value == v and type(value) is type(v) for v in self.values)
            return "" if known else f"has to be one of {', '.join(map(str, self.values))}"
        wanted = (int,) if self.kind == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
            return "has to be a whole number" if self.kind == "int" else "has to be a number"
        if self.low <= value <= self.high or (self.zero and value == 0):
            return ""
        return f"has to be {self.low:g} to {self.high:g}" + (" or 0" if self.zero else "")

    def default_for(self, shape: TaskShape) -> Value:
        value = self.default.of(shape) if isinstance(self.default, Bound) else self.default
        return self.within(value, shape)

    def within(self, value: Value, shape: TaskShape) -> Value:
        """The value moved into what this shape allows."""
        if self.kind not in ("int", "float") or isinstance(value, str):
            return value
        number = float(value)
        if self.at_most is not None:
            number = min(number, float(self.at_most.of(shape)))
        if self.at_least is not None:
            number = max(number, float(self.at_least.of(shape)))
        if not (self.zero and number == 0):
            number = min(self.high, max(self.low, number))
        return int(number) if self.kind == "int" else number

    def draw(self, shape: TaskShape, rng: np.random.Generator) -> Value:
        if self.kind == "flag":
            return bool(rng.random() < 0.5)
        if self.kind == "choice":
            return self.values[int(rng.random() * len(self.values))]
        if self.zero and rng.random() < 0.25:
            return 0 if self.kind == "int" else 0.0
        low, high = self.low, self.high
        if self.at_least is not None:
            low = min(max(low, float(self.at_least.of(shape))), high)
        if self.at_most is not None:
            high = max(min(high, float(self.at_most.of(shape))), low)
        number = _draw_between(low, high, log=self.log, rng=rng)
        if self.kind == "int":
            return min(int(high), max(math.ceil(low), round(number)))
        return min(high, max(low, float(f"{number:.4g}")))


def _draw_between(low: float, high: float, *, log: bool, rng: np.random.Generator) -> float:
    share = float(rng.random())
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def read_parameter(name: str, raw: Mapping[str, Any]) -> Parameter:
    """A parameter out of a grammar file. Raises: ValueError when it is not consistent."""
    kind = raw["type"]
    if kind not in ("int", "float", "choice", "flag"):
        raise ValueError(f"parameter {name} has the unknown type {kind!r}")
    default = raw["default"]
    bounds = {k: _read_bound(name, raw[k]) for k in ("at_least", "at_most") if k in raw}
    when = tuple(raw["when"]) if "when" in raw else None
    parameter = Parameter(
        kind=kind,
        default=_read_bound(name, default) if isinstance(default, dict) else default,
        low=raw.get("low", 0.0),
        high=raw.get("high", 0.0),
        log=raw.get("log", False),
        zero=raw.get("zero", False),
        values=tuple(raw.get("values", ())),
        when=when,
        **bounds,
    )
    if not isinstance(default, dict) and (problem := parameter.problem(default)):
        raise ValueError(f"parameter {name}: its default {default!r} {problem}")
    if kind in ("int", "float") and not parameter.low < parameter.high:
        raise ValueError(f"parameter {name} has an empty range")
    if parameter.log and parameter.low <= 0:
        raise ValueError(f"parameter {name} is logarithmic and its range begins at or below 0")
    return parameter


def _read_bound(name: str, raw: Any) -> Bound:
    if isinstance(raw, dict):
        if raw.get("rule") not in RULES:
            raise ValueError(f"parameter {name} names the unknown rule {raw.get('rule')!r}")
        return Bound(rule=raw["rule"])
    return Bound(number=raw)

"""Derivations of one family as points of a box, for samplers that model numbers.

Each choice that the task's shape leaves open is a dimension: a number in [0, 1], or one of a few
values. A dimension that a derivation does not reach (a parameter of the production that it did not
take) has a neutral value there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from allotment_search.derivation import Choice, Derivation, Value
from allotment_search.parameters import Parameter
from allotment_search.shape import TaskShape
from allotment_search.space import Production

_ZERO_SHARE = 0.25
"""Of a parameter's interval stands for 0, where 0 is allowed besides its range."""

Point = Mapping[str, float | int]
"""A number for each dimension; for a dimension of values their index."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """``values`` is empty for an interval."""

    name: str
    values: tuple[Value, ...] = ()

    @property
    def neutral(self) -> float | int:
        return 0 if self.values else 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """One non-terminal of a family as the shape leaves it: the productions that may be taken."""

    symbol: str
    productions: tuple[Production, ...]
    fixed: bool
    """Nothing depends on it here: its parameters have their defaults."""


class Encoding:
    """The box of one family for one shape."""

    def __init__(self, start: str, family: str, steps: tuple[Step, ...], shape: TaskShape) -> None:
        self._start = Choice(start, family)
        self._steps = steps
        self._shape = shape
        self.dimensions = tuple(self._dimensions())

    def _dimensions(self) -> list[Dimension]:
        found: list[Dimension] = []
        for step in self._steps:
            if step.fixed:
                continue
            if len(step.productions) > 1:
                found.append(Dimension(step.symbol, tuple(p.name for p in step.productions)))
            for production in step.productions:
                for name, parameter in production.params.items():
                    values = _values(parameter)
                    if len(values) != 1:
                        found.append(Dimension(_key(step, production, name), values))
        return found

    def encode(self, derivation: Derivation) -> Point:
        """The derivation's point; values outside of what the shape allows are moved inside, and
        what an older grammar had no choice of is neutral."""
        chosen = {c.symbol: c.value for c in derivation}
        point: dict[str, float | int] = {d.name: d.neutral for d in self.dimensions}
        for step in self._steps:
            taken = chosen.get(step.symbol)
            production = next((p for p in step.productions if p.name == taken), None)
            if production is None or step.fixed:
                continue
            if step.symbol in point:
                point[step.symbol] = step.productions.index(production)
            for name, parameter in production.params.items():
                key, symbol = _key(step, production, name), f"{production.name}.{name}"
                if key in point and symbol in chosen:
                    point[key] = _place(parameter, chosen[symbol], self._shape)
        return point

    def decode(self, point: Point) -> Derivation | None:
        """The point's derivation; None where a production calls it senseless."""
        choices = [self._start]
        for step in self._steps:
            production = step.productions[int(point.get(step.symbol, 0))]
            choices.append(Choice(step.symbol, production.name))
            params: dict[str, Value] = {}
            for name, parameter in production.params.items():
                if parameter.when and params.get(parameter.when[0]) != parameter.when[1]:
                    continue
                place = point.get(_key(step, production, name))
                params[name] = (
                    parameter.default_for(self._shape)
                    if place is None
                    else _value(parameter, place, self._shape)
                )
                choices.append(Choice(f"{production.name}.{name}", params[name]))
            if not (step.fixed or all(sane.holds(params) for sane in production.sane)):
                return None
        return tuple(choices)


def _key(step: Step, production: Production, name: str) -> str:
    return f"{step.symbol}/{production.name}.{name}"


def _values(parameter: Parameter) -> tuple[Value, ...]:
    if parameter.kind == "flag":
        return (False, True)
    return parameter.values if parameter.kind == "choice" else ()


def _range(parameter: Parameter, shape: TaskShape) -> tuple[float, float]:
    low, high = parameter.low, parameter.high
    if parameter.at_least is not None:
        low = min(max(low, float(parameter.at_least.of(shape))), high)
    if parameter.at_most is not None:
        high = max(min(high, float(parameter.at_most.of(shape))), low)
    return low, high


def _place(parameter: Parameter, value: Value, shape: TaskShape) -> float | int:
    values = _values(parameter)
    if values:
        return values.index(value) if value in values else 0
    number, zone = float(value), _ZERO_SHARE if parameter.zero else 0.0
    if parameter.zero and number == 0:
        return zone / 2
    low, high = _range(parameter, shape)
    if high <= low:
        return 0.5
    number = min(high, max(low, number))
    if parameter.log:
        share = (math.log(number) - math.log(low)) / (math.log(high) - math.log(low))
    else:
        share = (number - low) / (high - low)
    return min(1.0, zone + (1 - zone) * share)


def _value(parameter: Parameter, place: float | int, shape: TaskShape) -> Value:
    values = _values(parameter)
    if values:
        return values[int(place)]
    zone = _ZERO_SHARE if parameter.zero else 0.0
    if parameter.zero and place < zone:
        return 0 if parameter.kind == "int" else 0.0
    low, high = _range(parameter, shape)
    share = (float(place) - zone) / (1 - zone)
    if parameter.log:
        number = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        number = low + share * (high - low)
    if parameter.kind == "int":
        return min(int(high), max(math.ceil(low), round(number)))
    return min(high, max(low, float(f"{number:.4g}")))

"""A derivation: the ordered choices that lead from a grammar's start symbol to one pipeline."""

from dataclasses import dataclass

Value = str | float | int | bool


@dataclass(frozen=True, slots=True)
class Choice:
    """One step: which production a non-terminal takes, or which value a hyper-parameter has.

    ``symbol`` is a non-terminal ("Pipeline", "Date") with a production's name as the value, or
    "component.parameter" ("lightgbm.learning_rate") with the parameter's value.
    """

    symbol: str
    value: Value


Derivation = tuple[Choice, ...]

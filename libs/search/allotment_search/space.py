"""The parts of a grammar, and how they are read from a data file."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from allotment_search.derivation import Value
from allotment_search.parameters import Parameter, read_parameter
from allotment_search.shape import TaskShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """How long one fit takes on one thread, in seconds: the order of magnitude."""

    base_s: float = 0.0
    cell_s: float = 0.0
    row_s: float = 0.0
    round_s: float = 0.0
    """For each of the ``times`` product, whatever the data's size."""
    per: str = ""
    """The type of columns whose cells count (numeric, category, date, text); "": the model's."""
    adds: str | int = 0
    """Columns that the model gets more for each of ``per``, or the parameter that says so."""
    times: tuple[str, ...] = ()
    log_rows: bool = False
    per_class: bool = False

    def added(self, params: Mapping[str, Value], shape: TaskShape) -> int:
        """Columns that the model gets more."""
        each = int(params.get(self.adds, 0)) if isinstance(self.adds, str) else self.adds
        return each * shape.count_of(self.per) if self.per else 0

    def of(self, params: Mapping[str, Value], shape: TaskShape, width: int) -> float:
        """Seconds. ``width``: the model's columns."""
        rows = shape.training_row_count
        columns = shape.count_of(self.per) if self.per else width
        factor = math.prod(float(params[name]) for name in self.times)
        if self.per_class:
            factor *= max(1, shape.output_count)
        work_s = rows * columns * self.cell_s + rows * self.row_s + self.round_s
        return self.base_s + work_s * factor * (math.log2(rows + 1) if self.log_rows else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sane:
    """A product of parameters that random draws keep inside a range."""

    product: tuple[str, ...]
    low: float
    high: float

    def holds(self, params: Mapping[str, Value]) -> bool:
        return self.low <= math.prod(float(params[n]) for n in self.product) <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """One way to replace a non-terminal: by other non-terminals, or by a component."""

    name: str
    expands: tuple[str, ...] = ()
    params: Mapping[str, Parameter] = field(default_factory=dict)
    weight: float = 1.0
    title: str = ""
    tasks: tuple[str, ...] = ()
    """Empty: every task."""
    target_above: float | None = None
    sane: tuple[Sane, ...] = ()
    cost: Cost | None = None

    def fits(self, shape: TaskShape) -> bool:
        if self.tasks and shape.task not in self.tasks:
            return False
        if self.target_above is None:
            return True
        return shape.target_minimum is not None and shape.target_minimum > self.target_above


@dataclass(frozen=True, slots=True, kw_only=True)
class NonTerminal:
    """A place in a pipeline. ``slot`` is the component's place; "" for one that only expands.

    ``inputs`` are the types that a model takes by slot; ``output`` is the type that it makes.
    """

    name: str
    slot: str
    output: str
    inputs: Mapping[str, tuple[str, ...]]
    needs: str
    productions: Mapping[str, Production]
    least: int = 1

    def matters(self, shape: TaskShape) -> bool:
        """Whether the task has as many columns as it needs of their type."""
        return not self.needs or shape.count_of(self.needs) >= self.least


@dataclass(frozen=True, slots=True)
class PortfolioEntry:
    """A named default, and the rows from which on it is worth a trial."""

    family: str
    default: str
    min_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A grammar file, read and checked."""

    name: str
    start: str
    nonterminals: Mapping[str, NonTerminal]
    defaults: Mapping[str, Mapping[str, Mapping[str, Value]]]
    portfolio: Sequence[PortfolioEntry]


def read_space(text: str) -> Space:
    """The space in a data file. Raises: ValueError when its parts or types don't fit together."""
    raw: dict[str, Any] = json.loads(text)
    space = Space(
        name=raw["name"],
        start=raw["start"],
        nonterminals={n: _read_nonterminal(n, r) for n, r in raw["nonterminals"].items()},
        defaults=raw["defaults"],
        portfolio=tuple(
            PortfolioEntry(p["family"], p["default"], p.get("min_rows", 0))
            for p in raw["portfolio"]
        ),
    )
    _check(space)
    return space


def _check(space: Space) -> None:
    _check_types(space)
    for entry in space.portfolio:
        if entry.default not in space.defaults.get(entry.family, {}):
            raise ValueError(f"the portfolio names {entry.family}/{entry.default}, not a default")


def add_family(space: Space, text: str) -> Space:
    """The space with a model family more, from its data file: what the start symbol expands to
    for it, the non-terminals that only it has, its defaults and which of them the portfolio tries.

    {"family", "title", "weight", "tasks", "expands", "nonterminals", "defaults", "portfolio"}

    Raises: ValueError when its parts or types don't fit together, or names are taken.
    """
    try:
        raw: dict[str, Any] = json.loads(text)
        family = str(raw["family"])
        own = {n: _read_nonterminal(n, r) for n, r in raw.get("nonterminals", {}).items()}
        production = _read_production(family, raw)
        portfolio = [
            PortfolioEntry(family, p["default"], p.get("min_rows", 0))
            for p in raw.get("portfolio", ())
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the family lacks or garbles {error}") from error
    start = space.nonterminals[space.start]
    taken = [n for n in own if n in space.nonterminals]
    if family in start.productions or taken:
        raise ValueError(f"family {family}: {', '.join(taken) or family} is there already")
    productions = {**start.productions, family: production}
    wider = replace(
        space,
        nonterminals={
            **space.nonterminals,
            space.start: replace(start, productions=productions),
            **own,
        },
        defaults={**space.defaults, family: {"default": {}, **raw.get("defaults", {})}},
        portfolio=(*space.portfolio, *portfolio),
    )
    _check(wider)
    return wider


def _read_nonterminal(name: str, raw: Mapping[str, Any]) -> NonTerminal:
    inputs = raw["input"] if isinstance(raw["input"], dict) else {}
    return NonTerminal(
        name=name,
        slot=raw.get("slot", ""),
        output=raw["output"],
        inputs={slot: tuple(types) for slot, types in inputs.items()},
        needs=raw.get("needs", raw.get("slot", "") if raw.get("slot") == "date" else ""),
        productions={p: _read_production(p, r) for p, r in raw["productions"].items()},
        least=raw.get("least", 1),
    )


def _read_production(name: str, raw: Mapping[str, Any]) -> Production:
    params = {p: read_parameter(f"{name}.{p}", r) for p, r in raw.get("params", {}).items()}
    cost = dict(raw.get("cost", {}))
    if "times" in cost:
        cost["times"] = tuple(cost["times"])
    return Production(
        name=name,
        expands=tuple(raw.get("expands", ())),
        params=params,
        weight=raw.get("weight", 1.0),
        title=raw.get("title", ""),
        tasks=tuple(raw.get("tasks", ())),
        target_above=raw.get("target_above"),
        sane=tuple(
            Sane(product=tuple(s["product"]), low=s["low"], high=s["high"])
            for s in raw.get("sane", ())
        ),
        cost=Cost(**cost) if cost else None,
    )


def _check_types(space: Space) -> None:
    """Every model takes what the components before it make. Raises: ValueError if not."""
    for family, production in space.nonterminals[space.start].productions.items():
        missing = [n for n in production.expands if n not in space.nonterminals]
        if missing:
            raise ValueError(f"family {family} expands to unknown non-terminals: {missing}")
        parts = [space.nonterminals[n] for n in production.expands]
        made = {part.slot: part.output for part in parts}
        if "model" not in made:
            raise ValueError(f"family {family} has no model")
        for part in parts:
            for slot, types in part.inputs.items():
                if made.get(slot) not in types:
                    raise ValueError(
                        f"family {family}: {part.name} takes {slot} as {' or '.join(types)}, "
                        f"and gets {made.get(slot)}"
                    )

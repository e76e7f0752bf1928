"""The typed grammar: from choices to pipelines and back, and how choices are drawn."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Self

import numpy as np

from allotment_core.errors import InvalidArgument, clip
from allotment_search.derivation import Choice, Derivation, Value
from allotment_search.encoding import Encoding, Step
from allotment_search.pipeline import Component, PipelineSpec
from allotment_search.shape import TaskShape
from allotment_search.space import (
    NonTerminal,
    PortfolioEntry,
    Production,
    Space,
    add_family,
    read_space,
)

_DRAWS_FOR_SANITY = 20


class Grammar:
    """A space of pipelines. Immutable; `load` reads each file once."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._families = space.nonterminals[space.start].productions

    @classmethod
    def load(cls, name: str) -> "Grammar":
        """The grammar shipped under this name ("tabular").

        Raises: ValueError when the file is not sound.
        """
        return _load(name)

    @classmethod
    def read(cls, text: str) -> Self:
        """The grammar in a data file's text. Raises: ValueError when it is not sound."""
        return cls(read_space(text))

    def with_family(self, text: str) -> "Grammar":
        """The grammar with the productions of a registered family (`add_family` tells the form).

        Raises: ValueError when they don't fit it.
        """
        return Grammar(add_family(self._space, text))

    @property
    def families(self) -> Sequence[str]:
        return tuple(self._families)

    @property
    def name(self) -> str:
        return self._space.name

    @property
    def portfolio(self) -> Sequence[PortfolioEntry]:
        return tuple(self._space.portfolio)

    def title(self, family: str) -> str:
        return self._families[family].title

    def family_weight(self, family: str) -> float:
        """How often a random draw takes the family, relative to the others."""
        return self._families[family].weight

    def default_fits(self, family: str, name: str, shape: TaskShape) -> bool:
        """Whether every choice that this default makes is allowed, and matters, for the shape."""
        chosen = self._space.defaults[family][name]
        return all(
            nonterminal.matters(shape) and nonterminal.productions[str(chosen[n])].fits(shape)
            for n, nonterminal in self._space.nonterminals.items()
            if n in chosen
        )

    def choices_of(self, family: str, name: str) -> Mapping[str, Value]:
        """What a named default chooses; the rest is as the grammar has it."""
        return dict(self._space.defaults[family][name])

    def reads_texts(self, family: str, name: str) -> bool:
        """Whether a default decides about text columns."""
        chosen = self._space.defaults[family][name]
        known = self._space.nonterminals
        return any(n in known and known[n].needs == "text" for n in chosen)

    def default(
        self, family: str, name: str = "default", shape: TaskShape | None = None
    ) -> Derivation:
        """A named default of a family, for a task of this shape.

        Raises: KeyError when there is none.
        """
        return self._follow(family, self._space.defaults[family][name], shape or _MEDIUM)

    def following(
        self, family: str, choices: Mapping[str, Value], shape: TaskShape
    ) -> Derivation | None:
        """The derivation that makes these choices where the shape has a place for them.

        None when one of them is not there, or not for this shape.
        """
        if family not in self._families:
            return None
        for nonterminal in self._expansion(family):
            if nonterminal.name not in choices:
                continue
            production = nonterminal.productions.get(str(choices[nonterminal.name]))
            if production is None or not production.fits(shape):
                return None
        derivation = self._follow(family, choices, shape)
        try:
            self.check(derivation)
        except InvalidArgument:
            return None
        return derivation

    def _follow(self, family: str, chosen: Mapping[str, Value], at: TaskShape) -> Derivation:
        choices = [Choice(self._space.start, family)]
        for nonterminal in self._expansion(family):
            # What the task has no columns for is the same in all of them.
            here = chosen if nonterminal.matters(at) else {}
            production = self._default_production(nonterminal, here, at)
            choices.append(Choice(nonterminal.name, production.name))
            params: dict[str, Value] = {}
            for parameter_name, parameter in production.params.items():
                if parameter.when and params.get(parameter.when[0]) != parameter.when[1]:
                    continue
                symbol = f"{production.name}.{parameter_name}"
                value = here.get(symbol, parameter.default_for(at))
                params[parameter_name] = parameter.within(value, at)
                choices.append(Choice(symbol, params[parameter_name]))
        return tuple(choices)

    def derive(
        self, rng: np.random.Generator, family: str | None = None, shape: TaskShape | None = None
    ) -> Derivation:
        """A random derivation: of a family, or of one drawn by weight."""
        at = shape or _MEDIUM
        if family is None:
            family = _draw_production(list(self._families.values()), rng).name
        choices = [Choice(self._space.start, family)]
        for nonterminal in self._expansion(family):
            if not nonterminal.matters(at):
                production = self._default_production(nonterminal, {}, at)
                params = {n: p.default_for(at) for n, p in production.params.items()}
            else:
                fitting = [p for p in nonterminal.productions.values() if p.fits(at)]
                production = _draw_production(fitting, rng)
                params = _draw_params(production, at, rng)
            choices.append(Choice(nonterminal.name, production.name))
            choices += [Choice(f"{production.name}.{n}", v) for n, v in params.items()]
        return tuple(choices)

    def encoding(self, family: str, shape: TaskShape) -> Encoding:
        """The family's derivations for this shape as points of a box."""
        steps = []
        for nonterminal in self._expansion(family):
            fixed = not nonterminal.matters(shape)
            if fixed:
                productions = [self._default_production(nonterminal, {}, shape)]
            else:
                productions = [p for p in nonterminal.productions.values() if p.fits(shape)]
            steps.append(Step(nonterminal.name, tuple(productions), fixed))
        return Encoding(self._space.start, family, tuple(steps), shape)

    def resolve(self, derivation: Derivation) -> PipelineSpec:
        """The pipeline that a derivation leads to.

        Raises: InvalidArgument (INVALID_DERIVATION) when it is not one of this grammar.
        """
        steps = _Steps(derivation)
        family = steps.production(self._space.start, self._families).name
        components: dict[str, Component] = {}
        for nonterminal in self._expansion(family):
            production = steps.production(nonterminal.name, nonterminal.productions)
            components[nonterminal.slot] = Component(production.name, steps.params(production))
        steps.end()
        return PipelineSpec(family, components)

    def check(self, derivation: Derivation) -> None:
        """Raises: InvalidArgument (INVALID_DERIVATION) when it is not one of this grammar."""
        self.resolve(derivation)

    def cost_s(self, derivation: Derivation, shape: TaskShape) -> float:
        """About how many seconds all fits of a trial take on one thread."""
        pipeline = self.resolve(derivation)
        fitted = []
        for nonterminal in self._expansion(pipeline.family):
            component = pipeline.components[nonterminal.slot]
            cost = nonterminal.productions[component.name].cost
            if cost is not None and nonterminal.matters(shape):
                fitted.append((cost, component.params))
        width = shape.feature_count + sum(cost.added(params, shape) for cost, params in fitted)
        return sum(cost.of(params, shape, width) for cost, params in fitted) * shape.fit_count

    def _expansion(self, family: str) -> Iterator[NonTerminal]:
        return (self._space.nonterminals[n] for n in self._families[family].expands)

    def _default_production(
        self, nonterminal: NonTerminal, chosen: Mapping[str, Value], shape: TaskShape
    ) -> Production:
        if nonterminal.name in chosen:
            return nonterminal.productions[str(chosen[nonterminal.name])]
        return next(p for p in nonterminal.productions.values() if p.fits(shape))


_MEDIUM = TaskShape(task="binary", row_count=1000, numeric_count=10, category_count=5, date_count=1)


class _Steps:
    """Reads a derivation from its start, choice by choice."""

    def __init__(self, derivation: Derivation) -> None:
        self._derivation = derivation
        self._next = 0

    def production(self, symbol: str, productions: Mapping[str, Production]) -> Production:
        value = self._take(symbol)
        if not isinstance(value, str) or value not in productions:
            raise _invalid(
                f"{symbol} has no production {clip(value)!r}; it has {', '.join(productions)}"
            )
        return productions[value]

    def params(self, production: Production) -> dict[str, Value]:
        params: dict[str, Value] = {}
        for name, parameter in production.params.items():
            if parameter.when and params.get(parameter.when[0]) != parameter.when[1]:
                continue
            value = self._take(f"{production.name}.{name}")
            if problem := parameter.problem(value):
                raise _invalid(f"{production.name}.{name} is {clip(value)!r}; it {problem}")
            params[name] = value
        return params

    def end(self) -> None:
        if self._next < len(self._derivation):
            raise _invalid(f"it goes on with {clip(self._derivation[self._next].symbol)!r}")

    def _take(self, symbol: str) -> Value:
        if self._next >= len(self._derivation):
            raise _invalid(f"it ends before {symbol}")
        choice = self._derivation[self._next]
        if choice.symbol != symbol:
            raise _invalid(f"{clip(choice.symbol)!r} stands where {symbol} should")
        self._next += 1
        return choice.value


def _draw_production(productions: Sequence[Production], rng: np.random.Generator) -> Production:
    mark = float(rng.random()) * sum(p.weight for p in productions)
    for production in productions:
        mark -= production.weight
        if mark < 0:
            return production
    return productions[-1]


def _draw_params(
    production: Production, shape: TaskShape, rng: np.random.Generator
) -> dict[str, Value]:
    params: dict[str, Value] = {}
    for _ in range(_DRAWS_FOR_SANITY):
        params = {}
        for name, parameter in production.params.items():
            if not parameter.when or params.get(parameter.when[0]) == parameter.when[1]:
                params[name] = parameter.draw(shape, rng)
        if all(sane.holds(params) for sane in production.sane):
            break
    return params


def _invalid(detail: str) -> InvalidArgument:
    return InvalidArgument(
        f"the derivation does not follow the grammar: {detail}", reason="INVALID_DERIVATION"
    )


@lru_cache(maxsize=8)
def _load(name: str) -> Grammar:
    file = resources.files("allotment_search") / "data" / f"{name}.json"
    return Grammar.read(file.read_text(encoding="utf-8"))

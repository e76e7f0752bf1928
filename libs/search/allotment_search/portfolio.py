"""What is tried first on every task: plain defaults, then what earlier tasks have taught."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from allotment_search.derivation import Derivation, Value
from allotment_search.grammar import Grammar
from allotment_search.origins import Origin
from allotment_search.shape import TaskShape

_CHEAP_S = 2.0
_PLAIN = ("quick", "default")
"""Defaults of these names come before anything learnt: what everybody would try by hand."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A configuration by the choices that it makes; the rest is as the grammar has it."""

    family: str
    choices: Mapping[str, Value]

    @property
    def key(self) -> str:
        """Names the configuration, on every task and in every release that has it."""
        text = json.dumps(self.choices, sort_keys=True)
        return f"{self.family}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Planned:
    """An entry of the portfolio, for one shape."""

    derivation: Derivation
    origin: Origin
    key: str = ""
    """Of what was learnt alone."""


@lru_cache(maxsize=256)
def plan(
    grammar: Grammar, shape: TaskShape, families: frozenset[str], order: tuple[str, ...] = ()
) -> tuple[Planned, ...]:
    """The portfolio in order: the constant predictor, the plain defaults, what was learnt.

    What was learnt stands by ``order``, keys of its entries; what that does not name comes after
    it, as shipped. Defaults that could not be learnt about, those of text columns, keep their
    place. Entries keep this order while they are cheap; dearer ones wait, by powers of four of
    cost.
    """
    learnt = [e for e in _learnt(grammar.name) if e.family in families]
    if order:
        places = {key: place for place, key in enumerate(order)}
        learnt.sort(key=lambda e: places.get(e.key, len(places)))
    planned: dict[Derivation, Planned] = {}
    for entry in grammar.portfolio:
        fits = entry.family in families and grammar.default_fits(entry.family, entry.default, shape)
        kept = (
            not learnt
            or entry.default in _PLAIN
            or grammar.reads_texts(entry.family, entry.default)
        )
        if fits and kept and shape.row_count >= entry.min_rows:
            derivation = grammar.default(entry.family, entry.default, shape)
            origin: Origin = "CONSTANT" if entry.family == "constant" else "DEFAULT"
            planned.setdefault(derivation, Planned(derivation, origin))
    for known in learnt:
        found = grammar.following(known.family, known.choices, shape)
        if found is not None:
            planned.setdefault(found, Planned(found, "PORTFOLIO", known.key))
    return tuple(
        sorted(planned.values(), key=lambda p: _cost_class(grammar.cost_s(p.derivation, shape), p))
    )


def portfolio(grammar: Grammar, shape: TaskShape, families: Collection[str]) -> list[Derivation]:
    """The portfolio's derivations, each once."""
    return [p.derivation for p in plan(grammar, shape, frozenset(families))]


def _cost_class(cost_s: float, planned: Planned) -> int:
    if planned.origin == "CONSTANT":
        return -1
    return 0 if cost_s <= _CHEAP_S else math.ceil(math.log(cost_s / _CHEAP_S, 4))


@lru_cache(maxsize=8)
def _learnt(grammar: str) -> tuple[Learnt, ...]:
    """The order that bench/portfolio.py has learnt for a grammar; empty: there is none."""
    file = resources.files("allotment_search") / "data" / "portfolio.json"
    known: Mapping[str, list[Any]] = json.loads(file.read_text(encoding="utf-8"))
    return tuple(Learnt(e["family"], e["choices"]) for e in known.get(grammar, []))

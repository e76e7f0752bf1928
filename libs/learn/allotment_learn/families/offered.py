"""The families by name, and which of them this machine can train.

A family's module is imported when the family is first needed: libraries take up to a second, and
most trainers need few of them. Families beyond those of this package come from modules that have
`FAMILIES`, a sequence of `ModelFamily` (docs/decisions/registered-families.md).
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from allotment_core.errors import InvalidArgument, clip
from allotment_learn.errors import FamilyUnavailable
from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, Saved
from allotment_search import Grammar

GRAMMAR = "tabular"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFamily:
    """Where a family's parts are: names of functions in its module."""

    name: str
    module: str
    fit: str = "fit"
    """(Training) -> Fitted."""
    restore: str = ""
    """(Training, Saved) -> Fitted, a fitted model of what its `save` gave; empty: its models are
    fitted again."""
    unavailable_because: str = ""
    """() -> str: why it can't be trained on this machine, empty when it can. Asked before the
    module's libraries are needed. Empty: it always can."""
    takes_missing: bool = False
    """Numbers may be missing (NaN) in its matrix."""
    grammar: str = ""
    """Its productions (`Grammar.with_family`); empty: the shipped grammar has them."""


_SHIPPED = (
    ModelFamily(name="constant", module="constant", takes_missing=True),
    ModelFamily(name="linear", module="linear", restore="restore"),
    ModelFamily(
        name="random_forest",
        module="forests",
        fit="fit_random_forest",
        restore="restore_random_forest",
    ),
    ModelFamily(
        name="extra_trees", module="forests", fit="fit_extra_trees", restore="restore_extra_trees"
    ),
    ModelFamily(
        name="hist_gradient_boosting", module="histogram", restore="restore", takes_missing=True
    ),
    ModelFamily(
        name="lightgbm",
        module="light",
        restore="restore",
        unavailable_because="unavailable_because",
        takes_missing=True,
    ),
    ModelFamily(
        name="mlp",
        module="mlp",
        restore="restore",
        unavailable_because="unavailable_because",
    ),
)
_FAMILIES = {family.name: family for family in _SHIPPED}
_grammar = Grammar.load(GRAMMAR)


@dataclass(frozen=True, slots=True)
class OfferedFamily:
    """`reason` says why it is not available; empty when it is."""

    family: str
    available: bool
    reason: str


def register(modules: Iterable[str]) -> None:
    """Adds the families of these modules, to fitting and to the grammar. Registering a family
    again changes nothing.

    Raises: ImportError; ValueError when a module has no families, a name is taken, or the
        productions don't fit the grammar.
    """
    global _grammar
    for module in modules:
        families = getattr(importlib.import_module(module), "FAMILIES", ())
        if not families:
            raise ValueError(f"module {module} has no FAMILIES")
        for family in families:
            if _FAMILIES.get(family.name) == family:
                continue
            if family.name in _FAMILIES:
                raise ValueError(f"module {module}: there is a family {family.name} already")
            _grammar = _grammar.with_family(family.grammar)
            if family.name not in _grammar.families:
                raise ValueError(f"module {module}: its productions are not of {family.name}")
            _FAMILIES[family.name] = family


def grammar() -> Grammar:
    """The shipped grammar with the productions of registered families."""
    return _grammar


def offered_families() -> list[OfferedFamily]:
    """Every family that this process knows. Imports no library of a shipped one."""
    found = []
    for family in _FAMILIES.values():
        problem = _problem(family)
        found.append(OfferedFamily(family.name, not problem, problem))
    return found


def modules(family: str) -> tuple[str, ...]:
    """What fitting the family imports; none for one that can't be trained here."""
    known = _FAMILIES.get(family)
    return (_path(known),) if known is not None and not _problem(known) else ()


def takes_missing(family: str) -> bool:
    """Whether its matrix may have missing numbers."""
    known = _FAMILIES.get(family)
    return known is not None and known.takes_missing


def fitter(family: str) -> Callable[[Training], Fitted]:
    """Raises: InvalidArgument for an unknown family, FamilyUnavailable for one that can't be
    loaded."""
    known = _FAMILIES.get(family)
    if known is None:
        raise InvalidArgument(
            f"there is no model family '{clip(family)}'; choose one of {', '.join(_FAMILIES)}",
            reason="NO_SUCH_FAMILY",
        )
    if problem := _problem(known):
        raise FamilyUnavailable(problem)
    fit: Callable[[Training], Fitted] = _part(known, known.fit)
    return fit


def restorer(family: str) -> Callable[[Training, Saved], Fitted] | None:
    """Makes a fitted model of what its `save` gave; None: the family's models are fitted again."""
    known = _FAMILIES.get(family)
    if known is None or not known.restore:
        return None
    restore: Callable[[Training, Saved], Fitted] = _part(known, known.restore)
    return restore


def _problem(family: ModelFamily) -> str:
    return str(_part(family, family.unavailable_because)()) if family.unavailable_because else ""


def _part(family: ModelFamily, name: str) -> Callable[..., Any]:
    part: Callable[..., Any] = getattr(importlib.import_module(_path(family)), name)
    return part


def _path(family: ModelFamily) -> str:
    return f"{__package__}.{family.module}" if family in _SHIPPED else family.module

"""The families by name, and which of them this machine can train."""

from collections.abc import Callable
from dataclasses import dataclass

from allotment_core.errors import InvalidArgument, clip
from allotment_learn.errors import FamilyUnavailable
from allotment_learn.families import constant, forests, histogram, light, linear, mlp
from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, Saved

_FAMILIES: dict[str, Callable[[Training], Fitted]] = {
    "constant": constant.fit,
    "linear": linear.fit,
    "random_forest": forests.fit_random_forest,
    "extra_trees": forests.fit_extra_trees,
    "hist_gradient_boosting": histogram.fit,
    "lightgbm": light.fit,
    "mlp": mlp.fit,
}
_RESTORERS: dict[str, Callable[[Training, Saved], Fitted]] = {
    "linear": linear.restore,
    "random_forest": forests.restore_random_forest,
    "extra_trees": forests.restore_extra_trees,
    "hist_gradient_boosting": histogram.restore,
    "lightgbm": light.restore,
    "mlp": mlp.restore,
}
_PROBLEMS: dict[str, Callable[[], str]] = {
    "lightgbm": light.unavailable_because,
    "mlp": mlp.unavailable_because,
}
"""Why a family with a library of its own can't be trained here; empty when it can."""
TAKES_MISSING = frozenset({"constant", "hist_gradient_boosting", "lightgbm"})


@dataclass(frozen=True, slots=True)
class OfferedFamily:
    """`reason` says why it is not available; empty when it is."""

    family: str
    available: bool
    reason: str


def offered_families() -> list[OfferedFamily]:
    """Every family that this version knows."""
    problems = {family: problem() for family, problem in _PROBLEMS.items()}
    return [
        OfferedFamily(name, not problems.get(name, ""), problems.get(name, ""))
        for name in _FAMILIES
    ]


def fitter(family: str) -> Callable[[Training], Fitted]:
    """Raises: InvalidArgument for an unknown family, FamilyUnavailable for one that can't be
    loaded."""
    if family not in _FAMILIES:
        raise InvalidArgument(
            f"there is no model family '{clip(family)}'; choose one of {', '.join(_FAMILIES)}",
            reason="NO_SUCH_FAMILY",
        )
    if family in _PROBLEMS and (problem := _PROBLEMS[family]()):
        raise FamilyUnavailable(problem)
    return _FAMILIES[family]


def restorer(family: str) -> Callable[[Training, Saved], Fitted] | None:
    """Makes a fitted model of what its `save` gave; None: the family's models are fitted again."""
    return _RESTORERS.get(family)

"""What a derivation resolves to: the components of one pipeline with their parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = str | float | int | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One named part of a pipeline. Which parameters it takes is the learner's affair."""

    name: str
    params: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSpec:
    """A model family with the components in its slots: numeric, category, date, model, target.

    `target` is there for regression alone and may be left out (identity).
    """

    family: str
    components: Mapping[str, Component]

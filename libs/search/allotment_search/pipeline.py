"""What a derivation means to the code that trains it: a family and its components by slot."""

from collections.abc import Mapping
from dataclasses import dataclass

from allotment_search.derivation import Value


@dataclass(frozen=True, slots=True)
class Component:
    """A building block by name ("impute", "onehot", "lightgbm") with all its hyper-parameters."""

    name: str
    params: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """A whole pipeline.

    ``components`` holds one component for each slot that the family has, out of "numeric",
    "category", "date", "model" and "target".
    """

    family: str
    components: Mapping[str, Component]

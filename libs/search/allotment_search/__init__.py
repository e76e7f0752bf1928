"""The space of pipelines, and who chooses from it. Pure: numpy and the standard library alone."""

from allotment_search.derivation import Choice, Derivation, Value
from allotment_search.pipeline import Component, PipelineSpec

__all__ = ["Choice", "Component", "Derivation", "PipelineSpec", "Value"]

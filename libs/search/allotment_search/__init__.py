"""The space of pipelines, and who chooses from it. Pure: numpy and the standard library alone."""

from allotment_search.derivation import Choice, Derivation, Value
from allotment_search.grammar import Grammar
from allotment_search.pipeline import Component, PipelineSpec
from allotment_search.play import (
    History,
    Proposal,
    RandomSampler,
    Sampler,
    next_proposals,
    portfolio,
)
from allotment_search.shape import TaskShape

__all__ = [
    "Choice",
    "Component",
    "Derivation",
    "Grammar",
    "History",
    "PipelineSpec",
    "Proposal",
    "RandomSampler",
    "Sampler",
    "TaskShape",
    "Value",
    "next_proposals",
    "portfolio",
]

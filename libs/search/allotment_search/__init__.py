"""The space of pipelines, and who chooses from it. Pure; Optuna is loaded late."""

from allotment_search.derivation import Choice, Derivation, Value
from allotment_search.experience import Experience, Traits
from allotment_search.grammar import Grammar
from allotment_search.history import History, HistoryView, Outcome
from allotment_search.origins import Origin
from allotment_search.pipeline import Component, PipelineSpec
from allotment_search.play import (
    MixedSampler,
    Proposal,
    RandomSampler,
    Sampler,
    SamplerKind,
    next_default,
    next_random,
    untried_defaults,
)
from allotment_search.portfolio import portfolio
from allotment_search.shape import TaskShape
from allotment_search.tpe import TpeSampler, load_optuna

__all__ = [
    "Choice",
    "Component",
    "Derivation",
    "Experience",
    "Grammar",
    "History",
    "HistoryView",
    "MixedSampler",
    "Origin",
    "Outcome",
    "PipelineSpec",
    "Proposal",
    "RandomSampler",
    "Sampler",
    "SamplerKind",
    "TaskShape",
    "TpeSampler",
    "Traits",
    "Value",
    "load_optuna",
    "next_default",
    "next_random",
    "portfolio",
    "untried_defaults",
]

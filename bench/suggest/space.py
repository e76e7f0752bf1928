"""A family's space as Optuna would have it."""

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from allotment_search import Grammar, TaskShape


def distributions_of(
    grammar: Grammar, family: str, shape: TaskShape
) -> dict[str, BaseDistribution]:
    """The same dimensions that our sampler models."""
    return {
        d.name: CategoricalDistribution(range(len(d.values)))
        if d.values
        else FloatDistribution(0.0, 1.0)
        for d in grammar.encoding(family, shape).dimensions
    }

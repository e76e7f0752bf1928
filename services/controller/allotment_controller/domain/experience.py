"""What an experiment leaves for later ones, and what earlier ones say about a new one.

Only with the tenant's consent, in both directions: without it nothing is kept and the shipped order
stays.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from allotment_controller.domain.decisions import CONSTANT, allowed_families
from allotment_controller.domain.experiment import Plan
from allotment_controller.domain.ledger import Change, Ledger
from allotment_controller.domain.ports import Consents, ExperienceStore
from allotment_controller.domain.task import Metric
from allotment_controller.domain.trial import Trial, TrialState
from allotment_core.names import ExperimentName, TenantName
from allotment_search import Experience, Grammar
from allotment_search.experience import nearest, order_for, relative_loss, says_something
from allotment_search.portfolio import plan as portfolio_of

log = logging.getLogger(__name__)

_NO_GOOD = frozenset({TrialState.FAILED, TrialState.STOPPED, TrialState.QUARANTINED})


class Experiences:
    """Of all tenants that consent."""

    def __init__(self, store: ExperienceStore, consents: Consents, grammar: Grammar) -> None:
        self._store = store
        self._consents = consents
        self._grammar = grammar

    async def ordered(self, name: ExperimentName, plan: Plan) -> Plan:
        """The plan with the portfolio in the order that the nearest earlier tasks speak for."""
        if plan.traits is None or not await self._consents.shares_experience(name.tenant):
            return plan
        past = await self._store.past(is_regression=plan.traits.is_regression)
        near = [past[place] for place in nearest(plan.traits, [e.traits for _, e in past])]
        withdrawn = await self._withdrawn({tenant for tenant, _ in near} - {name.tenant})
        said = [experience for tenant, experience in near if tenant not in withdrawn]
        families = frozenset(allowed_families(plan, self._grammar))
        entries = portfolio_of(self._grammar, plan.shape, families)
        order = order_for([e.key for e in entries if e.key], plan.traits, said)
        log.info(
            "portfolio ordered",
            extra={"experiment": str(name), "tasks": len(said), "changed": bool(order)},
        )
        return replace(plan, portfolio_order=order)

    async def _withdrawn(self, tenants: set[TenantName]) -> set[TenantName]:
        """Those that consent no more, whose experience goes now, or that nothing is known of."""
        asked = sorted(tenants, key=str)
        answers = await asyncio.gather(*(self._consents.shares_experience(t) for t in asked))
        for tenant, answer in zip(asked, answers, strict=True):
            if answer is False:
                await self._store.forget(tenant)
        return {t for t, answer in zip(asked, answers, strict=True) if not answer}

    async def left_by(self, ledger: Ledger, change: Change) -> Change:
        """A change of this ledger; where it ends the experiment, with what that leaves."""
        ends = change.experiment.ended and not ledger.experiment.ended
        if not ends or change.experiment.plan.refit is not None:
            return change
        consent = await self._consents.shares_experience(change.experiment.name.tenant)
        if consent is None:
            return change
        if not consent:
            return replace(change, forgets_experience=True)
        trials = {**ledger.trials, **{t.number: t for t in change.trials}}
        left = experience_of(change.experiment.plan, trials.values(), self._grammar)
        return replace(change, experience=left)


def experience_of(plan: Plan, trials: Iterable[Trial], grammar: Grammar) -> Experience | None:
    """What an experiment with these trials has shown of the portfolio; None: nothing."""
    if plan.traits is None:
        return None
    metric = plan.spec.metric
    by_derivation = {t.derivation: t for t in trials}
    losses = {t.derivation: _loss(t, metric) for t in by_derivation.values()}
    known = [loss for loss in losses.values() if loss is not None]
    constant = next(
        (losses[t.derivation] for t in by_derivation.values() if t.family == CONSTANT), None
    )
    if constant is None:
        return None
    results: dict[str, float | None] = {}
    for entry in portfolio_of(grammar, plan.shape, frozenset(allowed_families(plan, grammar))):
        trial = by_derivation.get(entry.derivation)
        if not entry.key or trial is None:
            continue
        loss = losses[entry.derivation]
        if loss is not None:
            results[entry.key] = relative_loss(loss, min(known), constant)
        elif trial.paused_at or trial.state in _NO_GOOD:
            results[entry.key] = None
    return Experience(traits=plan.traits, results=results) if says_something(results) else None


def _loss(trial: Trial, metric: Metric) -> float | None:
    """None unless it succeeded."""
    if trial.state is not TrialState.SUCCEEDED or trial.result is None:
        return None
    return metric.loss(trial.result.score)

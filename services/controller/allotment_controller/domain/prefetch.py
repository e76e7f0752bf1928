"""Keeps the sampler one step ahead of an experiment's free slots."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from allotment_controller.domain.decisions import allowed_families, seconds_left
from allotment_controller.domain.experiment import ExperimentState
from allotment_controller.domain.ledger import Ledger
from allotment_controller.domain.ports import Sampling
from allotment_controller.domain.prepared import Prepared, Ready, ask
from allotment_controller.domain.trial import Basis
from allotment_search import Grammar, untried_defaults

_WARM_UP_AT = 3
"""Defaults that are left when the sampler is loaded: that takes longer than most trials."""
_SPARE_LIMIT = 8


class Prefetch:
    """Asks for the next proposals as soon as none is left, and has them when a slot is free.

    Proposals are computed from the ledger as of the commit that took the last one. With one slot
    and a budget in trials that is a state which does not depend on time: trial n is chosen from
    what had ended when n - 1 was begun, also where the question comes later, after a restart or
    with a new budget. Slots wait for it where the budget is in trials alone; where time is the
    budget, a slot with nothing ready gets a random draw.
    """

    def __init__(self, sampling: Sampling, grammar: Grammar, wake: Callable[[], None]) -> None:
        self._sampling = sampling
        self._grammar = grammar
        self._wake = wake
        self._ready: list[Ready] = []
        self._task: asyncio.Task[None] | None = None
        self._dry_at = -1
        """The number of trials at which the sampler had nothing to propose."""

    def prepared(self, ledger: Ledger) -> Prepared:
        """For one edit of the ledger."""
        trial_budget_alone = ledger.experiment.plan.deadline is None
        dry = self._dry_at == len(ledger.history)
        return Prepared(self._ready, patient=trial_budget_alone and not dry)

    def committed(
        self,
        ledger: Ledger,
        prepared: Prepared,
        offered: frozenset[str],
        slot_count: int,
        now: datetime,
        training_ends: datetime | None,
    ) -> None:
        """An edit that might take what was ``prepared`` is part of the ledger now."""
        # What came while the edit was being written stays.
        self._ready = [
            r
            for r in self._ready
            if r not in prepared.used and (r.family in offered or not offered)
        ]
        if self._ready or self._task is not None or self._dry_at == len(ledger.history):
            return
        count = self._count(ledger, prepared.missing, slot_count)
        plan = ledger.experiment.plan
        families = frozenset(allowed_families(plan, self._grammar) & offered)
        if count == 0 or not families or not self._is_due(ledger, families):
            return
        left_s = seconds_left(plan, now, training_ends)
        self._task = asyncio.get_running_loop().create_task(
            self._fetch(ledger, families, count, left_s, one_slot=_slots(ledger, slot_count) == 1)
        )

    def warm_up(self) -> None:
        """Nothing runs yet, so that loading the sampler takes no time from trials."""
        self._sampling.warm_up()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _count(self, ledger: Ledger, missing: int, slot_count: int) -> int:
        experiment = ledger.experiment
        if experiment.state is not ExperimentState.RUNNING:
            return 0
        slots = _slots(ledger, slot_count)
        spare = min(_SPARE_LIMIT, (slots + 1) // 2)
        wanted = 1 if slots == 1 else missing + spare
        limit = experiment.plan.spec.budget.trial_count
        return min(wanted, max(0, limit - len(ledger.trials))) if limit else wanted

    def _is_due(self, ledger: Ledger, families: frozenset[str]) -> bool:
        """Whether the portfolio is through."""
        if ledger.is_past_defaults(self._grammar, families):
            return True
        plan = ledger.experiment.plan
        left = len(untried_defaults(self._grammar, plan.shape, families, ledger.history))
        limit = plan.spec.budget.trial_count
        if left <= _WARM_UP_AT and not 0 < limit <= len(ledger.trials) + left:
            self._sampling.warm_up()
        return False

    async def _fetch(
        self,
        ledger: Ledger,
        families: frozenset[str],
        count: int,
        left_s: float | None,
        *,
        one_slot: bool,
    ) -> None:
        try:
            experiment = ledger.experiment
            newest = ledger.trials[len(ledger.history)]
            revision = (one_slot and newest.create_revision) or experiment.revision
            question = ask(ledger, self._grammar, families, count, left_s, revision)
            proposals = await self._sampling.proposals(str(experiment.name), question)
            if not proposals:
                self._dry_at = len(ledger.history)
            for place, proposal in enumerate(proposals):
                basis = Basis(
                    revision=revision,
                    trial_count=len(question.history),
                    place=place,
                    families=tuple(sorted(families)),
                    left_s=left_s,
                )
                self._ready.append(Ready(proposal, basis))
        finally:
            self._task = None
        self._wake()


def _slots(ledger: Ledger, slot_count: int) -> int:
    return ledger.experiment.plan.spec.max_parallel_trials or max(1, slot_count)

"""Keeps the best ensemble of one experiment up to date, beside everything else."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from statistics import median
from typing import Any

from allotment_controller.domain.experiment import ExperimentState
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.model import ModelState, Recipe, mix_is_due, next_mix
from allotment_controller.domain.recipes import (
    BadPredictions,
    Cost,
    Predictions,
    best_recipe,
    read_predictions,
    recipe_of,
)
from allotment_controller.domain.refitting import members_of
from allotment_controller.domain.scheduler import Effects
from allotment_controller.domain.surroundings import Surroundings
from allotment_core.errors import (
    Aborted,
    AllotmentError,
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
)
from allotment_search.ensembles import EnsembleLimits

log = logging.getLogger(__name__)

_PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted, Aborted)
_PAUSE_S = 0.5
_REST = 3.0
"""With a deadline: rests that many times as long as the last one took to compute."""
_CANDIDATES = 50
_MEMBERS = 8
_FILE_BYTES = 64 << 20
_KEPT_BYTES = 128 << 20
"""Predictions that one ensemble chooses from."""
_GRAPH_BYTES = 150_000_000
"""Of an ensemble's members together."""
_LATENCY_MS = 100.0
"""Of one row, for an ensemble's members together, by what was measured of models here."""
_EXPORT_BYTES_PER_S = 8e6
"""Before one was measured."""
_EXPORT_START_S = 0.3
_EXPORT_SHARE = 0.05
_EXPORT_LEAST_S = 1.0


class Mixing:
    """Computes after trials that succeed; `change` brings what it led to about.

    With a budget in trials alone the results are those of a fixed sequence, whatever the timing.
    With a deadline only the newest state counts. Nothing is stored: after a restart it is computed
    again from the trials' rows and predictions.
    """

    def __init__(
        self,
        around: Surroundings,
        ledger: Callable[[], Ledger],
        change: Callable[[Callable[[Edit, Effects], None]], Coroutine[Any, Any, None]],
    ) -> None:
        self._around = around
        self._ledger = ledger
        self._change = change
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._sizes_bytes: dict[int, int] = {}
        self._unusable: set[int] = set()

    def poke(self) -> None:
        """A trial may have succeeded, or the experiment may be about to end."""
        if _finishing(self._ledger()):
            self._hurry.set()
        if self._next_count() and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stops what it does."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._around.shelf.drop(self._ledger().experiment.name)

    def _next_count(self) -> int:
        """How many of the succeeded trials the next ensemble is of; 0: none is due."""
        ledger = self._ledger()
        count = ledger.success_count
        state = ledger.mix
        over = ledger.experiment.ended or ledger.experiment.ends_as is ExperimentState.CANCELLED
        if over or not mix_is_due(state, count, finishing=_finishing(ledger)):
            return 0
        if ledger.experiment.plan.deadline is not None or state.fresh:
            return count
        return min(count, next_mix(state.considered))

    async def _run(self) -> None:
        while count := self._next_count():
            try:
                await self._mix(count)
            except _PASSING as e:
                log.warning("ensemble delayed", extra={"reason": e.reason, "error": e.message})
                await asyncio.sleep(_PAUSE_S)
            except AllotmentError as e:
                log.error("ensemble not stored", extra={"reason": e.reason, "error": e.message})
                return

    async def _mix(self, count: int) -> None:
        ledger = self._ledger()
        begun = self._around.clock.monotonic()
        recipe = None
        try:
            async with self._around.mixers:
                recipe = await self._recipe(ledger, count)
        except _PASSING:
            raise
        except Exception:
            # Exports wait for what was found: nothing, then.
            log.exception("ensemble failed", extra={"experiment": str(ledger.experiment.name)})
        took_s = self._around.clock.monotonic() - begun
        ledger.mix.note(count, recipe, took_s, ledger.experiment.plan.spec.metric)
        await self._change(lambda edit, effects: None)
        if ledger.experiment.plan.deadline is not None and not self._hurry.is_set():
            try:
                async with asyncio.timeout(_REST * took_s):
                    await self._hurry.wait()
            except TimeoutError:
                return

    async def _recipe(self, ledger: Ledger, count: int) -> Recipe | None:
        plan = ledger.experiment.plan
        wanted = await self._fetch(ledger, count)
        if plan.refit is not None:
            members, temperature = members_of(plan.refit), plan.refit.temperature
            if any(m.trial not in wanted for m in members):
                return None
            return await asyncio.to_thread(
                recipe_of, members, temperature, wanted, plan.spec.metric
            )
        limits = EnsembleLimits(
            members=_MEMBERS, size_bytes=_size_limit_bytes(ledger), latency_ms=_LATENCY_MS
        )
        costs, folds = _costs(ledger, self._sizes_bytes), plan.split.fit_count
        return await asyncio.to_thread(best_recipe, wanted, costs, plan.spec.metric, limits, folds)

    async def _fetch(self, ledger: Ledger, count: int) -> dict[int, Predictions]:
        """Of the best trials among the first `count`, as many as are held at once."""
        left_out = self._unusable | _refused(ledger)
        numbers = [n for n in ledger.succeeded[:count] if n not in left_out]
        metric = ledger.experiment.plan.spec.metric
        numbers.sort(key=lambda n: (metric.loss(_score(ledger, n)), n))
        kept = self._around.shelf.of(ledger.experiment.name)
        found: dict[int, Predictions] = {}
        size_bytes = 0
        for number in numbers[:_CANDIDATES]:
            like = next(iter((found or kept).values()), None)
            predictions = kept.get(number) or await self._predictions(ledger, number, like)
            if predictions is None:
                continue
            size_bytes += predictions.size_bytes
            if found and size_bytes > _KEPT_BYTES:
                break
            found[number] = predictions
        self._around.shelf.put(ledger.experiment.name, found)
        return found

    async def _predictions(
        self, ledger: Ledger, number: int, like: Predictions | None
    ) -> Predictions | None:
        """None where they can't be used, or are not of the same rows; that is remembered."""
        result = ledger.trials[number].result
        if result is None or not result.predictions_sha256:
            self._unusable.add(number)
            return None
        plan, tenant = ledger.experiment.plan, ledger.experiment.name.tenant
        datasets = self._around.datasets
        try:
            content = await datasets.read(tenant, result.predictions_sha256, _FILE_BYTES)
            if number not in self._sizes_bytes:
                self._sizes_bytes[number] = await datasets.size_bytes(tenant, result.graph_sha256)
            found = await asyncio.to_thread(
                read_predictions, content, len(plan.classes), _FILE_BYTES
            )
            found = found if like is None else found.sharing(like)
        except _PASSING:
            raise
        except (BadPredictions, AllotmentError) as e:
            log.info("trial not in ensembles", extra={"trial": number, "error": str(e)})
            self._unusable.add(number)
            return None
        return found


def _finishing(ledger: Ledger) -> bool:
    return ledger.experiment.state is ExperimentState.FINISHING


def _score(ledger: Ledger, number: int) -> float:
    result = ledger.trials[number].result
    return float("inf") if result is None else result.score


def _refused(ledger: Ledger) -> set[int]:
    """Trials of models that did not pass the export, unless another model with them did."""
    passed, failed = set(), set()
    for model in ledger.models.values():
        numbers = {member.trial for member in model.parts}
        if model.state is ModelState.READY:
            passed |= numbers
        elif model.state is ModelState.REFUSED:
            failed |= numbers
    return failed - passed


def _costs(ledger: Ledger, sizes_bytes: Mapping[int, int]) -> dict[int, Cost]:
    """By trial. Latency is measured of models that are one trial, else taken from their size."""
    measured = {
        model.trial: model.artefact
        for model in ledger.models.values()
        if model.artefact and model.is_trial and model.artefact.size_bytes > 0
    }
    total_bytes = sum(a.size_bytes for a in measured.values())
    per_byte = sum(a.latency_ms for a in measured.values()) / max(1, total_bytes)
    return {
        number: Cost(size, measured[number].latency_ms if number in measured else size * per_byte)
        for number, size in sizes_bytes.items()
    }


def _size_limit_bytes(ledger: Ledger) -> int:
    """What can be exported in a twentieth of the time, by what exports took so far."""
    plan = ledger.experiment.plan
    if plan.deadline is None:
        return _GRAPH_BYTES
    total_s = (plan.deadline - plan.begin_time).total_seconds()
    rates = [
        model.artefact.size_bytes / max(0.1, taken_s - _EXPORT_START_S)
        for model in ledger.models.values()
        if model.artefact and model.artefact.size_bytes > 1_000_000
        if (taken_s := model.export_s) is not None
    ]
    rate = median(rates[-5:]) if rates else _EXPORT_BYTES_PER_S
    return min(_GRAPH_BYTES, int(rate * (_EXPORT_LEAST_S + _EXPORT_SHARE * total_s)))

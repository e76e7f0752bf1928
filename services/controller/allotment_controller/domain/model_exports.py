"""Brings the models of one experiment through the export gate."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from allotment_controller.domain.incumbent import improves
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.model import Artefact, Model, ModelState
from allotment_controller.domain.scheduler import Effects
from allotment_controller.domain.surroundings import Surroundings
from allotment_controller.domain.task import Problem
from allotment_controller.domain.views import ModelView
from allotment_core.errors import (
    Aborted,
    AllotmentError,
    DeadlineExceeded,
    ErrorKind,
    ResourceExhausted,
    Unavailable,
)

log = logging.getLogger(__name__)

Alter = Callable[[Edit, Effects], None]
_PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted, Aborted)
"""Errors of other services that a later try may not meet."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class ModelExports:
    """One task for each model that is EXPORTING. ``change`` commits what an export leads to."""

    def __init__(
        self,
        around: Surroundings,
        ledger: Callable[[], Ledger],
        change: Callable[[Alter], Coroutine[Any, Any, None]],
    ) -> None:
        self._around = around
        self._ledger = ledger
        self._change = change
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._withdrawals: set[asyncio.Task[None]] = set()

    def start(self, number: int) -> None:
        """Exports the model of this number, or goes on with it; once, however often it is asked."""
        if number in self._tasks:
            return
        task = asyncio.get_running_loop().create_task(self._export(number))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    def withdraw(self, model: Model) -> None:
        """Nobody waits for this model any more."""
        task = self._tasks.pop(model.number, None)
        if task is not None:
            task.cancel()
        if model.export:
            withdrawal = asyncio.get_running_loop().create_task(self._cancel(model.export))
            self._withdrawals.add(withdrawal)
            withdrawal.add_done_callback(self._withdrawals.discard)

    async def finish(self) -> None:
        """Waits for what is under way."""
        tasks = [*self._tasks.values(), *self._withdrawals]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Leaves everything as it is."""
        for task in [*self._tasks.values(), *self._withdrawals]:
            task.cancel()
        await self.finish()

    async def _export(self, number: int) -> None:
        """Until the exporter has decided, however often it goes away."""
        outcome = await self._outcome(number)

        def alter(edit: Edit, effects: Effects) -> None:
            model = edit.model(number)
            if model is None or model.state is not ModelState.EXPORTING:
                return
            if isinstance(outcome, Problem):
                edit.put_model(model.refused(outcome))
                return
            edit.put_model(model.ready(outcome, edit.now))
            if improves(edit, model):
                edit.experiment = replace(
                    edit.experiment, best_model=number, best_score=model.score
                )

        await self._persist(alter)

    async def _persist(self, alter: Alter) -> None:
        """Commits, however long the store can't: an outcome must not be lost while we live."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._change(alter)
                return
            except _PASSING as e:
                log.warning("outcome not stored", extra={"reason": e.reason, "error": e.message})
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    async def _outcome(self, number: int) -> Artefact | Problem:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._try(number)
            except _PASSING as e:
                log.warning("export delayed", extra={"reason": e.reason, "error": e.message})
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
            except AllotmentError as e:
                if e.kind is ErrorKind.INTERNAL:
                    log.error("export failed", extra={"reason": e.reason, "error": e.message})
                return Problem(e.reason, f"it could not be exported: {e.message}")

    async def _try(self, number: int) -> Artefact | Problem:
        ledger = self._ledger()
        model = ledger.models[number]
        view = ModelView(model, tuple(ledger.trials[m.trial] for m in model.parts))
        export = model.export
        if not export:
            results = [trial.result for trial in view.trials if trial.result is not None]
            blobs = [sha for r in results for sha in (r.graph_sha256, r.reference_sha256)]
            if blobs:
                await self._around.datasets.hold(model.name, blobs)
            export = await self._around.exports.create(ledger.experiment, view)

            def alter(edit: Edit, effects: Effects) -> None:
                current = edit.model(number)
                if current is not None and not current.export:
                    edit.put_model(replace(current, export=export))

            await self._change(alter)
        return await self._around.exports.outcome(export)

    async def _cancel(self, export: str) -> None:
        try:
            await self._around.exports.cancel(export)
        except AllotmentError as e:
            log.info("export not cancelled", extra={"export": export, "reason": e.reason})

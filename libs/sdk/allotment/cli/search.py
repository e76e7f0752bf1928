"""The search of `allotment run`: upload, experiment, the best model so far at hand at any moment,
files at the end.
"""

import asyncio
import contextlib
import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allotment.aio.client import AsyncClient
from allotment.cli import own_server
from allotment.cli.countdown import Countdown
from allotment.cli.leaderboard import write_files
from allotment.cli.options import say
from allotment.cli.request import Interrupted, Request
from allotment.cli.view import View
from allotment.settings import Settings
from allotment.types import Experiment, ExperimentState, Model, ModelState, Trial
from allotment_core.errors import AllotmentError, FailedPrecondition, NotFound

LEAST_LEFT_S = 1.001
"""A search that begins late still asks for so much, which the server grants at least."""
GRACE_S = 0.4
"""After the deadline the server has so long to say that it has ended; then the model at hand is
taken.
"""
STOP_GRACE_S = 3.0
"""After Ctrl-C it has so long."""
FIRST_MODEL_GRACE_S = 30.0
"""After Ctrl-C without a model at hand it has so long to make the first one ready."""


@dataclass(slots=True)
class Found:
    """What the search has told so far."""

    experiment: Experiment | None = None
    trials: dict[str, Trial] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)

    @property
    def best(self) -> Model | None:
        """The best model that can be downloaded."""
        name = self.experiment.best_model if self.experiment else ""
        model = self.models.get(name)
        return model if model and model.state is ModelState.READY else None

    @property
    def ended(self) -> bool:
        return self.experiment is not None and self.experiment.state.final


class Search:
    """One run of the command."""

    def __init__(
        self,
        request: Request,
        view: View,
        countdown: Countdown,
        connect: Callable[[], Settings],
        folder: Path | None,
    ) -> None:
        """`folder`: where the model at hand is kept; one of our own server goes with that."""
        self._request = request
        self._view = view
        self._countdown = countdown
        self._connect = connect
        self._found = Found()
        self._staging = Path(tempfile.mkdtemp(prefix="allotment-model-", dir=folder))
        self._staged: Model | None = None
        self._connected = False
        self._interrupted = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Raises: Interrupted, ServerFailed, AllotmentError."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt)
        loop.add_signal_handler(signal.SIGTERM, self._abort, 128 + signal.SIGTERM)
        try:
            with self._view:
                settings = await asyncio.to_thread(self._connect)
                self._connected = True
                async with AsyncClient(
                    settings.address,
                    token=settings.token,
                    ca=settings.ca,
                    tenant=settings.tenant,
                    on_outage=say,
                ) as client:
                    await self._search(client)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
        if self._interrupted.is_set():
            raise Interrupted

    def _on_interrupt(self) -> None:
        if self._interrupted.is_set() or not self._connected:
            self._abort(130)
        self._interrupted.set()
        self._view.note("stopping; Ctrl-C once more aborts without writing a model")

    def _abort(self, status: int) -> None:
        """Ends this process at once, and what it started."""
        self._view.close()
        own_server.kill()
        shutil.rmtree(self._staging, ignore_errors=True)
        os._exit(status)

    async def _search(self, client: AsyncClient) -> None:
        try:
            experiment = await self._or_interrupt(self._begin(client))
        except _Stopped:
            raise Interrupted from None
        follower = asyncio.create_task(self._follow(client, experiment))
        fetcher = asyncio.create_task(self._keep_best(client))
        try:
            await self._wait_for_end(client, follower, fetcher)
        finally:
            late = not follower.done()
            for task in (follower, fetcher):
                task.cancel()
            ends = await asyncio.gather(follower, fetcher, return_exceptions=True)
        failures = [end for end in ends if isinstance(end, AllotmentError)]
        if not failures and not late:
            await self._stage(client)
        self._finish(experiment, failures)

    async def _begin(self, client: AsyncClient) -> Experiment:
        if self._request.resume:
            return await self._resume(client)
        request = self._request
        assert request.train is not None
        version = await client.datasets.upload(
            request.train,
            roles=request.roles,
            target_hint=request.target,
            progress=self._view.uploading,
        )
        self._view.data(version)
        experiment = await client.experiments.create(
            version,
            target=request.target,
            task=request.task,
            metric=request.metric,
            budget_s=request.budget_s,
            trials=request.trials,
            seed=request.seed,
            ignore=request.ignore,
            weight=request.weight,
            group=request.group,
            time=request.time,
            max_parallel=request.max_parallel,
            started_before_s=self._spent_s(),
            queue_timeout_s=request.queue_timeout_s,
        )
        self._countdown.heard(experiment)
        self._view.begun(experiment, version.warnings)
        return experiment

    async def _resume(self, client: AsyncClient) -> Experiment:
        request = self._request
        self._view.known([trial async for trial in client.experiments.trials(request.resume)])
        experiment = await client.experiments.resume(
            request.resume,
            budget_s=request.budget_s,
            trials=request.trials,
            started_before_s=self._spent_s(),
            queue_timeout_s=request.queue_timeout_s,
        )
        self._countdown.heard(experiment)
        self._view.begun(experiment, experiment.warnings)
        return experiment

    def _spent_s(self) -> float:
        """How much of the budget is spent already, as far as a server may be told."""
        spent_s = time.monotonic() - self._request.started_monotonic
        return min(spent_s, (self._request.budget_s or math.inf) - LEAST_LEFT_S)

    async def _or_interrupt(self, work: Coroutine[Any, Any, Experiment]) -> Experiment:
        """The work's result. Raises: _Stopped at the first Ctrl-C, with the work cancelled."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._interrupted.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            raise _Stopped
        return task.result()

    async def _follow(self, client: AsyncClient, experiment: Experiment) -> None:
        found = self._found
        async for change in client.watch(experiment):
            if isinstance(change, Trial):
                found.trials[change.name] = change
            elif isinstance(change, Model):
                found.models[change.name] = change
            else:
                found.experiment = change
                self._countdown.heard(change)
            self._view.changed(change)
            self._changed.set()

    async def _keep_best(self, client: AsyncClient) -> None:
        """Holds the files of the best model so far, so that the end needs nothing from the
        server.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._stage(client)

    async def _stage(self, client: AsyncClient) -> None:
        model = self._found.best
        if model is None or (self._staged is not None and model.name == self._staged.name):
            return
        # A better one may replace it on the server in the meantime.
        with contextlib.suppress(NotFound):
            await client.models.download(model, self._folder(model))
            self._staged = model

    def _folder(self, model: Model) -> Path:
        return self._staging / model.name.rsplit("/", 1)[-1]

    async def _wait_for_end(
        self, client: AsyncClient, follower: "asyncio.Task[None]", fetcher: "asyncio.Task[None]"
    ) -> None:
        """Until the experiment has ended, or its time is over and a model is at hand."""
        end = give_up = math.inf
        stop = asyncio.create_task(self._interrupted.wait())
        try:
            while not follower.done() and not fetcher.done():
                now = time.monotonic()
                if stop.done() and give_up == math.inf:
                    end, give_up = now + STOP_GRACE_S, now + FIRST_MODEL_GRACE_S
                    await self._cancel(client)
                elif give_up == math.inf:
                    ends = self._countdown.ends
                    end = math.inf if ends is None else ends + GRACE_S
                if now >= give_up or (now >= end and self._staged is not None):
                    return
                tasks = {follower, fetcher} | (set() if stop.done() else {stop})
                pause_s = max(0.05, min(1.0, end - now))
                await asyncio.wait(tasks, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def _cancel(self, client: AsyncClient) -> None:
        if self._found.experiment is not None and not self._found.ended:
            with contextlib.suppress(FailedPrecondition, TimeoutError):
                await asyncio.wait_for(client.experiments.cancel(self._found.experiment), 5.0)

    def _finish(self, begun: Experiment, failures: Sequence[AllotmentError]) -> None:
        """Raises: the first failure, or why the search failed, after writing the model at hand."""
        experiment = self._found.experiment or begun
        trials = list(self._found.trials.values())
        if self._staged is not None:
            folder = self._folder(self._staged)
            metric, model = experiment.metric, self._staged
            files = write_files(self._request.out, folder, trials, metric, model)
            self._view.finished(experiment, self._staged, trials, files)
            if self._request.state_dir is not None:
                self._view.can_resume(experiment, self._request.state_dir, self._request.out)
        if failures:
            raise failures[0]
        if experiment.state is ExperimentState.FAILED and experiment.problem:
            raise FailedPrecondition(experiment.problem.message, reason=experiment.problem.reason)
        if self._staged is None:
            self._raise_without_model()

    def _raise_without_model(self) -> None:
        if self._interrupted.is_set():
            self._view.note("stopped before the first model was ready; nothing is written")
            return
        refused = [m.problem for m in self._found.models.values() if m.problem]
        failed = [t.problem for t in self._found.trials.values() if t.problem]
        why = next(reversed(refused or failed), None)
        raise AllotmentError(
            "the search ended without a model"
            + (f": {why.message} [{why.reason}]" if why else "; see `allotment families`"),
            reason="NO_MODEL",
        )


class _Stopped(Exception):
    """Ctrl-C before the search began."""

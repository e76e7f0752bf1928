"""Searches and their trials: `client.experiments`."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

import grpc.aio

from allotment import convert
from allotment.aio.group import PAGE_SIZE, Group
from allotment.connection import Connection, Outage, new_request_id
from allotment.naming import Named, nested_name, version_name
from allotment.types import (
    Change,
    Experiment,
    ExperimentState,
    Family,
    Metric,
    TaskType,
    Trial,
)
from allotment_api.search.v1 import search_pb2 as wire
from allotment_api.search.v1.search_pb2_grpc import SearchServiceStub
from allotment_core.errors import FailedPrecondition

OnChange = Callable[[Change], None]
_FINAL = (
    wire.EXPERIMENT_STATE_SUCCEEDED,
    wire.EXPERIMENT_STATE_CANCELLED,
    wire.EXPERIMENT_STATE_FAILED,
)


class Experiments(Group):
    """Start, follow and end searches."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stub = SearchServiceStub(connection.channel)

    async def create(
        self,
        data: str | Named,
        *,
        target: str,
        task: TaskType | str = "",
        metric: Metric | str = "",
        budget_s: float | None = None,
        trials: int = 0,
        max_parallel: int = 0,
        seed: int = 0,
        ignore: Sequence[str] = (),
        weight: str = "",
        group: str = "",
        time: str = "",
        families: Sequence[str] = (),
        without_early_stopping: bool = False,
        experiment_id: str = "",
        started_before_s: float = 0.0,
        queue_timeout_s: float | None = None,
    ) -> Experiment:
        """A search over a dataset's latest version, or over the given version.

        At least one of `budget_s` (seconds of wall time, 10 or more) and `trials` limits it;
        `started_before_s` is how much of `budget_s` is spent already. `without_early_stopping`:
        no trial is put off because others did better on its first folds. `queue_timeout_s`: it
        fails (QUEUE_TIMEOUT) when no trainer came within these seconds. Raises: InvalidArgument
        with the field that is wrong.
        """
        spec = wire.ExperimentSpec(
            dataset_version=version_name(data, self._tenant),
            target=target,
            max_parallel_trials=max_parallel,
            seed=seed,
            ignored_columns=ignore,
            weight_column=weight,
            group_column=group,
            time_column=time,
            families=[f if "/" in f else f"families/{f}" for f in families],
            without_early_stopping=without_early_stopping,
        )
        if task:
            spec.task = convert.task_to_wire(task)
        if metric:
            spec.metric = convert.metric_to_wire(metric)
        _set_budget(spec.budget, budget_s, trials, started_before_s, queue_timeout_s)
        request = wire.CreateExperimentRequest(
            request_id=new_request_id(),
            parent=self._tenant,
            experiment_id=experiment_id,
            spec=spec,
        )
        response = await self._call(self._stub.CreateExperiment, request)
        return convert.experiment(response.experiment)

    async def get(self, experiment: str | Named) -> Experiment:
        request = wire.GetExperimentRequest(name=self._name(experiment, "experiments"))
        return convert.experiment((await self._call(self._stub.GetExperiment, request)).experiment)

    async def list(self) -> AsyncIterator[Experiment]:
        """Every experiment of the tenant."""
        async for page in self._pages(
            self._stub.ListExperiments,
            lambda token: wire.ListExperimentsRequest(
                parent=self._tenant, page_size=PAGE_SIZE, page_token=token
            ),
        ):
            for item in page.experiments:
                yield convert.experiment(item)

    async def pause(self, experiment: str | Named) -> Experiment:
        """No new trials; the deadline goes on."""
        request = wire.PauseExperimentRequest(
            request_id=new_request_id(), name=self._name(experiment, "experiments")
        )
        response = await self._call(self._stub.PauseExperiment, request)
        return convert.experiment(response.experiment)

    async def resume(
        self,
        experiment: str | Named,
        *,
        budget_s: float | None = None,
        trials: int = 0,
        started_before_s: float = 0.0,
        queue_timeout_s: float | None = None,
    ) -> Experiment:
        """Goes on with a paused search; with a budget also with one that has ended, which keeps
        its whole history.

        `budget_s` (seconds from now, 10 or more) and `trials` (so many more) take the old
        budget's place; `started_before_s` is how much of `budget_s` is spent already.
        `queue_timeout_s` goes with a new budget: as for `create`.
        """
        request = wire.ResumeExperimentRequest(
            request_id=new_request_id(), name=self._name(experiment, "experiments")
        )
        if budget_s is not None or trials:
            _set_budget(request.budget, budget_s, trials, started_before_s, queue_timeout_s)
        response = await self._call(self._stub.ResumeExperiment, request)
        return convert.experiment(response.experiment)

    async def cancel(self, experiment: str | Named) -> Experiment:
        """Ends the search now; its models stay."""
        request = wire.CancelExperimentRequest(
            request_id=new_request_id(), name=self._name(experiment, "experiments")
        )
        response = await self._call(self._stub.CancelExperiment, request)
        return convert.experiment(response.experiment)

    async def delete(self, experiment: str | Named, *, etag: str = "") -> None:
        """Cancels it where needed, then forgets it with its trials and models."""
        request = wire.DeleteExperimentRequest(
            request_id=new_request_id(), name=self._name(experiment, "experiments"), etag=etag
        )
        await self._call(self._stub.DeleteExperiment, request)

    async def watch(
        self, experiment: str | Named, *, after_revision: int = 0
    ) -> AsyncIterator[Change]:
        """The experiment, its trials and models as they are, then every change until the
        experiment has ended.

        Goes on by itself where it was after a lost connection.
        """
        name = self._name(experiment, "experiments")
        revision = after_revision

        def open_stream() -> AsyncIterator[wire.WatchExperimentResponse]:
            call: grpc.aio.UnaryStreamCall[
                wire.WatchExperimentRequest, wire.WatchExperimentResponse
            ] = self._stub.WatchExperiment(
                wire.WatchExperimentRequest(name=name, after_revision=revision)
            )
            return call.__aiter__()

        outage = Outage(self._connection)
        final = False
        while not final:
            async for response in self._connection.follow(open_stream):
                revision = max(revision, response.revision)
                kind = response.WhichOneof("change")
                if kind == "experiment":
                    final = final or response.experiment.state in _FINAL
                    yield convert.experiment(response.experiment)
                elif kind == "trial":
                    yield convert.trial(response.trial)
                elif kind == "model":
                    yield convert.model(response.model)
            if not final:
                final = (await self.get(name)).state.final
                await outage.pause()

    async def wait(
        self, experiment: str | Named, *, progress: OnChange | None = None
    ) -> Experiment:
        """The experiment once it has ended; `progress` gets every change of it, its trials and
        models on the way.

        Raises: FailedPrecondition with the problem's reason when it failed.
        """
        async for change in self.watch(experiment):
            if progress:
                progress(change)
        ended = await self.get(experiment)
        if ended.state is ExperimentState.FAILED and ended.problem:
            raise FailedPrecondition(ended.problem.message, reason=ended.problem.reason)
        return ended

    async def trials(self, experiment: str | Named) -> AsyncIterator[Trial]:
        """Every trial, by number."""
        parent = self._name(experiment, "experiments")
        async for page in self._pages(
            self._stub.ListTrials,
            lambda token: wire.ListTrialsRequest(
                parent=parent, page_size=PAGE_SIZE, page_token=token
            ),
        ):
            for item in page.trials:
                yield convert.trial(item)

    async def trial(self, trial: str | Named) -> Trial:
        """A trial by its name or EXPERIMENT/NUMBER."""
        name = nested_name(trial, "experiments", "trials", self._tenant)
        response = await self._call(self._stub.GetTrial, wire.GetTrialRequest(name=name))
        return convert.trial(response.trial)

    async def families(self) -> AsyncIterator[Family]:
        """What can be trained here."""
        async for page in self._pages(
            self._stub.ListFamilies,
            lambda token: wire.ListFamiliesRequest(page_size=PAGE_SIZE, page_token=token),
        ):
            for item in page.families:
                yield convert.family(item)


def _set_budget(
    budget: wire.Budget,
    budget_s: float | None,
    trials: int,
    started_before_s: float,
    queue_timeout_s: float | None,
) -> None:
    budget.trial_count = trials
    if budget_s is not None:
        budget.wall_time.FromTimedelta(timedelta(seconds=budget_s))
        if started_before_s:
            budget.started_before.FromTimedelta(timedelta(seconds=started_before_s))
    if queue_timeout_s is not None:
        budget.queue_timeout.FromTimedelta(timedelta(seconds=queue_timeout_s))

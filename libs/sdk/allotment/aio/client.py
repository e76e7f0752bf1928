"""The asyncio client."""

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from allotment.aio.datasets import Datasets
from allotment.aio.experiments import Experiments, OnChange
from allotment.aio.models import Exports, Models
from allotment.aio.resources import Leases, Pools, Tenants
from allotment.connection import Connection, Notice
from allotment.naming import Named
from allotment.settings import Settings, resolve
from allotment.types import Change, DatasetVersion, Experiment, Metric, Model, TaskType
from allotment.upload import OnProgress, Source

PATIENCE_S = 60.0


class AsyncClient:
    """A server, from within one asyncio loop.

    Arguments that are not given come from the environment or the profile file (see
    `allotment.settings`). For `patience_s` it rides out a server that is away; `on_outage` gets a
    line when that begins and when it ends.

    The nouns are attributes: `datasets`, `experiments`, `models`, `exports`, `pools`, `tenants`,
    `leases`; the calls that most programs need are methods of the client itself.
    """

    def __init__(
        self,
        address: str = "",
        *,
        token: str = "",
        ca: str | Path | None = None,
        profile: str = "",
        tenant: str = "",
        patience_s: float = PATIENCE_S,
        on_outage: Notice | None = None,
    ) -> None:
        self.settings: Settings = resolve(
            os.environ, address=address, token=token, ca=ca, profile=profile, tenant=tenant
        )
        self._connection = Connection(self.settings, patience_s=patience_s, on_outage=on_outage)
        self.datasets = Datasets(self._connection)
        self.experiments = Experiments(self._connection)
        self.models = Models(self._connection)
        self.exports = Exports(self._connection)
        self.pools = Pools(self._connection)
        self.tenants = Tenants(self._connection)
        self.leases = Leases(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    async def upload(
        self,
        source: Source,
        *,
        dataset_id: str = "",
        target_hint: str = "",
        progress: OnProgress | None = None,
    ) -> DatasetVersion:
        """`datasets.upload` with what most programs need of it."""
        return await self.datasets.upload(
            source, dataset_id=dataset_id, target_hint=target_hint, progress=progress
        )

    async def create_experiment(
        self,
        data: str | Named,
        *,
        target: str,
        task: TaskType | str = "",
        metric: Metric | str = "",
        budget_s: float | None = None,
        trials: int = 0,
        seed: int = 0,
        ignore: Sequence[str] = (),
    ) -> Experiment:
        """`experiments.create` with what most programs need of it."""
        return await self.experiments.create(
            data,
            target=target,
            task=task,
            metric=metric,
            budget_s=budget_s,
            trials=trials,
            seed=seed,
            ignore=ignore,
        )

    def watch(self, experiment: str | Named) -> AsyncIterator[Change]:
        return self.experiments.watch(experiment)

    async def wait(
        self, experiment: str | Named, *, progress: OnChange | None = None
    ) -> Experiment:
        return await self.experiments.wait(experiment, progress=progress)

    async def best_model(self, experiment: str | Named) -> Model:
        return await self.models.best(experiment)

    async def download_model(
        self, model: str | Named, folder: str | os.PathLike[str]
    ) -> tuple[Path, Path]:
        return await self.models.download(model, folder)

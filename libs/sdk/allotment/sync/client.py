"""The blocking client."""

from pathlib import Path
from types import TracebackType
from typing import Self

from allotment.aio.client import PATIENCE_S, AsyncClient
from allotment.connection import Notice
from allotment.settings import Settings
from allotment.sync import groups
from allotment.sync.blocking import Blocking, LoopThread, blocking, iterating


class Client(Blocking[AsyncClient]):
    """A server, for programs that wait for each answer. Threads may share it; see `AsyncClient`
    for the arguments.

    Callbacks (`progress`, `on_outage`) run in the client's background thread.
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
        async def connect() -> AsyncClient:
            return AsyncClient(
                address,
                token=token,
                ca=ca,
                profile=profile,
                tenant=tenant,
                patience_s=patience_s,
                on_outage=on_outage,
            )

        loop = LoopThread()
        try:
            client = loop.run(connect())
        except BaseException:
            loop.close()
            raise
        super().__init__(client, loop)
        self.datasets = groups.Datasets(client.datasets, loop)
        self.experiments = groups.Experiments(client.experiments, loop)
        self.models = groups.Models(client.models, loop)
        self.exports = groups.Exports(client.exports, loop)
        self.pools = groups.Pools(client.pools, loop)
        self.tenants = groups.Tenants(client.tenants, loop)
        self.leases = groups.Leases(client.leases, loop)

    @property
    def settings(self) -> Settings:
        return self._group.settings

    upload = blocking(AsyncClient.upload)
    create_experiment = blocking(AsyncClient.create_experiment)
    watch = iterating(AsyncClient.watch)
    wait = blocking(AsyncClient.wait)
    best_model = blocking(AsyncClient.best_model)
    download_model = blocking(AsyncClient.download_model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and its thread; calling it again does nothing."""
        if self._loop.alive:
            self._loop.run(self._group.close())
            self._loop.close()

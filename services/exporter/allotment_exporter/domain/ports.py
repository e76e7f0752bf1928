"""What the domain needs from outside."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from allotment_core.names import ExportName, TenantName
from allotment_exporter.domain.builds import BuildJob, BuildOutcome
from allotment_exporter.domain.exports import Export, Stage

Response = TypeVar("Response")


class ExportStore(Protocol):
    """The truth about exports. Every change is durable when its call returns."""

    async def create(
        self, export: Export, queue_limit: int, respond: Callable[[Export], Response]
    ) -> Response:
        """Adds a PENDING export and keeps the response for a repeated request.

        Raises: ResourceExhausted QUEUE_FULL when the tenant has `queue_limit` PENDING exports.
        """
        ...

    async def get(self, name: ExportName) -> Export:
        """Raises: NotFound."""
        ...

    async def page(
        self, tenant: TenantName, size: int, after: int
    ) -> tuple[list[Export], int | None]:
        """Exports of a tenant in order of creation behind place `after`, and the next place."""
        ...

    async def claim(self, now: datetime) -> Export | None:
        """Moves a PENDING export to RUNNING: of the tenant with the fewest running, the oldest."""
        ...

    async def change(self, name: ExportName, step: Callable[[Export], Export]) -> Export:
        """Replaces an export by `step(export)` in one transaction.

        One that ends without success, or is deleted, is noted for the release of its blobs.
        """
        ...

    async def cancel(
        self, name: ExportName, now: datetime, respond: Callable[[Export], Response]
    ) -> Response:
        """Moves an export to CANCELLED and keeps the response for a repeated request."""
        ...

    async def delete(self, name: ExportName, respond: Callable[[None], Response]) -> Response:
        """Forgets an ended export, notes its blobs for release, keeps the response."""
        ...

    async def running(self) -> list[Export]:
        """All that are RUNNING."""
        ...

    async def releases(self) -> list[ExportName]:
        """Owners whose blobs wait for their release; at most 100."""
        ...

    async def released(self, name: ExportName) -> None:
        """The blobs of an owner were let go."""
        ...


class Blobs(Protocol):
    """A tenant's content-addressed bytes, behind a service that may be away for a while."""

    async def fetch(self, tenant: TenantName, sha256: str, path: Path, limit_bytes: int) -> None:
        """Writes a blob to a file.

        Raises: NotFound, DataLoss, ResourceExhausted (over the limit), Unavailable (for too long).
        """
        ...

    async def put(self, owner: ExportName, path: Path, sha256: str) -> None:
        """Stores a file under its sha256, held by the owner."""
        ...

    async def release(self, owner: ExportName) -> None:
        """Ends the holds of an owner."""
        ...


class Builder(Protocol):
    """Carries out builds, each in a process of its own that can't harm this one."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def build(self, job: BuildJob, report: Callable[[Stage], None]) -> BuildOutcome:
        """Never raises for what a graph does: a crash is a Failed.

        Cancelling it ends the process.
        """
        ...


class Workspace(Protocol):
    """Folders that are gone when the work is done."""

    async def clear(self) -> None:
        """Removes what an earlier process left."""
        ...

    def folder(self) -> AbstractAsyncContextManager[Path]:
        """A new private folder for one export."""
        ...

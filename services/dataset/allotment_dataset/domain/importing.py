"""Imports as their callers see them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from allotment_core import paging
from allotment_core.clock import Clock
from allotment_core.errors import AlreadyExists, FailedPrecondition, NotFound
from allotment_core.names import ImportName, TenantName, new_id
from allotment_dataset.domain.catalogue import Page
from allotment_dataset.domain.changes import Changes
from allotment_dataset.domain.datasets import Dataset, no_such_dataset
from allotment_dataset.domain.imports import Import, ImportRequest
from allotment_dataset.domain.ports import Records, Store

R = TypeVar("R")

_LOOK_AGAIN_S = 1.0
QUEUE = "queue"
"""What the runner watches: told when an import is created or cancelled."""


class Imports:
    """Creates, shows and cancels imports."""

    def __init__(self, store: Store, changes: Changes, clock: Clock) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock

    async def create(
        self, parent: TenantName, request: ImportRequest, to_response: Callable[[Import], R]
    ) -> R:
        """Raises: NotFound, AlreadyExists (DATASET_EXISTS), FailedPrecondition
        (UPLOAD_INCOMPLETE).
        """
        now = self._clock.now()
        operation = Import(
            name=ImportName(parent, new_id("import")),
            request=request,
            create_time=now,
            update_time=now,
        )

        def work(records: Records) -> Import:
            upload = records.upload(request.upload) if request.upload.tenant == parent else None
            if upload is None:
                raise NotFound(
                    f"{request.upload} does not exist, or has expired; upload the file first"
                )
            if not upload.complete:
                raise FailedPrecondition(
                    f"{request.upload} is not complete: {upload.received_bytes} bytes are there; "
                    "send the rest, with `last` in the last chunk",
                    reason="UPLOAD_INCOMPLETE",
                )
            check_place(records.dataset(request.dataset), request)
            records.put_import(operation)
            return operation

        response = await self._store.respond(work, to_response)
        self._changes.tell(QUEUE)
        return response

    async def get(self, name: ImportName) -> Import:
        operation = await self._store.read(lambda records: records.import_(name))
        if operation is None:
            raise NotFound(f"{name} does not exist; list the tenant's imports for those that do")
        return operation

    async def imports(self, tenant: TenantName, size: int, token: str) -> Page[Import]:
        """Newest first."""
        limit, key = paging.page_size(size), f"imports|{tenant}"
        before = int(paging.decode_token(token, key) or 0)
        found = await self._store.read(lambda records: records.imports(tenant, before, limit + 1))
        more = len(found) > limit
        last = str(found[limit - 1].sequence) if more else ""
        return Page(items=found[:limit], next_token=paging.encode_token(key, last) if more else "")

    async def watch(self, name: ImportName) -> AsyncIterator[Import]:
        """The import as it is, then at every change, until it has ended."""
        seen: Import | None = None
        with self._changes.watch(name) as changed:
            while True:
                changed.clear()
                operation = await self.get(name)
                if operation != seen:
                    seen = operation
                    yield operation
                if operation.ended:
                    return
                try:
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await changed.wait()
                except TimeoutError:
                    pass

    async def cancel(self, name: ImportName, to_response: Callable[[Import], R]) -> R:
        now = self._clock.now()

        def work(records: Records) -> Import:
            operation = records.import_(name)
            if operation is None:
                raise NotFound(
                    f"{name} does not exist; list the tenant's imports for those that do"
                )
            cancelled = operation.cancelled(now)
            records.put_import(cancelled)
            records.release(name.tenant, str(name), now)
            return cancelled

        response = await self._store.respond(work, to_response)
        self._changes.tell(name)
        self._changes.tell(QUEUE)
        return response


def check_place(dataset: Dataset | None, request: ImportRequest) -> None:
    """Whether the import can make a version of this dataset. Raises: AlreadyExists, NotFound."""
    if dataset is not None and not request.append:
        raise AlreadyExists(
            f"{request.dataset} exists already; append to it, or take another dataset_id",
            reason="DATASET_EXISTS",
        )
    if dataset is None and request.append:
        raise no_such_dataset(request.dataset)

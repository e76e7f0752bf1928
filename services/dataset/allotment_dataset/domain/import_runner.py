"""Does the imports: some at a time, one per dataset, again after a restart."""

import asyncio
import functools
import logging
from collections.abc import Callable
from pathlib import Path

from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError, ErrorKind, NotFound
from allotment_core.names import DatasetName, ImportName, VersionName
from allotment_dataset.domain.blobs import Blobs
from allotment_dataset.domain.changes import Changes
from allotment_dataset.domain.datasets import Dataset, Version, version_name
from allotment_dataset.domain.importing import QUEUE, check_place
from allotment_dataset.domain.imports import Import, ImportState
from allotment_dataset.domain.parsing import ImportJob, ImportOutcome, Parser
from allotment_dataset.domain.ports import Records, Spool, Store, UploadFiles
from allotment_dataset.domain.table import TableContent, TaskType
from allotment_dataset.domain.uploads import Upload

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0
_PROGRESS_S = 0.5
_STORE_PROGRESS = 0.95
_MOST_ATTEMPTS = 3
_AFTER_ERROR_S = 2.0
_TRY_AGAIN = frozenset((ErrorKind.UNAVAILABLE, ErrorKind.INTERNAL))


class _Superseded(Exception):
    """The dataset got another version, or the import was cancelled, while it ran."""


class ImportRunner:
    """Runs PENDING imports until it is stopped. One runner per database at a time."""

    def __init__(
        self,
        store: Store,
        uploads: UploadFiles,
        blobs: Blobs,
        spool: Spool,
        parser: Parser,
        changes: Changes,
        clock: Clock,
        *,
        concurrency: int,
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._blobs = blobs
        self._spool = spool
        self._parser = parser
        self._changes = changes
        self._clock = clock
        self._concurrency = concurrency
        self._running: dict[ImportName, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Puts back what a stopped server left RUNNING, then begins."""
        now = self._clock.now()

        def work(records: Records) -> None:
            for operation in records.unended_imports():
                if operation.state is ImportState.RUNNING:
                    records.release(operation.name.tenant, str(operation.name), now)
                    records.put_import(operation.put_back(now))

        await self._store.write(work)
        self._loop = asyncio.create_task(self._run(), name="imports")

    async def stop(self) -> None:
        """Gives up what runs; it is done again after the next start."""
        tasks = [t for t in (self._loop, *self._running.values()) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        with self._changes.watch(QUEUE) as changed:
            while True:
                changed.clear()
                try:
                    await self._look()
                except AllotmentError as e:
                    log.warning("imports can't be read", extra={"reason": e.reason})
                try:
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await changed.wait()
                except TimeoutError:
                    pass

    async def _look(self) -> None:
        """Starts what can start, ends what was cancelled."""
        unended = await self._store.read(lambda records: records.unended_imports())
        names = {operation.name for operation in unended}
        for name, task in self._running.items():
            if name not in names:
                task.cancel()
        busy = {o.request.dataset for o in unended if o.name in self._running}
        for operation in unended:
            if len(self._running) >= self._concurrency:
                return
            dataset = operation.request.dataset
            if operation.state is ImportState.PENDING and dataset not in busy:
                busy.add(dataset)
                name = operation.name
                task = asyncio.create_task(self._do(operation), name=str(name))
                self._running[name] = task
                task.add_done_callback(functools.partial(self._done, name))

    def _done(self, name: ImportName, _task: "asyncio.Task[None]") -> None:
        self._running.pop(name, None)
        self._changes.tell(QUEUE)

    async def _do(self, operation: Import) -> None:
        name = operation.name
        try:
            started = await self._change(name, lambda o: o.started(self._clock.now()))
            log.info("import started", extra={"import": str(name), "attempt": started.attempts})
            version = await self._import(started)
            log.info("import succeeded", extra={"import": str(name), "version": str(version)})
        except _Superseded:
            await self._put_back(name)
        except AllotmentError as e:
            await self._fail(name, e)
        except asyncio.CancelledError:
            # A hold that was under way when the import was cancelled must not outlive it.
            await asyncio.shield(self._release(name))
            raise
        except Exception:
            log.exception("import broke", extra={"import": str(name)})
            broken = AllotmentError("the import broke; the server's log says why")
            await self._fail(name, broken)

    async def _release(self, name: ImportName) -> None:
        now = self._clock.now()
        await self._store.write(lambda records: records.release(name.tenant, str(name), now))

    async def _import(self, operation: Import) -> VersionName:
        folder = await self._spool.folder("import")
        try:
            upload, base = await self._inputs(operation)
            job = await self._job(operation, upload, base, folder)
            progress = _ProgressWriter(self, operation.name)
            try:
                outcome = await self._parser.read_table(job, progress)
            finally:
                await progress.stop()
            await self._advance(operation.name, "STORE", _STORE_PROGRESS)
            part = outcome.content.parts[-1]
            await self._blobs.adopt(
                Path(outcome.part_path),
                part.sha256,
                part.size_bytes,
                operation.name.tenant,
                str(operation.name),
            )
            return await self._commit(operation.name, base, outcome)
        finally:
            await self._spool.drop(folder)

    async def _inputs(self, operation: Import) -> tuple[Upload, Version | None]:
        request = operation.request

        def work(records: Records) -> tuple[Upload, Version | None]:
            upload = records.upload(request.upload)
            if upload is None:
                raise NotFound(
                    f"{request.upload} is gone; upload the file and import it again",
                    reason="UPLOAD_GONE",
                )
            dataset = records.dataset(request.dataset)
            check_place(dataset, request)
            latest = dataset.latest if dataset else None
            return upload, records.version(latest) if latest else None

        return await self._store.read(work)

    async def _job(
        self, operation: Import, upload: Upload, base: Version | None, folder: Path
    ) -> ImportJob:
        request = operation.request
        content: TableContent | None = base.content if base else None
        parts = content.parts if content else ()
        base_paths = [
            str(await self._spool.fetch(part.sha256, part.size_bytes, folder)) for part in parts
        ]
        return ImportJob(
            source=str(self._uploads.path(upload.name)),
            source_sha256=upload.sha256,
            out_dir=str(folder),
            format=request.format,
            overrides=request.overrides,
            target_hint=request.target_hint,
            base=content,
            base_paths=tuple(base_paths),
        )

    async def _commit(
        self, name: ImportName, base: Version | None, outcome: ImportOutcome
    ) -> VersionName:
        """The version, its blobs' holds and the import's end, all at once."""
        now = self._clock.now()

        def work(records: Records) -> VersionName:
            operation = _running_import(records, name)
            request = operation.request
            known = records.dataset(request.dataset)
            check_place(known, request)
            latest = known.latest_number if known else 0
            if latest != (base.number if base else 0):
                raise _Superseded
            dataset = (known or _new_dataset(request.dataset, self._clock)).with_version(now)
            version = version_name(request.dataset, dataset.latest_number)
            for part in outcome.content.parts:
                records.hold(name.tenant, part.sha256, str(version))
            records.release(name.tenant, str(name), now)
            records.put_dataset(dataset)
            records.put_version(Version(name=version, content=outcome.content, create_time=now))
            if outcome.inspection is not None:
                records.put_inspection(
                    version, request.target_hint, TaskType.UNSPECIFIED, outcome.inspection
                )
            records.put_import(operation.succeeded(version, now))
            return version

        version = await self._store.write(work)
        self._changes.tell(name)
        return version

    async def _fail(self, name: ImportName, error: AllotmentError) -> None:
        """Ends the import, or puts it back when another try may do better."""
        now = self._clock.now()

        def after(operation: Import) -> Import:
            if error.kind in _TRY_AGAIN and operation.attempts < _MOST_ATTEMPTS:
                return operation.put_back(now)
            return operation.failed(error.reason, error.message, now)

        log.info("import failed", extra={"import": str(name), "reason": error.reason})
        await self._end(name, after)

    async def _put_back(self, name: ImportName) -> None:
        await self._end(name, lambda o: o.put_back(self._clock.now()))

    async def _end(self, name: ImportName, change: Callable[[Import], Import]) -> None:
        """Stores the import's next state; waits for a database that can't take it now."""
        while True:
            try:
                await self._change(name, change)
            except _Superseded:
                return
            except AllotmentError as e:
                log.warning("an import's end can't be stored", extra={"reason": e.reason})
                await asyncio.sleep(_AFTER_ERROR_S)
            else:
                return

    async def _advance(self, name: ImportName, stage: str, progress: float) -> None:
        await self._change(name, lambda o: o.advanced(stage, progress, self._clock.now()))

    async def _change(self, name: ImportName, change: Callable[[Import], Import]) -> Import:
        """Raises: _Superseded when the import has ended (was cancelled) meanwhile."""

        def work(records: Records) -> Import:
            operation = records.import_(name)
            if operation is None or operation.ended:
                raise _Superseded
            changed = change(operation)
            if changed.state is not ImportState.RUNNING:
                records.release(name.tenant, str(name), self._clock.now())
            records.put_import(changed)
            return changed

        changed = await self._store.write(work)
        self._changes.tell(name)
        return changed


class _ProgressWriter:
    """Stores progress twice a second, without keeping the parser waiting."""

    def __init__(self, runner: ImportRunner, name: ImportName) -> None:
        self._runner = runner
        self._name = name
        self._latest: tuple[str, float] | None = None
        self._task: asyncio.Task[None] | None = None

    def __call__(self, stage: str, progress: float) -> None:
        self._latest = (stage, progress)
        if self._task is None:
            self._task = asyncio.create_task(self._write(), name=f"progress {self._name}")

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            latest, self._latest = self._latest, None
            if latest is not None:
                try:
                    await self._runner._advance(self._name, *latest)
                except _Superseded:
                    return
                except AllotmentError as e:
                    log.warning("progress can't be stored", extra={"reason": e.reason})

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _running_import(records: Records, name: ImportName) -> Import:
    operation = records.import_(name)
    if operation is None or operation.state is not ImportState.RUNNING:
        raise _Superseded
    return operation


def _new_dataset(name: DatasetName, clock: Clock) -> Dataset:
    now = clock.now()
    return Dataset(name=name, create_time=now, update_time=now)

"""Carries exports out: a bounded number at a time, each one to an end that is written down."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError, NotFound, Unavailable
from allotment_core.names import ExportName, TenantName, new_id
from allotment_exporter.domain.builds import (
    BuildJob,
    BuildLimits,
    Built,
    Failed,
    JobMember,
    Refused,
)
from allotment_exporter.domain.candidates import judge
from allotment_exporter.domain.changes import Changes
from allotment_exporter.domain.exports import Export, Member, ModelSource, Problem, Stage
from allotment_exporter.domain.manifest import write_manifest
from allotment_exporter.domain.ports import Blobs, Builder, ExportStore, Workspace
from allotment_exporter.domain.sources import check_source

log = logging.getLogger(__name__)
Response = TypeVar("Response")

_RETRY_S = 1.0
_PROVEN_KEPT = 10_000
Step = Callable[[Export], Export]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportLimits:
    """What exports may use."""

    concurrency: int
    queue: int
    """PENDING exports of one tenant."""
    graph_bytes: int
    reference_bytes: int
    """Of all members of an export together, as the graphs."""
    build: BuildLimits


class Exporter:
    """Exports of all tenants. The store is the truth: what runs here can be lost, and is redone."""

    def __init__(
        self,
        *,
        store: ExportStore,
        blobs: Blobs,
        builder: Builder,
        workspace: Workspace,
        clock: Clock,
        limits: ExportLimits,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._builder = builder
        self._workspace = workspace
        self._clock = clock
        self._limits = limits
        self._changes = Changes()
        self._work = asyncio.Event()
        self._releases = asyncio.Event()
        self._running: dict[ExportName, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._proven: dict[tuple[str, str], None] = {}
        """Graphs and references, by sha256, that agreed since the start; the oldest first."""

    async def start(self) -> None:
        """Puts interrupted exports back into the queue and begins to work."""
        await self._workspace.clear()
        await self._builder.start()
        for export in await self._store.running():
            await self._store.change(export.name, self._at_now(Export.interrupted))
        self._work.set()
        self._releases.set()
        self._loops = [
            asyncio.create_task(self._forever(self._dispatch, self._work)),
            asyncio.create_task(self._forever(self._release, self._releases)),
        ]

    async def stop(self) -> None:
        """Drops what runs; it is done again after the next start."""
        tasks = [*self._loops, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loops.clear()
        await self._builder.stop()
        self._changes.close()

    async def create(
        self, tenant: TenantName, source: ModelSource, respond: Callable[[Export], Response]
    ) -> Response:
        """Queues an export. Raises: InvalidArgument, ResourceExhausted (QUEUE_FULL)."""
        check_source(source, tenant)
        export = Export.queued(ExportName(tenant, new_id("export")), source, self._clock.now())
        response = await self._store.create(export, self._limits.queue, respond)
        self._work.set()
        return response

    async def get(self, name: ExportName) -> Export:
        """The export as it is now. Raises: NotFound."""
        return self._changes.newest(await self._store.get(name))

    async def page(
        self, tenant: TenantName, size: int, after: int
    ) -> tuple[list[Export], int | None]:
        """Some exports of a tenant, oldest first, and where to go on."""
        exports, following = await self._store.page(tenant, size, after)
        return [self._changes.newest(export) for export in exports], following

    async def watch(self, name: ExportName) -> AsyncIterator[Export]:
        """The export as it is, then as it becomes, to its end. Raises: NotFound, Unavailable."""
        with self._changes.watch(name) as changed:
            while True:
                export = await self.get(name)
                yield export
                if export.ended:
                    return
                await changed.wait()
                changed.clear()
                if self._changes.closed:
                    raise Unavailable(
                        "the server is going down; watch again in a moment",
                        reason="SHUTTING_DOWN",
                        retry_after_s=1.0,
                    )

    async def cancel(self, name: ExportName, respond: Callable[[Export], Response]) -> Response:
        """Ends an export without a result. Raises: NotFound, FailedPrecondition (EXPORT_ENDED)."""
        response = await self._store.cancel(name, self._clock.now(), respond)
        task = self._running.get(name)
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=10)
        self._changes.stored(name)
        self._releases.set()
        return response

    async def delete(self, name: ExportName, respond: Callable[[None], Response]) -> Response:
        """Forgets an ended export. Raises: NotFound, FailedPrecondition (EXPORT_NOT_ENDED)."""
        response = await self._store.delete(name, respond)
        self._changes.stored(name)
        self._releases.set()
        return response

    async def _forever(self, work: Callable[[], Awaitable[None]], wanted: asyncio.Event) -> None:
        """Runs `work` whenever it is wanted; a failure is logged and tried again."""
        while True:
            await wanted.wait()
            wanted.clear()
            try:
                await work()
            except AllotmentError as error:
                log.warning("exporter has to wait", extra={"reason": error.reason})
                await asyncio.sleep(_RETRY_S)
                wanted.set()
            except Exception:
                log.exception("exporter failed and goes on")
                await asyncio.sleep(_RETRY_S)
                wanted.set()

    async def _dispatch(self) -> None:
        while len(self._running) < self._limits.concurrency:
            export = await self._store.claim(self._clock.now())
            if export is None:
                return
            task = asyncio.create_task(self._carry_out(export))
            self._running[export.name] = task
            task.add_done_callback(partial(self._done, export.name))

    def _done(self, name: ExportName, _task: "asyncio.Task[None]") -> None:
        self._running.pop(name, None)
        self._work.set()
        self._releases.set()

    async def _release(self) -> None:
        """Lets go of the blobs of exports that are over, once nothing works on them."""
        while True:
            owners = [n for n in await self._store.releases() if n not in self._running]
            for owner in owners:
                await self._blobs.release(owner)
                await self._store.released(owner)
            if not owners:
                return

    async def _carry_out(self, export: Export) -> None:
        """One export from its claim to its end; it stays RUNNING only when the server stops."""
        name = export.name
        self._changes.reached(export)
        try:
            if (await self._store.get(name)).ended:
                # Cancelled between its claim and here: whoever cancels later finds this task.
                self._changes.stored(name)
                return
            step = await self._work_on(export)
        except AllotmentError as error:
            step = self._failing(error.reason, error.message)
        except OSError as error:
            log.exception("export failed on the server's disk", extra={"export": str(name)})
            step = self._failing(
                "WORK_FOLDER",
                f"the server's working folder can't be used ({error.strerror}); "
                "free some space there, then export again",
            )
        except Exception:
            log.exception("export failed", extra={"export": str(name)})
            step = self._failing("INTERNAL", "internal error; the server's log has the details")
        await self._end(name, step)

    async def _end(self, name: ExportName, step: Step) -> None:
        """Writes the end down, however long the database takes; a cancelled export stays so."""

        def unless_ended(export: Export) -> Export:
            return export if export.ended else step(export)

        while True:
            try:
                ended = await self._store.change(name, unless_ended)
                break
            except NotFound:
                self._changes.stored(name)
                return
            except AllotmentError as error:
                log.warning(
                    "end of export not stored yet",
                    extra={"export": str(name), "reason": error.reason},
                )
                await asyncio.sleep(_RETRY_S)
        self._changes.stored(name)
        log.info("export ended", extra={"export": str(name), "state": ended.state.value})

    async def _work_on(self, export: Export) -> Step:
        """Fetches, builds, stores; what the export becomes."""
        source, tenant = export.source, export.name.tenant
        if export.start_count > 1:
            await self._blobs.release(export.name)
        async with self._workspace.folder() as folder:
            job = BuildJob(
                members=tuple(
                    self._job_member(member, folder / str(place))
                    for place, member in enumerate(source.parts)
                ),
                artefact=folder / "model.onnx",
                task=source.task,
                classes=source.classes,
                target=source.target,
                limits=self._limits.build,
                temperature=source.calibration.temperature if source.calibration else 1.0,
                precision=source.precision,
            )
            await self._fetch(tenant, source.parts, job.members)
            outcome = await self._builder.build(job, partial(self._reached, export))
            if isinstance(outcome, Failed):
                return self._failing(outcome.problem.reason, outcome.problem.message)
            if isinstance(outcome, Refused):
                return self._at_now(partial(_refused, outcome))
            self._remember(source.parts)
            self._reached(export, Stage.STORE)
            exact, candidate, chosen = outcome.measurement, outcome.candidate, job.artefact
            if candidate is not None and judge(source, candidate).is_within:
                chosen = job.candidate
                outcome = replace(
                    outcome,
                    artefact_sha256=candidate.artefact_sha256,
                    measurement=candidate.measurement,
                )
            content = write_manifest(export, outcome, self._clock.now(), exact)
            manifest = folder / "manifest.json"
            manifest.write_bytes(content)
            manifest_sha256 = hashlib.sha256(content).hexdigest()
            await self._blobs.put(export.name, chosen, outcome.artefact_sha256)
            await self._blobs.put(export.name, manifest, manifest_sha256)
        return self._at_now(partial(_succeeded, outcome, manifest_sha256))

    async def _fetch(
        self, tenant: TenantName, parts: Sequence[Member], members: Sequence[JobMember]
    ) -> None:
        """Every graph and reference, each kind within its limit together."""
        graphs_left, references_left = self._limits.graph_bytes, self._limits.reference_bytes
        for part, files in zip(parts, members, strict=True):
            files.graph.parent.mkdir()
            await self._blobs.fetch(tenant, part.graph_sha256, files.graph, graphs_left)
            await self._blobs.fetch(tenant, part.reference_sha256, files.reference, references_left)
            graphs_left -= files.graph.stat().st_size
            references_left -= files.reference.stat().st_size

    def _job_member(self, member: Member, folder: Path) -> JobMember:
        return JobMember(
            graph=folder / "graph.onnx",
            reference=folder / "reference.npz",
            weight=member.weight,
            proven=(member.graph_sha256, member.reference_sha256) in self._proven,
        )

    def _remember(self, members: Sequence[Member]) -> None:
        """Graphs that passed need not be proven again where they are members of a later model."""
        for member in members:
            self._proven[(member.graph_sha256, member.reference_sha256)] = None
        while len(self._proven) > _PROVEN_KEPT:
            del self._proven[next(iter(self._proven))]

    def _reached(self, export: Export, stage: Stage) -> None:
        self._changes.reached(export.reached(stage, self._clock.now()))

    def _failing(self, reason: str, message: str) -> Step:
        """The step to FAILED, at the stage that was reached."""

        def fail(export: Export, now: datetime) -> Export:
            stage = self._changes.newest(export).stage
            return export.reached(stage, now).failed(Problem(reason=reason, message=message), now)

        return self._at_now(fail)

    def _at_now(self, step: Callable[[Export, datetime], Export]) -> Step:
        now = self._clock.now()
        return lambda export: step(export, now)


def _refused(outcome: Refused, export: Export, now: datetime) -> Export:
    return export.refused(outcome.parity, now)


def _succeeded(outcome: Built, manifest_sha256: str, export: Export, now: datetime) -> Export:
    return export.succeeded(
        parity=outcome.parity,
        measurement=outcome.measurement,
        artefact_sha256=outcome.artefact_sha256,
        manifest_sha256=manifest_sha256,
        now=now,
    )

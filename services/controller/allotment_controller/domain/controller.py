"""All experiments: created, led and ended here; trainers come in here."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from allotment_controller.domain.budget import check_budget, with_budget
from allotment_controller.domain.conductor import Conductor
from allotment_controller.domain.creation import Wish, check_columns, check_wish, make_plan
from allotment_controller.domain.experiment import Budget, Experiment, ExperimentState
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.messages import Alive, Heartbeat, Hello, LeaseView, Report
from allotment_controller.domain.ports import Creations, Store
from allotment_controller.domain.refitting import check_refit, check_target_column, plan_refit
from allotment_controller.domain.seat import Line, Seat
from allotment_controller.domain.surroundings import Surroundings
from allotment_core.errors import (
    AllotmentError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from allotment_core.names import ExperimentName, ModelName, VersionName

log = logging.getLogger(__name__)
R = TypeVar("R")

_LEASE_POLL_S = 0.05
_LEASE_KNOWN_WITHIN_S = 5.0
_GONE_WITHIN_S = 8.0
_PAUSES_S = (0.5, 2.0, 8.0, 0.0)
"""Between attempts at letting go of a deleted experiment's blobs."""


class Controller:
    """Owns a conductor for each experiment that has not ended."""

    def __init__(self, around: Surroundings, creations: Creations) -> None:
        self._around = around
        self._store: Store = around.store
        self._creations = creations
        self._conductors: dict[ExperimentName, Conductor] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started = asyncio.Event()
        """Every experiment that has not ended has its conductor: before that nothing is said about
        any, and none begins."""
        self._going: dict[ExperimentName, asyncio.Task[None]] = {}
        """Deleted experiments whose blobs are being released."""

    async def start(self) -> None:
        """Takes up every experiment where it was left."""
        self._around.keeper.on_lease = self.lease_changed
        for ledger in await self._store.load_open():
            self._lead(ledger)
        self._started.set()
        self._spawn(self._around.keeper.run())

    async def stop(self) -> None:
        """Leaves everything as it is; trials go on in their trainers and are taken up again."""
        for seat in self._around.seats:
            if seat.line is not None:
                seat.line.close()
        # A conductor whose task has ended is not among them any more.
        conductors = list(self._conductors.values())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for conductor in conductors:
            await conductor.close()
        await self._around.keeper.close()

    # Experiments

    async def create(
        self, name: ExperimentName, wish: Wish, to_response: Callable[[Experiment], R]
    ) -> R:
        """Begins an experiment. Raises: InvalidArgument, NotFound, AlreadyExists."""
        check_wish(wish, self._around.grammar)
        now = self._around.clock.now()
        if wish.dataset_version.tenant != name.tenant:
            raise NotFound(
                f"there is no dataset version {wish.dataset_version}", reason="VERSION_NOT_FOUND"
            )
        table = await self._around.datasets.version(wish.dataset_version)
        check_columns(wish, table)
        target = await self._around.datasets.inspect(table.version, wish.target, wish.task)
        around = self._around
        made = make_plan(wish, table, target, around.grammar, now, around.budget_start)
        plan = await self._around.experiences.ordered(name, made)
        return await self._begin(Experiment(name=name, plan=plan, revision=1), to_response)

    async def refit(
        self,
        model: ModelName,
        version: VersionName | None,
        name: ExperimentName,
        to_response: Callable[[Experiment], R],
    ) -> R:
        """Begins an experiment that makes the model anew, on a newer version of its data.

        Raises: NotFound, InvalidArgument, FailedPrecondition, AlreadyExists.
        """
        ledger = await self._store.load(model.experiment)
        best = model.model_id == "best"
        known = {str(number): found for number, found in ledger.models.items()}
        source = known.get(str(ledger.experiment.best_model) if best else model.model_id)
        if source is None:
            raise NotFound(f"there is no model {model}", reason="MODEL_NOT_FOUND")
        check_refit(source)
        old = ledger.experiment.plan
        wanted = version or VersionName(old.spec.dataset_version.dataset, "latest")
        if wanted.tenant != name.tenant:
            raise NotFound(f"there is no dataset version {wanted}", reason="VERSION_NOT_FOUND")
        table = await self._around.datasets.version(wanted)
        check_target_column(old.spec.target, table)
        target = await self._around.datasets.inspect(table.version, old.spec.target, old.spec.task)
        now = self._around.clock.now()
        plan = plan_refit(old, source, ledger.trials, table, target, self._around.grammar, now)
        return await self._begin(Experiment(name=name, plan=plan, revision=1), to_response)

    async def _begin(self, experiment: Experiment, to_response: Callable[[Experiment], R]) -> R:
        await self._started.wait()
        if going := self._going.get(experiment.name):
            # Holds go by name: those of the new experiment must not go with the old one's.
            await asyncio.wait({going})
        return await self._to_its_end(self._begin_now(experiment, to_response))

    async def _begin_now(self, experiment: Experiment, to_response: Callable[[Experiment], R]) -> R:
        try:
            response, fresh = await self._creations.create(
                experiment, lambda: to_response(experiment)
            )
        except AllotmentError:
            self._spawn(self._adopt(experiment.name))
            raise
        if fresh:
            self._lead(Ledger(experiment))
            spec = experiment.plan.spec
            log.info(
                "experiment created",
                extra={
                    "experiment": str(experiment.name),
                    "task": spec.task.value,
                    "seed": spec.seed,
                },
            )
        return response

    async def pause(self, name: ExperimentName, to_response: Callable[[Experiment], R]) -> R:
        await self._started.wait()
        conductor = self._conductors.get(name)
        if conductor is None:
            experiment = (await self._store.load(name)).experiment
            raise _has_ended(experiment, "paused")
        return await self._to_its_end(conductor.pause(to_response))

    async def resume(
        self, name: ExperimentName, budget: Budget | None, to_response: Callable[[Experiment], R]
    ) -> R:
        """Goes on with a paused experiment; with a budget also with one that has ended.

        Raises: NotFound, InvalidArgument, FailedPrecondition, Aborted when somebody else was first.
        """
        if budget is not None:
            check_budget(budget)
        await self._started.wait()
        conductor = self._conductors.get(name)
        if conductor is not None and conductor.experiment.ended:
            await self._gone(name)
            conductor = None
        if conductor is not None:
            return await self._to_its_end(conductor.resume(budget, to_response))
        ledger = await self._store.load(name)
        if budget is None and ledger.experiment.ended:
            raise FailedPrecondition(
                f"{name} is {ledger.experiment.state.name}; give it a budget to go on with, "
                "for example wall_time 60 s",
                reason="NO_BUDGET",
                state=ledger.experiment.state.name,
            )
        return await self._take_up(ledger, budget, to_response)

    async def _take_up(
        self, ledger: Ledger, budget: Budget | None, to_response: Callable[[Experiment], R]
    ) -> R:
        """An experiment that had ended runs again, with its whole history."""
        experiment = ledger.experiment
        # Its data may have been deleted meanwhile.
        await self._around.datasets.version(experiment.plan.spec.dataset_version)
        return await self._to_its_end(self._take_up_now(ledger, budget, to_response))

    async def _take_up_now(
        self, ledger: Ledger, budget: Budget | None, to_response: Callable[[Experiment], R]
    ) -> R:
        experiment = ledger.experiment
        edit = Edit(ledger, self._around.clock.now())
        if budget is not None:
            edit.experiment = with_budget(experiment, budget, edit.trial_count, edit.now)
        change = edit.close()
        after = experiment if change is None else change.experiment
        try:
            response, fresh = await self._store.answer(change, lambda: to_response(after))
        except AllotmentError:
            self._spawn(self._adopt(experiment.name))
            raise
        if fresh and change is not None:
            ledger.absorb(change)
            self._lead(ledger)
            log.info("experiment resumed", extra={"experiment": str(experiment.name)})
            self._around.changes.announce(experiment.name)
        return response

    async def _adopt(self, name: ExperimentName) -> None:
        """Leads an experiment of which nobody knows whether it was stored, if it was: its caller
        gets the stored answer when it asks again, and nothing else would begin."""
        while True:
            try:
                ledger = await self._store.load(name)
                break
            except NotFound:
                return
            except AllotmentError:
                await asyncio.sleep(1.0)
        if name not in self._conductors and not ledger.experiment.ended:
            self._lead(ledger)

    async def _gone(self, name: ExperimentName) -> None:
        """Returns when an experiment that has ended has let go of everything.

        Raises: Unavailable when that takes too long.
        """
        try:
            async with asyncio.timeout(_GONE_WITHIN_S):
                while name in self._conductors:  # noqa: ASYNC110 (its exports end one by one)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Unavailable(
                f"{name} has ended, and its last exports are still being cancelled; try again",
                reason="STILL_ENDING",
                retry_after_s=1.0,
            ) from None

    async def cancel(self, name: ExperimentName, to_response: Callable[[Experiment], R]) -> R:
        await self._started.wait()
        conductor = self._conductors.get(name)
        if conductor is None:
            experiment = (await self._store.load(name)).experiment
            response, _ = await self._store.answer(None, lambda: to_response(experiment))
            return response
        return await self._to_its_end(conductor.cancel(to_response))

    async def delete(self, name: ExperimentName, etag: str, to_response: Callable[[], R]) -> R:
        """Cancels it where needed, then forgets it. Raises: NotFound, Aborted (ETAG_MISMATCH)."""
        await self._started.wait()
        return await self._to_its_end(self._delete_now(name, etag, to_response))

    async def _delete_now(self, name: ExperimentName, etag: str, to_response: Callable[[], R]) -> R:
        response, gone = await self._creations.delete(name, etag, to_response)
        if gone is None:
            return response
        conductor = self._conductors.pop(name, None)
        if conductor is not None:
            await conductor.close()
            self._around.keeper.forget(name)
        for seat in self._around.seats.of(name):
            seat.leaving = True
        self._around.changes.announce(name)
        going = self._going[name] = self._spawn(self._let_go(gone))
        going.add_done_callback(lambda _: self._going.pop(name, None))
        return response

    async def _let_go(self, gone: Ledger) -> None:
        """Ends the holds of a deleted experiment's blobs and exports."""
        name = gone.experiment.name
        for pause_s in _PAUSES_S:
            try:
                await self._around.datasets.release(name)
                for model in gone.models.values():
                    if model.export:
                        with contextlib.suppress(NotFound):
                            await self._around.exports.delete(model.export)
                return
            except AllotmentError as e:
                log.warning("blobs kept", extra={"experiment": str(name), "reason": e.reason})
                await asyncio.sleep(pause_s)

    def _lead(self, ledger: Ledger) -> None:
        conductor = Conductor(ledger, self._around)
        self._conductors[conductor.name] = conductor
        self._around.keeper.claim(conductor.name)
        self._spawn(self._conduct(conductor))

    async def _conduct(self, conductor: Conductor) -> None:
        try:
            await conductor.run()
        except AllotmentError as e:
            log.error("conductor ended", extra={"experiment": str(conductor.name), "error": str(e)})
        finally:
            if self._conductors.get(conductor.name) is conductor:
                del self._conductors[conductor.name]
        state = conductor.experiment.state
        if state in (ExperimentState.FAILED, ExperimentState.SUCCEEDED):
            log.info(
                "experiment ended",
                extra={"experiment": str(conductor.name), "state": state.value},
            )

    # Trainers

    async def open_session(self, hello: Hello) -> tuple[Seat, Line]:
        """A trainer has opened a stream.

        Raises: FailedPrecondition (LEASE_ENDED) when the lease or the epoch is not current.
        """
        await self._started.wait()
        view = await self._lease(hello)
        seat = self._around.seats.take(hello, view.holder)
        line = seat.connect()
        if view.state == "REVOKING":
            seat.leaving = True
        self._around.keeper.arrived(seat)
        try:
            await self._store.offer(hello.families)
        except BaseException:
            self.left(seat, line)
            raise
        return seat, line

    async def greet(self, seat: Seat, hello: Hello) -> None:
        """Gives it work; after the stream has been welcomed."""
        conductor = self._conductors.get(seat.holder)
        if conductor is not None:
            await conductor.arrived(seat, hello.running)
        self._around.keeper.poke()

    async def report(self, seat: Seat, report: Report) -> None:
        """Records and acknowledges. A report of another experiment's trial is PERMISSION_DENIED."""
        if report.key.trial.experiment != seat.holder:
            raise PermissionDenied(
                f"lease {seat.lease} is for {seat.holder}, "
                f"not for trial {report.key.trial}; report its own trials",
                reason="OTHER_EXPERIMENT",
            )
        if report.key.sequence < 1 or report.key.epoch < 1:
            raise InvalidArgument(
                f"sequence is {report.key.sequence} and trial_epoch {report.key.epoch}; "
                "both count from 1",
                reason="INVALID_REPORT_KEY",
            )
        conductor = self._conductors.get(seat.holder)
        if conductor is None:
            seat.acknowledge(report.key)
            return
        await conductor.report(seat, report)

    async def heard(self, seat: Seat, heartbeat: Heartbeat) -> None:
        conductor = self._conductors.get(seat.holder)
        if conductor is not None:
            await conductor.heard(seat, heartbeat)
        seat.send(Alive())

    def left(self, seat: Seat, line: Line) -> None:
        """A stream has ended; its trainer may come back."""
        if not seat.disconnect(line, self._around.clock.monotonic()):
            return
        if seat.leaving:
            self._around.seats.drop(seat)
        self._poke(seat.holder)
        self._around.keeper.poke()

    def lease_changed(self, view: LeaseView) -> None:
        """The keeper has learnt something of a lease."""
        for seat in self._around.seats.of_lease(str(view.name)):
            seat.lease_changed(view)
            if view.has_ended or view.epoch > seat.lease_epoch:
                self._around.seats.drop(seat)
        self._poke(view.holder)

    def _poke(self, holder: ExperimentName) -> None:
        conductor = self._conductors.get(holder)
        if conductor is not None:
            conductor.poke()

    async def _lease(self, hello: Hello) -> LeaseView:
        """The lease of a Hello; a trainer may be faster than the allocator's watch."""
        for _ in range(math.ceil(_LEASE_KNOWN_WITHIN_S / _LEASE_POLL_S)):
            view = self._around.keeper.lease(str(hello.lease))
            if view is not None and view.epoch >= hello.lease_epoch:
                break
            await asyncio.sleep(_LEASE_POLL_S)
        else:
            if not self._around.keeper.answers:
                raise Unavailable("the allocator does not answer; try again", retry_after_s=1.0)
            view = None
        if view is None or view.epoch != hello.lease_epoch:
            raise FailedPrecondition(
                f"lease {hello.lease} is not held with epoch {hello.lease_epoch} any more; "
                "its trainer has to leave",
                reason="LEASE_ENDED",
            )
        return view

    def _spawn(self, coroutine: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _to_its_end(self, change: Coroutine[Any, Any, R]) -> R:
        """Also when the caller is gone before: what is stored has to be acted upon."""
        task = self._spawn(change)
        # An error that no caller waits for any more is nobody's.
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
        return await asyncio.shield(task)


def _has_ended(experiment: Experiment, done: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{experiment.name} is {experiment.state.name} and can't be {done}; "
        "resume it with a budget to go on with it",
        reason="ILLEGAL_MOVE",
        state=experiment.state.name,
    )

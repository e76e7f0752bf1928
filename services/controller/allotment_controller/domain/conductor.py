"""Leads one experiment: whatever happens to it goes through here, one change after the other."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from allotment_controller.domain.absences import Absences
from allotment_controller.domain.budget import with_budget
from allotment_controller.domain.change_queue import Alter, ChangeQueue, Wanted
from allotment_controller.domain.experiment import Budget, Experiment, ExperimentState
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.messages import (
    Acknowledge,
    Assign,
    Failure,
    Heartbeat,
    Order,
    Progress,
    Report,
    Result,
    RunningTrial,
    Stop,
)
from allotment_controller.domain.mixing import Mixing
from allotment_controller.domain.model_exports import ModelExports
from allotment_controller.domain.prefetch import Prefetch
from allotment_controller.domain.prepared import Prepared
from allotment_controller.domain.queueing import granted, paused, resumed
from allotment_controller.domain.reports import after_report
from allotment_controller.domain.scheduler import (
    Effects,
    Policy,
    advance,
    begin_finish,
    training_ends,
)
from allotment_controller.domain.seat import Seat, SeatKey
from allotment_controller.domain.stopping import improved, judged, rungs_of
from allotment_controller.domain.surroundings import Surroundings
from allotment_controller.domain.trial import AttemptCause, Trial, TrialState
from allotment_core.errors import AllotmentError, NotFound
from allotment_core.names import TrialName

log = logging.getLogger(__name__)
R = TypeVar("R")

_HEARTBEATS_TO_MISS = 3
_TICK_S = 5.0
_PAUSE_S = 1.0
"""Before a step that failed is tried again."""


class Conductor:
    """Holds the experiment's ledger. Ends when the experiment has ended."""

    def __init__(self, ledger: Ledger, around: Surroundings) -> None:
        self._ledger = ledger
        self._around = around
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._wake_at: datetime | None = None
        self._queue = ChangeQueue(self._commit)
        self._prefetch: Prefetch | None = None
        if around.sampling is not None:
            self._prefetch = Prefetch(around.sampling, around.grammar, self._wake.set)
        self._exports = ModelExports(around, lambda: self._ledger, self._change)
        self._mixing = Mixing(around, lambda: self._ledger, self._change)
        ledger.begin_mixing()
        self._absences = Absences(around.keeper, around.seats, around.clock, around.away_grace_s)
        self._misses: dict[SeatKey, int] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self._in_doubt = False
        """A write failed, or was another's: the rows may not be the ledger's."""
        self._closed = False
        self.name = ledger.experiment.name

    @property
    def experiment(self) -> Experiment:
        return self._ledger.experiment

    async def run(self) -> None:
        """Leads the experiment to its end."""
        for number in sorted(self._ledger.exporting):
            self._exports.start(number)
        if self._prefetch is not None and self.experiment.plan.waits_for_grant:
            self._prefetch.warm_up()
        while not (self.experiment.ended or self._closed):
            self._wake.clear()
            try:
                await self._change(lambda edit, effects: None)
            except NotFound:
                self._around.keeper.forget(self.name)
                await self.close()
            except AllotmentError as e:
                log.error(
                    "step failed",
                    extra={"experiment": str(self.name), "reason": e.reason, "error": e.message},
                )
                await asyncio.sleep(_PAUSE_S)
                continue
            except Exception:
                # An experiment has to come to its end, whatever one step of it met.
                log.exception("step failed", extra={"experiment": str(self.name)})
                await asyncio.sleep(_PAUSE_S)
                continue
            await self._sleep()
        if self._closed:
            return
        self._around.keeper.forget(self.name)
        if self._prefetch is not None:
            self._prefetch.close()
        await self._mixing.close()
        await self._exports.finish()

    async def close(self) -> None:
        """Stops what runs on its behalf; the experiment stays as it is."""
        self._closed = True
        self._wake.set()
        if self._prefetch is not None:
            self._prefetch.close()
        await self._mixing.close()
        await self._exports.close()
        for task in self._releases:
            task.cancel()
        await asyncio.gather(*self._releases, return_exceptions=True)

    def poke(self) -> None:
        """Something that it depends on may have changed."""
        self._wake.set()

    # What users ask for

    async def pause(self, to_response: Callable[[Experiment], R]) -> R:
        """Running trials go back to the queue.

        Raises: FailedPrecondition unless RUNNING or PAUSED.
        """

        def alter(edit: Edit, effects: Effects) -> None:
            if edit.experiment.state is ExperimentState.PAUSED:
                return
            edit.experiment = paused(edit.experiment.to(ExperimentState.PAUSED))
            for trial in edit.active_trials():
                if trial.is_out:
                    effects.stopped.append((trial, "PAUSED"))
                    edit.put_trial(trial.ended_attempt(AttemptCause.PAUSED, None, "", edit.now))

        return await self._answer(alter, to_response)

    async def resume(self, budget: Budget | None, to_response: Callable[[Experiment], R]) -> R:
        """With a new budget where one is given. Raises: FailedPrecondition unless PAUSED or
        RUNNING."""

        def alter(edit: Edit, effects: Effects) -> None:
            if budget is not None:
                edit.experiment = with_budget(edit.experiment, budget, edit.trial_count, edit.now)
            elif edit.experiment.state is not ExperimentState.RUNNING:
                edit.experiment = resumed(edit.experiment.to(ExperimentState.RUNNING), edit.now)

        return await self._answer(alter, to_response)

    async def cancel(self, to_response: Callable[[Experiment], R]) -> R:
        """Trials end now, the best model is still made ready. An experiment that ends stays so."""

        def alter(edit: Edit, effects: Effects) -> None:
            if edit.experiment.state in (ExperimentState.RUNNING, ExperimentState.PAUSED):
                begin_finish(edit, effects, ExperimentState.CANCELLED, "CANCELLED")

        return await self._answer(alter, to_response)

    # What trainers say

    async def report(self, seat: Seat, report: Report) -> None:
        """Records a report once, however often it comes, and acknowledges it."""
        key = report.key
        if isinstance(report, Result | Failure) and seat.busy == RunningTrial(key.trial, key.epoch):
            seat.busy = None

        def alter(edit: Edit, effects: Effects) -> None:
            trial = self._trial_of(edit, key.trial)
            heard = trial is not None and trial.hears(
                str(seat.lease), seat.lease_epoch, key.epoch, key.sequence
            )
            if trial is not None and heard:
                if isinstance(report, Failure) and report.cause is AttemptCause.PREEMPTED:
                    # It stops by itself: it is on its way out.
                    seat.leaving = True
                after = edit.put_trial(
                    after_report(
                        trial, report, edit.experiment.plan, seat.library_versions, edit.now
                    )
                )
                if isinstance(report, Progress):
                    after = edit.put_trial(judged(edit, after, self._around.halving))
                    if after.state is TrialState.PAUSED:
                        effects.stopped.append((after, "NO_POTENTIAL"))
                edit.put_trial(improved(edit, after))
            if trial is not None and isinstance(report, Failure):
                trial = edit.trial(trial.number) or trial
                kept = trial.kept(
                    report.checkpoint_sha256, report.checkpoint_folds, report.checkpoint_steps
                )
                if kept is not trial:
                    edit.put_trial(kept)
                elif report.checkpoint_sha256 and not trial.is_open:
                    effects.settled.append(trial)

        await self._change(alter, first=(seat, Acknowledge(key)))

    def _trial_of(self, edit: Edit, name: TrialName) -> Trial | None:
        mine = name.experiment == self.name and name.trial_id.isdecimal()
        return edit.trial(int(name.trial_id)) if mine else None

    async def arrived(self, seat: Seat, running: tuple[RunningTrial, ...]) -> None:
        """A trainer has opened a stream, with these trials in its hands."""
        mine = self._out_at(seat)
        known = {RunningTrial(t.name, t.epoch) for t in mine}
        seat.busy = next((r for r in running if r in known), None)
        for trial in running:
            if trial not in known:
                seat.busy = seat.busy or trial
                seat.send(Stop(trial.trial, trial.epoch, self._stopped_because(trial)))
        # What it had and does not name any more it may have finished: its reports come first.
        seat.unsure = bool(known - set(running))
        await self._change(lambda edit, effects: None)

    def _stopped_because(self, running: RunningTrial) -> str:
        """Why a trainer has to leave a trial that it names and that is not its own (any more)."""
        mine = running.trial.experiment == self.name and running.trial.trial_id.isdecimal()
        trial = self._ledger.trials.get(int(running.trial.trial_id)) if mine else None
        return "NO_POTENTIAL" if trial is not None and trial.waits_at else "CANCELLED"

    async def heard(self, seat: Seat, heartbeat: Heartbeat) -> None:
        """A trainer says what it has in its hands."""
        busy = seat.busy
        missing = busy is not None and busy not in heartbeat.running
        misses = self._misses.pop(seat.key, 0) + 1 if missing else 0
        if missing:
            self._misses[seat.key] = misses
        lost = seat.unsure or misses >= _HEARTBEATS_TO_MISS
        let_go = missing and busy not in {RunningTrial(t.name, t.epoch) for t in self._out_at(seat)}
        if not (lost or let_go):
            return
        seat.unsure = False
        self._misses.pop(seat.key, None)
        if missing or busy is None:
            mine = {RunningTrial(t.name, t.epoch) for t in self._out_at(seat)}
            seat.busy = next((r for r in heartbeat.running if r in mine), None)

        def alter(edit: Edit, effects: Effects) -> None:
            for trial in edit.active_trials():
                here = (trial.lease, trial.lease_epoch) == seat.key
                named = RunningTrial(trial.name, trial.epoch) in heartbeat.running
                if lost and trial.is_out and here and not named:
                    edit.put_trial(trial.ended_attempt(AttemptCause.LOST, None, "", edit.now))

        await self._change(alter)

    def _out_at(self, seat: Seat) -> list[Trial]:
        trials = (self._ledger.trials[n] for n in self._ledger.active)
        return [t for t in trials if t.is_out and (t.lease, t.lease_epoch) == seat.key]

    # One change

    async def _change(self, alter: Alter, first: tuple[Seat, Order] | None = None) -> None:
        await self._queue.put(alter, first)

    async def _commit(self, together: list[Wanted]) -> None:
        async with self._lock:
            if self._closed:
                return
            await self._resolve_doubt()
            edit, effects, prepared = self._edit_all(together)
            change = edit.close()
            if change is not None:
                change = await self._around.experiences.left_by(self._ledger, change)
                self._in_doubt = True
                await self._around.store.commit(change)
                self._in_doubt = False
                self._ledger.absorb(change)
            # What a report led to comes before its acknowledgement: a result may wait for that.
            self._tell_stopped(effects)
            for wanted in together:
                if wanted.first is not None and wanted.waits:
                    seat, acknowledgement = wanted.first
                    seat.send(acknowledgement)
            self._perform(effects, prepared)
        if change is not None:
            self._around.changes.announce(self.name)

    async def _resolve_doubt(self) -> None:
        """Reads the rows again where they may not be the ledger's: they are the truth."""
        if not self._in_doubt:
            return
        stored = await self._around.store.load(self.name)
        self._in_doubt = False
        if stored.experiment.revision == self.experiment.revision:
            return
        log.warning("rows read again", extra={"experiment": str(self.name)})
        self._ledger = stored
        stored.begin_mixing()
        for number in sorted(stored.exporting):
            self._exports.start(number)
        for seat in self._around.seats.of(self.name):
            # Orders that followed from the rows were not sent: a new stream tells what is missing.
            seat.hang_up()

    def _edit_all(self, together: list[Wanted]) -> tuple[Edit, Effects, Prepared | None]:
        """One edit of all changes; one that can't be made is answered, and left out."""
        at: Wanted | None = None

        def alter(edit: Edit, effects: Effects) -> None:
            nonlocal at
            for at in together:
                if at.waits:
                    at.alter(edit, effects)
            at = None

        while True:
            try:
                return self._edit(alter)
            except AllotmentError as e:
                if at is None:
                    raise
                at.done.set_exception(e)

    async def _answer(
        self, alter: Callable[[Edit, Effects], None], to_response: Callable[[Experiment], R]
    ) -> R:
        async with self._lock:
            await self._resolve_doubt()
            edit, effects, prepared = self._edit(alter)
            change = edit.close()
            if change is not None:
                change = await self._around.experiences.left_by(self._ledger, change)
            after = self.experiment if change is None else change.experiment
            self._in_doubt = True
            # If it is not known what became of it nobody but the next step looks.
            self._wake.set()
            response, fresh = await self._around.store.answer(change, lambda: to_response(after))
            self._in_doubt = not fresh
            if fresh and change is not None:
                self._ledger.absorb(change)
            if fresh:
                self._tell_stopped(effects)
                self._perform(effects, prepared)
        self._around.changes.announce(self.name)
        return response

    def _edit(self, alter: Alter) -> tuple[Edit, Effects, Prepared | None]:
        prepared = None if self._prefetch is None else self._prefetch.prepared(self._ledger)
        edit = Edit(self._ledger, self._around.clock.now())
        before = Effects()
        alter(edit, before)
        if not edit.experiment.ended:
            self._absences.take_back(edit)
        if edit.experiment.plan.waits_for_grant:
            since = self._around.keeper.granted(self.name)
            edit.experiment = granted(edit.experiment, since, edit.now)
        policy = Policy(
            grammar=self._around.grammar,
            slot_count=self._around.keeper.slot_count,
            export_limit=self._around.export_limit,
            trial_limit_s=self._around.trial_limit_s,
            prepared=prepared,
            halving=self._around.halving,
            hears_allocator=self._around.keeper.answers,
        )
        effects = advance(edit, self._around.seats.of(self.name), policy)
        effects.stopped = before.stopped + effects.stopped
        effects.settled = before.settled + effects.settled
        if not edit.experiment.ended:
            edit.experiment = replace(
                edit.experiment, wait=self._absences.wait(edit, effects.wanted)
            )
        return edit, effects, prepared

    def _tell_stopped(self, effects: Effects) -> None:
        for trial, reason in effects.stopped:
            seat = self._around.seats.get(trial.lease, trial.lease_epoch)
            if seat is not None:
                seat.send(Stop(trial.name, trial.epoch, reason))

    def _perform(self, effects: Effects, prepared: Prepared | None) -> None:
        """What follows from a committed change."""
        if self._closed:
            return
        plan = self.experiment.plan
        for seat, trial, deadline in effects.assigned:
            seat.busy = RunningTrial(trial.name, trial.epoch)
            rungs = rungs_of(plan, trial, self._around.halving)
            seat.send(Assign(plan, trial, deadline, rungs))
        for trial in effects.settled:
            self._release(trial)
        for number in effects.new_models:
            self._exports.start(number)
        for model in effects.withdrawn:
            self._exports.withdraw(model)
        self._mixing.poke()
        if self.experiment.ended or effects.wake_at != self._wake_at:
            self._wake.set()
        self._wake_at = effects.wake_at
        if not self.experiment.ended:
            self._around.keeper.want(self.name, effects.wanted)
        seats = self._around.seats.of(self.name)
        if seats:
            self._around.keeper.poke()
        if self._prefetch is not None and prepared is not None:
            self._prefetch.committed(
                self._ledger,
                prepared,
                frozenset().union(*(s.families for s in seats)),
                self._around.keeper.slot_count,
                self._around.clock.now(),
                training_ends(Edit(self._ledger, self._around.clock.now())),
            )

    def _release(self, trial: Trial) -> None:
        """Lets go of an ended trial's checkpoints; what that misses goes with the experiment."""

        async def release() -> None:
            try:
                await self._around.datasets.release_checkpoints(trial.name)
            except AllotmentError as e:
                log.info(
                    "checkpoints kept",
                    extra={"trial": str(trial.name), "reason": e.reason, "error": e.message},
                )

        task = asyncio.get_running_loop().create_task(release())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _sleep(self) -> None:
        """Until something happens, or is due."""
        pause_s = _TICK_S
        if self._wake_at is not None:
            until = self._wake_at - self._around.clock.now()
            pause_s = min(pause_s, max(0.0, until.total_seconds()) + 0.001)
        try:
            async with asyncio.timeout(self._absences.look_again_s(pause_s)):
                await self._wake.wait()
        except TimeoutError:
            return

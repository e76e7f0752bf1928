"""The loop that keeps leases and trainers in step. It looks at what is, not at what happened."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

from allotment_allocator.domain.absence import Absence
from allotment_allocator.domain.allocation import Allocation
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.desk import Desk
from allotment_allocator.domain.lease import Lease, LeaseState, Problem
from allotment_allocator.domain.pool import UNKNOWN, Place, Pool
from allotment_allocator.domain.ports import (
    Launcher,
    Trainer,
    TrainerExit,
    TrainerOrder,
    TrainerState,
)
from allotment_allocator.domain.staffing import Scene, Setback, Staffing, StaffRules, plan
from allotment_core.clock import Clock
from allotment_core.names import LeaseName, PoolName

log = logging.getLogger(__name__)

TICK_S = 1.0
REST = 8
"""After a look that took long: so many times as long nothing is looked at, but at most a tick.
While thousands of trainers start, every change of a pod calls for a look."""
SHORT_LOOK_S = 0.02
"""Looks that are no longer are not rested from."""
TAIL_LIMIT = 2000


class Tokens(Protocol):
    """Trainers' tokens."""

    def __call__(self, lease: LeaseName, epoch: int, now: datetime) -> str: ...


class Keeper:
    """Expires, revokes, divides; starts, hands on and ends trainers."""

    def __init__(
        self,
        *,
        desk: Desk,
        board: Board,
        launcher: Launcher,
        pools: Callable[[], tuple[Pool, ...] | None],
        rules: StaffRules,
        clock: Clock,
        absence: Absence,
        tokens: Tokens,
        server_address: Callable[[], str],
        cache_dir: Path,
    ) -> None:
        self._desk = desk
        self._board = board
        self._launcher = launcher
        self._pools = pools
        self._rules = rules
        self._clock = clock
        self._absence = absence
        self._tokens = tokens
        self._server_address = server_address
        self._cache_dir = cache_dir
        self._kicked = asyncio.Event()
        # Leases of an earlier life may have a trainer that is still on its way out.
        self._spent: dict[LeaseName, int] = {
            lease.name: lease.epoch for lease in board.live.values() if lease.staffed
        }
        self._setbacks: dict[LeaseName, Setback] = {}

    def kick(self) -> None:
        """Looks again at once."""
        self._kicked.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._kicked.clear()
            began_s = self._clock.monotonic()
            try:
                await self.look()
            except Exception:
                log.exception("looking after leases failed")
            long_s = self._clock.monotonic() - began_s - SHORT_LOOK_S
            if long_s > 0:
                await asyncio.sleep(min(TICK_S, REST * long_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._kicked.wait()

    async def look(self) -> None:
        """One look at everything, and the next steps; none while another process may lead."""
        if not self._desk.may_act:
            return
        for gone in self._launcher.take_exits():
            self._note_exit(gone)
        await self._settle()
        pools = self._pools()
        todo = plan(self._scene(pools), self._rules)
        self._board.explain_starts(todo.waits)
        await self._carry_out(todo, {pool.name: pool for pool in pools or ()})
        live = self._board.live
        self._spent = {n: e for n, e in self._spent.items() if n in live}
        self._setbacks = {n: s for n, s in self._setbacks.items() if n in live}

    async def _settle(self) -> None:
        leases = self._board.live.values()
        if not leases:
            return
        now, spared_s = self._clock.now(), self._absence.spares_s(self._clock.monotonic())
        served = {t.lease for t in self._launcher.trainers() if t.state is not TrainerState.IDLE}
        known = self._pools() is not None
        due = any(
            lease.overdue(now, spared_s)
            or (known and lease.state is LeaseState.REVOKING and lease.name not in served)
            for lease in leases
        )
        if not due:
            decision = await self._desk.preview()
            due = bool(
                decision.grants or decision.moves or decision.revocations or decision.submissions
            )
            if not due:
                self._board.explain_queue(decision.waits)
        if due:
            await self._desk.change(_settle_and_divide)

    def _scene(self, pools: tuple[Pool, ...] | None) -> Scene:
        return Scene(
            leases=tuple(self._board.live.values()),
            ended=self._board.ended,
            trainers=self._launcher.trainers(),
            spent=self._spent,
            setbacks=self._setbacks,
            capacity={
                Place(pool.name, node.name): node.slot_count
                for pool in pools or ()
                for node in pool.nodes
            },
            obstacle=self._obstacle(pools),
            resident_bytes=self._launcher.resident_bytes,
            now_s=self._clock.monotonic(),
        )

    def _obstacle(self, pools: tuple[Pool, ...] | None) -> str:
        if pools is None:
            return UNKNOWN
        return "" if self._launcher.ready else self._launcher.obstacle

    async def _carry_out(self, todo: Staffing, pools: Mapping[PoolName, Pool]) -> None:
        for trainer in todo.kills:
            self._launcher.kill(trainer.trainer_id)
        for trainer in todo.stops:
            self._launcher.stop(trainer.trainer_id, self._rules.grace_s)
        for trainer, lease in todo.hand_overs:
            self._launcher.hand_over(self._order(trainer.trainer_id, lease, pools))
            self._spend(lease, trainer.trainer_id)
        for lease in todo.starts:
            trainer_id = f"t-{secrets.token_hex(5)}"
            self._launcher.launch(self._order(trainer_id, lease, pools))
            self._spend(lease, trainer_id)
        for lease in todo.mended:
            self._setbacks.pop(lease.name, None)
        if todo.mended or todo.new_epochs or todo.found or todo.admitted or todo.evicted:
            await self._note_leases(todo)

    async def _note_leases(self, todo: Staffing) -> None:
        """Problems that are over go; leases whose epoch has had its trainer get the next one;
        those that waited for their node have it.
        """
        spent = todo.new_epochs
        trainers = {(t.lease, t.epoch): t for t in self._launcher.trainers()}
        problems: dict[LeaseName, Problem | None] = {}
        for lease in spent:
            left = trainers.get((lease.name, lease.epoch))
            if left is not None:
                self._fail(lease, left, "left its session although its lease goes on", "")
            problems[lease.name] = self._problem(lease)

        def work(allocation: Allocation) -> None:
            for lease in todo.mended:
                allocation.mend(lease.name)
            for lease, place in todo.found:
                allocation.find(lease.name, lease.epoch, place)
            for lease in todo.admitted:
                allocation.admit(lease.name, lease.epoch)
            for lease, why in todo.evicted:
                allocation.evict(lease.name, lease.epoch, why)
            for lease in spent:
                setback = self._setbacks.get(lease.name)
                end = setback.kind if setback is not None else ""
                allocation.restart(lease.name, lease.epoch, problems[lease.name], end)

        await self._desk.change(work)
        self.kick()

    def _problem(self, lease: Lease) -> Problem | None:
        setback = self._setbacks.get(lease.name)
        if setback is None or setback.count < self._rules.explained_after:
            return None
        text = f"{lease.name} has no trainer: {setback.message}"
        return Problem("TRAINER_FAILED", text[:TAIL_LIMIT])

    def _spend(self, lease: Lease, trainer_id: str) -> None:
        self._spent[lease.name] = lease.epoch
        log.info(
            "trainer has a lease",
            extra={"trainer": trainer_id, "lease": str(lease.name), "epoch": lease.epoch},
        )

    def _order(self, trainer_id: str, lease: Lease, pools: Mapping[PoolName, Pool]) -> TrainerOrder:
        """`pools`: those that the plan has been made with, so that the lease's is among them."""
        place = lease.place
        assert place is not None, lease
        pool = pools[place.pool]
        return TrainerOrder(
            trainer_id=trainer_id,
            lease=lease.name,
            epoch=lease.epoch,
            slot_count=lease.slot_count,
            place=place,
            resource=lease.wanted.resource,
            server=self._server_address(),
            token=self._tokens(lease.name, lease.epoch, self._clock.now()),
            threads=lease.slot_count * pool.threads_per_slot,
            memory_bytes=lease.slot_count * pool.memory_bytes_per_slot,
            cache_dir=self._cache_dir,
            cores=lease.slot_count * pool.cores_per_slot,
            alone=lease.alone,
            selector=pool.selector,
        )

    def _note_exit(self, gone: TrainerExit) -> None:
        trainer = gone.trainer
        log.info(
            "trainer is gone",
            extra={
                "trainer": trainer.trainer_id,
                "lease": str(trainer.lease),
                "epoch": trainer.epoch,
                "cause": gone.cause,
            },
        )
        lease = self._board.live.get(trainer.lease)
        if lease is not None and lease.staffed and lease.epoch == trainer.epoch:
            self._fail(lease, trainer, gone.cause, gone.log_tail, gone.kind)

    def _fail(
        self, lease: Lease, trainer: Trainer, cause: str, log_tail: str, kind: str = ""
    ) -> None:
        now_s = self._clock.monotonic()
        before = self._setbacks.get(lease.name)
        ran_well = now_s - trainer.since_s >= self._rules.healthy_s
        count = 1 if before is None or ran_well else before.count + 1
        pauses = self._rules.backoff_s
        self._setbacks[lease.name] = Setback(
            count=count,
            retry_at_s=now_s + pauses[min(count - 1, len(pauses) - 1)],
            cause=cause,
            log_tail=log_tail[-TAIL_LIMIT // 2 :],
            kind=kind,
        )


def _settle_and_divide(allocation: Allocation) -> None:
    allocation.settle()
    allocation.divide()

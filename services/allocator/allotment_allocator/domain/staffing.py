"""Which trainers should be started, handed on or ended: level-triggered and pure.

A trainer is only started when the slots of all trainers that are not known to be gone leave room
for it, so that slots are never in use twice.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from allotment_allocator.domain.lease import Lease, LeaseState, Wait
from allotment_allocator.domain.pool import ANYWHERE, Place
from allotment_allocator.domain.ports import Trainer, TrainerState
from allotment_core.names import LeaseName

STARTING = "STARTING"
NO_TRAINER = "NO_TRAINER"
_AT_WORK = (TrainerState.STARTING, TrainerState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaffRules:
    idle_s: float = 30.0
    """An idle trainer is kept for so long."""
    idle_memory_bytes: int = 2 << 30
    """Idle trainers together keep no more than this."""
    settle_s: float = 2.0
    """An idle trainer's lease may be released for so long before it counts as lost."""
    drain_s: float = 5.0
    """A trainer whose lease was released may take so long to become idle."""
    grace_s: float = 5.0
    """What a trainer that is told to stop has."""
    start_limit_s: float = 30.0
    """A trainer that has not come up in this time is ended."""
    healthy_s: float = 20.0
    """A trainer that has run for so long has started well."""
    backoff_s: tuple[float, ...] = (0.0, 0.5, 2.0, 5.0, 15.0, 30.0)
    """Pause before the next start after so many failures in a row."""
    explained_after: int = 3
    """Failures in a row after which the lease has a problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """How often in a row the trainers of a lease failed."""

    count: int
    retry_at_s: float
    cause: str
    log_tail: str
    kind: str = ""
    """As in TrainerExit."""

    @property
    def message(self) -> str:
        tail = f"; its last lines: {self.log_tail}" if self.log_tail else ""
        return f"its trainer ended {self.count} times in a row, last: {self.cause}{tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A lease that ended lately."""

    state: LeaseState
    epoch: int
    since_s: float
    """Monotonic instant at which that was seen."""


@dataclass(slots=True)
class Staffing:
    """What to do now, and why leases have no trainer yet."""

    new_epochs: list[Lease] = field(default_factory=list)
    """Leases whose epoch has had its trainer: the next epoch first, then a start."""
    starts: list[Lease] = field(default_factory=list)
    hand_overs: list[tuple[Trainer, Lease]] = field(default_factory=list)
    stops: list[Trainer] = field(default_factory=list)
    kills: list[Trainer] = field(default_factory=list)
    mended: list[Lease] = field(default_factory=list)
    found: list[tuple[Lease, Place]] = field(default_factory=list)
    """Leases whose node was not known yet, and where their trainers are now."""
    admitted: list[Lease] = field(default_factory=list)
    """The cluster's queue lets their trainers run."""
    evicted: list[tuple[Lease, str]] = field(default_factory=list)
    """The cluster's queue has to admit their trainers anew, and why."""
    waits: dict[LeaseName, Wait] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is there."""

    leases: Sequence[Lease]
    """Those that have not ended."""
    ended: Mapping[LeaseName, Ended]
    trainers: Sequence[Trainer]
    spent: Mapping[LeaseName, int]
    """The last epoch of each lease that has had a trainer, or may have had one."""
    setbacks: Mapping[LeaseName, Setback]
    capacity: Mapping[Place, int]
    """Slots by node."""
    obstacle: str
    """Why no trainer can be started; empty: they can."""
    resident_bytes: Callable[[str], int]
    now_s: float


def plan(scene: Scene, rules: StaffRules) -> Staffing:
    """The next steps towards: each HELD lease has its trainer, and no trainer lacks a lease."""
    todo = Staffing()
    held = {lease.name: lease for lease in scene.leases if lease.staffed}
    for trainer in scene.trainers:
        wanted = held.get(trainer.lease)
        _check(trainer, wanted, scene, rules, todo)
        if wanted is not None and wanted.epoch == trainer.epoch:
            _follow_queue(wanted, trainer, todo)
    at_work = {(t.lease, t.epoch): t for t in scene.trainers if t.state in _AT_WORK}
    idle = [t for t in scene.trainers if t.state is TrainerState.IDLE and t not in todo.stops]
    room = _Room(scene, todo)
    vacant: list[Lease] = []
    for lease in sorted(held.values(), key=_since):
        trainer_now = at_work.get((lease.name, lease.epoch))
        if trainer_now is not None and _has_come(lease, trainer_now, scene):
            todo.found.append((lease, trainer_now.place))
        if trainer_now is None:
            vacant += [lease] if lease.state is not LeaseState.REVOKING else []
        elif trainer_now.state is TrainerState.STARTING:
            todo.waits[lease.name] = trainer_now.hint or _starting(
                f"trainer {trainer_now.trainer_id} is starting"
            )
        elif lease.problem and scene.now_s - trainer_now.since_s >= rules.healthy_s:
            todo.mended += [lease] if lease.state is LeaseState.HELD else []
    for lease in vacant:
        _fill(lease, idle, room, scene, rules, todo)
    _bound_idle(idle, scene, rules, todo)
    return todo


def _has_come(lease: Lease, trainer: Trainer, scene: Scene) -> bool:
    awaited = lease.granted and lease.place is not None and lease.place.is_expected
    return awaited and not trainer.place.is_expected and trainer.place in scene.capacity


def _since(lease: Lease) -> tuple[datetime, LeaseName]:
    return lease.grant_time or lease.submit_time or lease.create_time, lease.name


def _follow_queue(lease: Lease, trainer: Trainer, todo: Staffing) -> None:
    """A lease is held while the cluster's queue lets its trainer run."""
    if lease.submitted and not trainer.suspended:
        todo.admitted.append(lease)
    elif trainer.suspended and lease.state is LeaseState.HELD:
        todo.evicted.append((lease, "the cluster's queue has suspended its Job"))
    elif trainer.suspended and lease.state is LeaseState.REVOKING:
        todo.stops += [trainer] if trainer.state is not TrainerState.LEAVING else []


def _check(
    trainer: Trainer, lease: Lease | None, scene: Scene, rules: StaffRules, todo: Staffing
) -> None:
    """Ends a trainer that has no business any more."""
    age_s = scene.now_s - trainer.since_s
    if trainer.state is TrainerState.LEAVING:
        if age_s > rules.grace_s + 2:
            todo.kills.append(trainer)
    elif trainer.state is TrainerState.IDLE:
        if age_s > rules.idle_s:
            todo.stops.append(trainer)
    elif lease is None:
        ended = scene.ended.get(trainer.lease)
        if ended is None or ended.state is not LeaseState.RELEASED:
            todo.kills.append(trainer)
        elif ended.epoch != trainer.epoch or scene.now_s - ended.since_s > rules.drain_s:
            todo.stops.append(trainer)
    elif lease.epoch != trainer.epoch or (
        trainer.state is TrainerState.STARTING and age_s > rules.start_limit_s
    ):
        todo.kills.append(trainer)


class _Room:
    """Slots that no trainer is in, and those that trainers on their way out will leave."""

    def __init__(self, scene: Scene, todo: Staffing) -> None:
        self.free = Counter(scene.capacity)
        self.coming: Counter[Place] = Counter()
        going = {t.trainer_id for t in (*todo.stops, *todo.kills)}
        for trainer in scene.trainers:
            self.free[trainer.place] -= trainer.slot_count
            if trainer.state is TrainerState.LEAVING or trainer.trainer_id in going:
                self.coming[trainer.place] += trainer.slot_count

    def take(self, place: Place, slot_count: int) -> bool:
        """Whether the slots are there now; else those that come are kept for the asker."""
        if place.node == ANYWHERE:
            return True
        if slot_count <= self.free[place]:
            self.free[place] -= slot_count
            return True
        self.coming[place] -= slot_count - max(0, self.free[place])
        self.free[place] = min(0, self.free[place])
        return False


def _fill(
    lease: Lease,
    idle: list[Trainer],
    room: _Room,
    scene: Scene,
    rules: StaffRules,
    todo: Staffing,
) -> None:
    """Finds a trainer for a lease that has none."""
    setback = scene.setbacks.get(lease.name)
    if setback is not None and setback.retry_at_s > scene.now_s:
        todo.waits[lease.name] = Wait(NO_TRAINER, f"{setback.message}; another one is started soon")
        return
    place = lease.place
    assert place is not None, lease
    own = [
        t
        for t in idle
        if (t.tenant, t.slot_count, t.place) == (lease.tenant, lease.slot_count, place)
    ]
    before = next((t for t in own if t.lease == lease.name), None)
    if before is not None and scene.now_s - before.since_s < rules.settle_s:
        todo.waits[lease.name] = _starting("its trainer has just left its session")
        return
    if scene.obstacle:
        todo.waits[lease.name] = _starting(scene.obstacle)
        return
    todo.waits[lease.name] = _starting("its trainer is about to start")
    if scene.spent.get(lease.name) == lease.epoch:
        if lease.granted and lease.submit_time is not None:
            cause = setback.cause if setback is not None else "it ended"
            why = f"its trainer is gone ({cause}) and the cluster's queue has to admit another one"
            todo.evicted.append((lease, why))
        else:
            todo.new_epochs.append(lease)
    elif own:
        chosen = max(own, key=lambda t: (t.since_s, t.trainer_id))
        idle.remove(chosen)
        todo.hand_overs.append((chosen, lease))
    else:
        _evict(lease, place, idle, room, todo)
        if room.take(place, lease.slot_count):
            todo.starts.append(lease)
        else:
            todo.waits[lease.name] = _starting("another trainer has to leave its slots first")


def _evict(lease: Lease, place: Place, idle: list[Trainer], room: _Room, todo: Staffing) -> None:
    """Ends as many idle trainers as the lease needs: other tenants' first, oldest first."""
    here = [t for t in idle if t.place == place]
    for trainer in sorted(here, key=lambda t: (t.tenant == lease.tenant, t.since_s)):
        if room.free[place] + room.coming[place] >= lease.slot_count:
            return
        idle.remove(trainer)
        todo.kills.append(trainer)
        room.coming[place] += trainer.slot_count


def _bound_idle(idle: list[Trainer], scene: Scene, rules: StaffRules, todo: Staffing) -> None:
    kept_bytes = 0
    for trainer in sorted(idle, key=lambda t: -t.since_s):
        kept_bytes += scene.resident_bytes(trainer.trainer_id)
        if kept_bytes > rules.idle_memory_bytes:
            todo.stops.append(trainer)


def _starting(why: str) -> Wait:
    return Wait(STARTING, f"{why}; it works as soon as that one has opened its session")

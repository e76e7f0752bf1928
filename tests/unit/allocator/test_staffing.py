"""Which trainers are started, handed on and ended."""

from dataclasses import replace
from datetime import timedelta

from allotment_allocator.domain.lease import Lease, LeaseState, Problem
from allotment_allocator.domain.ports import Trainer, TrainerState
from allotment_allocator.domain.staffing import (
    Ended,
    Scene,
    Setback,
    Staffing,
    StaffRules,
    plan,
)
from allotment_testkit.pool_market import HERE, START, experiment, lease_name

RULES = StaffRules()
NOW_S = 1000.0


def lease(number: int, holder: str = "a/x", slots: int = 1) -> Lease:
    who = experiment(holder)
    new = Lease(
        name=lease_name(number, who),
        holder=who,
        slot_count=slots,
        create_time=START + timedelta(seconds=number),
    )
    return new.granted_at(HERE, START + timedelta(seconds=number), 60)


def trainer(
    serves: Lease, state: TrainerState = TrainerState.RUNNING, age_s: float = 5.0
) -> Trainer:
    return Trainer(
        trainer_id=f"t-{serves.name.lease_id}",
        tenant=serves.tenant,
        slot_count=serves.slot_count,
        place=HERE,
        lease=serves.name,
        epoch=serves.epoch,
        state=state,
        since_s=NOW_S - age_s,
    )


def planned(leases: list[Lease], trainers: list[Trainer], **more: object) -> Staffing:
    scene = Scene(
        leases=leases,
        ended={},
        trainers=trainers,
        spent={},
        setbacks={},
        capacity={HERE: 2},
        obstacle="",
        resident_bytes=lambda _: 1,
        now_s=NOW_S,
    )
    return plan(replace(scene, **more), RULES)  # type: ignore[arg-type]


def test_a_new_lease_gets_a_new_trainer() -> None:
    new = lease(1)
    todo = planned([new], [])
    assert todo.starts == [new]
    assert todo.waits[new.name].reason == "STARTING"


def test_a_lease_with_its_trainer_needs_nothing() -> None:
    served = lease(1)
    assert planned([served], [trainer(served)], spent={served.name: 1}) == Staffing()


def test_an_idle_trainer_of_the_tenant_is_preferred() -> None:
    old, new = lease(1), lease(2)
    idle = trainer(old, TrainerState.IDLE)
    todo = planned([new], [idle])
    assert todo.hand_overs == [(idle, new)]
    assert (todo.starts, todo.kills) == ([], [])


def test_a_trainer_never_changes_its_tenant_and_leaves_only_when_needed() -> None:
    old, new = lease(1, "b/x"), lease(2)
    idle = trainer(old, TrainerState.IDLE)
    assert planned([new], [idle]).kills == []
    todo = planned([new], [idle], capacity={HERE: 1})
    assert (todo.starts, todo.hand_overs, todo.kills) == ([], [], [idle])


def test_nothing_starts_where_a_trainer_is_not_known_to_be_gone() -> None:
    old, new = lease(1, "b/x"), lease(2)
    going = trainer(old, TrainerState.LEAVING, age_s=1)
    todo = planned([new], [going], capacity={HERE: 1})
    assert todo.starts == []
    assert "leave its slots first" in todo.waits[new.name].message


def test_slots_that_come_are_not_made_free_twice() -> None:
    new = lease(3)
    going = trainer(lease(1, "b/x"), TrainerState.LEAVING, age_s=1)
    idle = trainer(lease(2, "c/x"), TrainerState.IDLE)
    assert planned([new], [going, idle], capacity={HERE: 2}).kills == []


def test_an_epoch_that_had_its_trainer_is_never_used_again() -> None:
    lost = lease(1)
    todo = planned([lost], [], spent={lost.name: 1})
    assert (todo.new_epochs, todo.starts) == ([lost], [])
    again = lost.restarted(None)
    assert planned([again], [], spent={lost.name: 1}).starts == [again]


def test_trainers_of_older_epochs_and_expired_leases_are_killed() -> None:
    moved = lease(1)
    stale = trainer(moved)
    assert planned([moved.restarted(None)], [stale]).kills == [stale]
    expired = {moved.name: Ended(state=LeaseState.EXPIRED, epoch=1, since_s=NOW_S)}
    assert planned([], [stale], ended=expired).kills == [stale]
    assert planned([], [stale]).kills == [stale]


def test_a_trainer_of_a_released_lease_has_time_to_become_idle() -> None:
    leaving = trainer(lease(1))
    ended = Ended(state=LeaseState.RELEASED, epoch=1, since_s=NOW_S - 1)
    assert planned([], [leaving], ended={leaving.lease: ended}) == Staffing()
    late = replace(ended, since_s=NOW_S - 10)
    assert planned([], [leaving], ended={leaving.lease: late}).stops == [leaving]


def test_idle_trainers_go_after_their_time_or_for_their_memory() -> None:
    fresh = trainer(lease(1), TrainerState.IDLE, age_s=1)
    older = trainer(lease(2), TrainerState.IDLE, age_s=20)
    old = trainer(lease(3), TrainerState.IDLE, age_s=31)
    assert planned([], [fresh, older]).stops == []
    assert planned([], [old]).stops == [old]
    heavy = planned([], [fresh, older], resident_bytes=lambda _: 3 << 29)
    assert heavy.stops == [older]


def test_a_session_that_ended_just_before_its_release_is_no_loss() -> None:
    live = lease(1)
    todo = planned([live], [trainer(live, TrainerState.IDLE, age_s=1)], spent={live.name: 1})
    assert (todo.new_epochs, todo.hand_overs) == ([], [])
    later = planned([live], [trainer(live, TrainerState.IDLE, age_s=3)], spent={live.name: 1})
    assert later.new_epochs == [live]


def test_a_lease_whose_trainers_fail_waits_before_the_next_one() -> None:
    failing = lease(1)
    setback = Setback(count=3, retry_at_s=NOW_S + 1, cause="CRASHED", log_tail="boom")
    todo = planned([failing], [], setbacks={failing.name: setback})
    assert todo.starts == []
    assert todo.waits[failing.name].reason == "NO_TRAINER"
    assert "boom" in todo.waits[failing.name].message


def test_without_a_host_leases_wait_and_keep_their_epoch() -> None:
    new = lease(1)
    todo = planned([new], [], obstacle="the trainer host is loading its libraries")
    assert (todo.starts, todo.new_epochs) == ([], [])
    assert "loading its libraries" in todo.waits[new.name].message


def test_a_lease_that_is_taken_back_gets_no_new_trainer() -> None:
    revoked = lease(1).revoked(START, 10, Problem("X", "x"))
    assert planned([revoked], []) == Staffing()


def test_trainers_that_do_not_end_or_do_not_come_up_are_killed() -> None:
    served = lease(1)
    stuck = trainer(served, TrainerState.LEAVING, age_s=60)
    assert planned([], [stuck]).kills == [stuck]
    never_up = trainer(served, TrainerState.STARTING, age_s=60)
    assert planned([served], [never_up]).kills == [never_up]


def test_a_problem_is_forgotten_once_the_trainer_runs_well() -> None:
    troubled = lease(1).restarted(Problem("TRAINER_FAILED", "x"))
    assert planned([troubled], [trainer(troubled, age_s=5)]).mended == []
    assert planned([troubled], [trainer(troubled, age_s=25)]).mended == [troubled]


def test_a_lease_whose_node_has_come_is_there_with_its_trainer() -> None:
    awaited, come = HERE._replace(node="+1"), HERE._replace(node="n1")
    waiting = replace(lease(1), place=awaited)
    starting = replace(trainer(waiting, TrainerState.STARTING), place=awaited)
    assert planned([waiting], [starting], capacity={awaited: 2}).found == []
    there = replace(starting, place=come)
    assert planned([waiting], [there], capacity={awaited: 2}).found == []
    both = {awaited: 2, come: 2}
    assert planned([waiting], [there], capacity=both).found == [(waiting, come)]
    assert planned([replace(waiting, place=come)], [there], capacity=both).found == []

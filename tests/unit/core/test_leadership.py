"""Leadership, step by step on a virtual clock."""

import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest

from allotment_core.db import holders
from allotment_core.db.leadership import Leadership, LeaderTimes, Phase, Reign
from allotment_core.errors import Unavailable
from allotment_testkit.clock import ManualClock

TIMES = LeaderTimes(ttl_s=9.0, renew_s=1.0, absent_s=1.6, poll_s=0.25)
NOBODY = Reign(term=0, holder="", is_over=True, is_absent=True)
OTHER = Reign(term=4, holder="other", is_over=False, is_absent=False)


@dataclass
class Row:
    """One row that a test changes behind its holder's back."""

    reign: Reign = NOBODY
    away: bool = False
    released: list[int] = field(default_factory=list)

    def read(self) -> Reign:
        self._ask()
        return self.reign

    def take(self, after: Reign) -> int | None:
        self._ask()
        if after.term != self.reign.term:
            return None
        self.reign = Reign(term=after.term + 1, holder="own", is_over=False, is_absent=False)
        return self.reign.term

    def renew(self, term: int) -> bool:
        self._ask()
        return self.reign.term == term

    def release(self, term: int) -> None:
        self._ask()
        self.released.append(term)

    def close(self) -> None:
        self.away = True

    def _ask(self) -> None:
        if self.away:
            raise Unavailable("away", reason="DATABASE_UNAVAILABLE")


class Candidate:
    def __init__(self, reign: Reign = NOBODY) -> None:
        self.row = Row(reign)
        self.clock = ManualClock()
        self.changes = 0
        self.terms: list[int] = []
        self.leadership = Leadership(
            self.row,
            self.clock,
            TIMES,
            has_died=lambda holder: holder == "dead",
            on_leading=lambda term, _: self.terms.append(term),
            on_change=self._note,
        )

    def _note(self) -> None:
        self.changes += 1

    def steps(self, seconds: float) -> None:
        """What the thread does in this time."""
        ends = self.clock.monotonic() + seconds
        while self.clock.monotonic() < ends:
            self.clock.advance(self.leadership.step())


def reason(leadership: Leadership) -> str:
    with pytest.raises(Unavailable) as caught:
        leadership.check()
    return caught.value.reason


def test_who_finds_nobody_leads_at_once_and_is_fenced_before_it_may_write() -> None:
    one = Candidate()
    assert reason(one.leadership) == "STANDBY"
    one.leadership.step()
    assert one.leadership.phase is Phase.LEADING
    assert one.terms == [one.leadership.term] == [1]
    one.leadership.check()


def test_a_leader_that_renews_is_left_alone() -> None:
    one = Candidate(OTHER)
    one.steps(100)
    assert one.leadership.phase is Phase.STANDING_BY
    assert one.leadership.leader == "other"
    assert one.changes == 1


def test_a_leader_whose_time_has_run_out_is_followed_by_the_next_term() -> None:
    one = Candidate(OTHER)
    one.steps(1)
    one.row.reign = replace(OTHER, is_over=True)
    one.leadership.step()
    assert one.leadership.term == OTHER.term + 1


def test_a_leader_whose_session_is_gone_is_followed_after_a_while() -> None:
    one = Candidate(replace(OTHER, is_absent=True))
    one.steps(TIMES.absent_s - 0.2)
    assert not one.leadership.is_acting
    one.steps(0.5)
    assert one.leadership.is_acting


def test_a_leader_that_is_known_to_be_dead_is_followed_at_once() -> None:
    one = Candidate(replace(OTHER, holder="dead", is_absent=True))
    one.leadership.step()
    assert one.leadership.is_acting


def test_a_process_of_this_machine_is_known_to_be_dead_and_others_are_not() -> None:
    own = holders.own_name()
    assert not holders.has_died(own)
    assert own != holders.own_name()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, machine, _, token = own.split("/")
    assert holders.has_died(f"{host}/{machine}/{ended.pid}/{token}") is bool(machine)
    assert not holders.has_died(f"{host}/elsewhere/{ended.pid}/{token}")
    assert not holders.has_died("")


def test_after_an_outage_the_leader_may_go_on_first() -> None:
    one = Candidate(replace(OTHER, is_over=True))
    one.row.away = True
    one.steps(20)
    one.row.away = False
    one.steps(TIMES.absent_s - 0.2)
    assert not one.leadership.is_acting
    one.steps(0.5)
    assert one.leadership.is_acting


def test_absences_of_different_leaders_or_with_an_outage_between_do_not_add_up() -> None:
    one = Candidate(replace(OTHER, is_absent=True))
    one.steps(1.25)
    one.row.reign = Reign(term=5, holder="third", is_over=False, is_absent=True)
    one.steps(1.25)
    one.row.away = True
    one.steps(0.25)
    one.row.away = False
    one.steps(1.25)
    assert one.leadership.phase is Phase.STANDING_BY


def test_a_leader_that_can_not_renew_stops_acting_at_two_thirds_and_goes_on_when_it_can() -> None:
    one = Candidate()
    one.leadership.step()
    one.row.away = True
    one.steps(5)
    assert one.leadership.is_acting
    one.steps(2)
    assert not one.leadership.is_acting
    assert reason(one.leadership) == "STANDBY"
    assert one.changes == 2
    one.row.away = False
    one.steps(1)
    assert one.leadership.is_acting
    assert one.changes == 3


def test_time_that_a_renewal_takes_does_not_prolong_the_right_to_act() -> None:
    one = Candidate()
    take = one.row.take

    def slow(after: Reign) -> int | None:
        one.clock.advance(TIMES.acting_s + 0.1)
        return take(after)

    one.row.take = slow  # type: ignore[method-assign]
    one.leadership.step()
    assert one.leadership.phase is Phase.LEADING
    assert not one.leadership.is_acting


def test_whoever_finds_the_term_over_has_lost_for_good() -> None:
    one = Candidate()
    one.leadership.step()
    one.row.reign = OTHER
    one.leadership.step()
    assert one.leadership.phase is Phase.LOST
    assert reason(one.leadership) == "LEADERSHIP_LOST"
    one.row.reign = NOBODY
    assert one.leadership.phase is Phase.LOST


def test_a_write_that_finds_the_term_over_says_so_once() -> None:
    one = Candidate()
    one.leadership.step()
    one.leadership.lose()
    one.leadership.lose()
    assert one.leadership.phase is Phase.LOST
    assert one.changes == 2


def test_the_end_gives_back_what_is_held_and_nothing_else() -> None:
    leader, lost = Candidate(), Candidate()
    for each in (leader, lost):
        each.leadership.start()
        while each.leadership.phase is not Phase.LEADING:
            pass
    lost.leadership.lose()
    for each in (leader, lost):
        each.leadership.end()
    assert leader.row.released == [1]
    assert lost.row.released == []

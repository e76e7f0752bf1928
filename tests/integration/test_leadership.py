"""Processes that want to lead one service, on a real PostgreSQL: whatever happens to the one that
leads, no two of them write, and another one soon does.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from allotment_testkit.contender import DEEDS
from allotment_testkit.db import write_migration
from allotment_testkit.postgres import (
    PostgresServer,
    fresh_database,
    own_server,
    why_unavailable,
)

TTL_S = 3.0
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if why_unavailable():
        pytest.skip(why_unavailable())
    with own_server() as running:
        yield running


class Contenders:
    """Processes over one database; all are gone at the end."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        write_migration(folder / "migrations", 1, [DEEDS])
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "allotment_testkit.contender", self._url]
        with (self._folder / name).open("ab") as out:
            self._processes[name] = subprocess.Popen(
                [*command, str(self._folder / "migrations"), name, str(TTL_S)],
                stdout=out,
                stderr=out,
            )

    def said(self, name: str) -> str:
        return (self._folder / name).read_text()

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self._processes[name].pid, number)

    def status(self, name: str) -> int:
        return self._processes[name].wait(LIMIT_S)

    def deeds(self) -> list[tuple[int, str]]:
        """In the order in which they became visible; one transaction at a time makes them."""
        with psycopg.connect(self._url.partition("?")[0]) as connection:
            query = "SELECT term, name FROM allotment.deed ORDER BY place"
            return list(connection.execute(query).fetchall())

    def until_writes(self, *names: str) -> float:
        """Seconds until one of them has written anew."""
        began = time.monotonic()
        before = self._last(names)
        while self._last(names) == before:
            assert time.monotonic() - began < LIMIT_S, {n: self.said(n) for n in self._processes}
            time.sleep(0.01)
        return time.monotonic() - began

    def _last(self, names: tuple[str, ...]) -> int:
        return sum(name in names for _, name in self.deeds()) if self._is_there() else 0

    def _is_there(self) -> bool:
        with psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT to_regclass('allotment.deed')").fetchone()
        return row is not None and row[0] is not None

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def contenders(server: PostgresServer, tmp_path: Path) -> Iterator[Contenders]:
    with fresh_database(server.tcp_url) as url:
        running = Contenders(url, tmp_path)
        try:
            running.start("one")
            running.until_writes("one")
            running.start("two")
            time.sleep(1.5)
            yield running
            check_one_at_a_time(running.deeds())
        finally:
            running.close()


def check_one_at_a_time(deeds: list[tuple[int, str]]) -> None:
    terms = [term for term, _ in deeds]
    assert terms == sorted(terms)
    assert len({term: name for term, name in deeds}) == len(set(deeds))


def test_who_stands_by_writes_nothing(contenders: Contenders) -> None:
    assert {name for _, name in contenders.deeds()} == {"one"}
    assert contenders.said("two") == ""


def test_a_leader_that_ends_hands_over_at_once(contenders: Contenders) -> None:
    contenders.send("one", signal.SIGTERM)
    assert contenders.until_writes("two") < 2.0
    assert contenders.status("one") == 0


def test_a_killed_leader_is_followed_before_its_time_has_run_out(contenders: Contenders) -> None:
    contenders.send("one", signal.SIGKILL)
    assert contenders.until_writes("two") < TTL_S


def test_a_leader_that_stood_still_stores_nothing_afterwards(contenders: Contenders) -> None:
    # Mostly in the middle of a transaction, which holds the row.
    time.sleep(random.uniform(0.0, 0.05))
    contenders.send("one", signal.SIGSTOP)
    assert contenders.until_writes("two") < TTL_S + 1.5
    before = [deed for deed in contenders.deeds() if deed[1] == "one"]
    contenders.send("one", signal.SIGCONT)
    assert contenders.status("one") == 3
    assert contenders.said("one").splitlines()[-1] == "lost"
    assert [deed for deed in contenders.deeds() if deed[1] == "one"] == before
    contenders.until_writes("two")


def test_a_restart_of_the_database_is_no_reason_for_another_leader(
    contenders: Contenders, server: PostgresServer
) -> None:
    server.kill()
    server.start()
    contenders.until_writes("one")
    time.sleep(1.5)
    assert {name for _, name in contenders.deeds()} == {"one"}


def test_leaders_that_are_killed_again_and_again_never_overlap(contenders: Contenders) -> None:
    rng = random.Random(7)
    for _ in range(4):
        for leader, other in (("one", "two"), ("two", "one")):
            time.sleep(rng.uniform(0.0, 0.3))
            contenders.send(leader, signal.SIGKILL)
            contenders.status(leader)
            contenders.until_writes(other)
            contenders.start(leader)
            time.sleep(0.3)
    assert len({term for term, _ in contenders.deeds()}) >= 8

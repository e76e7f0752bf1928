"""A process that wants to lead, and writes without pause while it does.

    python -m allotment_testkit.contender URL MIGRATIONS NAME TTL_S

Inserts (term, name) into the table `deed` (`DEEDS`), in transactions of various lengths. Prints a
line for each change: "leading TERM", "lost", and "refused REASON" for a write. Ends at SIGTERM and,
with status 3, when it was deposed.
"""

import asyncio
import random
import signal
import sys
import time

import sqlalchemy as sa

from allotment_core.clock import SystemClock
from allotment_core.db import Database
from allotment_core.db.leadership import LeaderTimes, Phase
from allotment_core.errors import AllotmentError

DEEDS = "CREATE TABLE deed (place SERIAL PRIMARY KEY, term INTEGER NOT NULL, name TEXT NOT NULL)"


async def contend(url: str, migrations: str, name: str, ttl_s: float) -> int:
    """Until SIGTERM (0) or until another one leads (3)."""
    ended = asyncio.Event()
    database = await Database.open(url, migrations=migrations, clock=SystemClock())
    times = LeaderTimes(ttl_s=ttl_s, renew_s=0.3, absent_s=0.8, poll_s=0.1)
    changed = asyncio.Event()
    leadership = database.candidate(changed.set, times)
    assert leadership is not None

    def end() -> None:
        ended.set()
        changed.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    while leadership.phase is Phase.STANDING_BY and not ended.is_set():
        await changed.wait()
        changed.clear()
    term = leadership.term

    def work(connection: sa.Connection) -> None:
        insert = "INSERT INTO deed (term, name) VALUES (:term, :name)"
        connection.execute(sa.text(insert), {"term": term, "name": name})
        time.sleep(random.uniform(0.0, 0.03))

    if leadership.phase is Phase.LEADING:
        print(f"leading {term}", flush=True)
    while leadership.phase is not Phase.LOST and not ended.is_set():
        try:
            await database.write(work)
        except AllotmentError as e:
            print(f"refused {e.reason}", flush=True)
            await asyncio.sleep(0.05)
    if leadership.phase is Phase.LOST:
        print("lost", flush=True)
    await database.close()
    return 3 if leadership.phase is Phase.LOST else 0


if __name__ == "__main__":
    _, given_url, given_migrations, given_name, given_ttl_s = sys.argv
    status = asyncio.run(contend(given_url, given_migrations, given_name, float(given_ttl_s)))
    sys.exit(status)

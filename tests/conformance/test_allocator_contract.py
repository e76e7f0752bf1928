"""The allocator's code and its contract say the same."""

import re
from dataclasses import fields
from pathlib import Path

import sqlalchemy as sa

from allotment_allocator.adapters import schema
from allotment_allocator.build import MIGRATIONS
from allotment_allocator.config import AllocatorConfig
from allotment_allocator.convert import STATES
from allotment_allocator.domain.lease import MOVES, LeaseState
from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_core.clock import SystemClock
from allotment_core.db import Database

PROTO = (
    Path(__file__).parents[2] / "protos" / "allotment_api" / "allocator" / "v1" / "allocator.proto"
)


def test_the_moves_of_a_lease_are_those_of_the_proto_comments() -> None:
    body = PROTO.read_text(encoding="utf-8").split("enum LeaseState {")[1].split("\n}")[0]
    told: dict[str, frozenset[LeaseState]] = {}
    comments: list[str] = []
    for line in body.splitlines():
        if line.strip().startswith("//"):
            comments.append(line.strip())
        elif found := re.search(r"LEASE_STATE_(\w+) =", line):
            moves = re.search(r"Moves to ([^.]*)\.", " ".join(comments))
            names = re.sub(r"\([^)]*\)", "", moves[1]) if moves else ""
            told[found[1]] = frozenset(LeaseState[n] for n in re.findall(r"[A-Z]+", names))
            comments = []
    del told["UNSPECIFIED"]
    assert told == {state.name: moves for state, moves in MOVES.table.items()}


def test_every_state_has_its_number_on_the_wire() -> None:
    names = {s: pb.LeaseState.Name(number) for s, number in STATES.items()}
    assert names == {s: f"LEASE_STATE_{s.name}" for s in LeaseState}


async def test_the_migrations_make_the_tables_that_the_code_uses(database_url: str) -> None:
    database = await Database.open(database_url, migrations=MIGRATIONS, clock=SystemClock())

    def compare(connection: sa.Connection) -> None:
        inspector = sa.inspect(connection)
        for table in schema.metadata.sorted_tables:
            made = {
                c["name"]: (_plain(str(c["type"])), c["nullable"])
                for c in inspector.get_columns(table.name)
            }
            used = {c.name: (c.type.compile(connection.dialect), c.nullable) for c in table.columns}
            assert made == used
            indexes = {i["name"] for i in inspector.get_indexes(table.name)}
            assert indexes == {i.name for i in table.indexes}

    await database.read(compare)
    await database.close()


def _plain(column_type: str) -> str:
    return column_type.removesuffix(' COLLATE "C"').replace("DOUBLE PRECISION", "FLOAT")


def test_the_defaults_are_those_that_the_readme_promises() -> None:
    defaults = {f.name: f.default for f in fields(AllocatorConfig)}
    assert defaults["lease_ttl_s"] == 60.0
    assert defaults["trainer_idle_s"] == 30.0
    assert defaults["local_tenant"] == "local"
    assert (defaults["slots"], defaults["threads_per_slot"]) == (0, 1)
    assert (defaults["minimum_runtime_s"], defaults["turn_s"]) == (5.0, 30.0)
    assert defaults["revoke_grace_s"] == 10.0

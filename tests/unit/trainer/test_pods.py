"""What a trainer finds in its pod: a token that is renewed, a limit of memory."""

from pathlib import Path

import pytest

from allotment_core.names import LeaseName, TenantName
from allotment_trainer.adapters.token_file import TokenFile
from allotment_trainer.agent import Start
from allotment_trainer.domain.lease import Grant
from allotment_trainer.processes import limits

MIB = 1 << 20
LEASE = LeaseName(TenantName("acme"), "l1")


def test_the_token_of_the_moment_is_used_and_the_last_one_while_there_is_none(
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    token = TokenFile(file, "at the start")
    assert token() == "first"
    file.write_text("second")
    assert token() == "second"
    file.write_text("")
    assert token() == "second"
    file.write_bytes(b"\xff")
    assert token() == "second"
    file.unlink()
    assert token() == "second"
    assert TokenFile(file, "at the start")() == "at the start"


def _container(folder: Path, most: str, **stat: int) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    lines = [f"{name} {number * MIB}\n" for name, number in stat.items()]
    (folder / "memory.stat").write_text("".join(lines))


def test_a_trial_has_what_its_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_CGROUP", tmp_path)
    assert limits.room_bytes() is None
    _container(tmp_path, "max", anon=100)
    assert limits.room_bytes() is None
    _container(tmp_path, str(1024 * MIB), anon=200, file=500, shmem=4)
    own = limits._OWN_GROWTH_BYTES // MIB
    assert limits.room_bytes() == (1024 - 204 - own) * MIB
    _container(tmp_path, str(128 * MIB), anon=200)
    assert limits.room_bytes() == 64 * MIB


@pytest.mark.parametrize(("room", "allowed"), [(None, 1024), (2048, 1024), (700, 700)])
def test_a_trial_has_no_more_than_was_granted(
    room: int | None, allowed: int, tmp_path: Path
) -> None:
    grant = Grant(
        server="127.0.0.1:1",
        token="t",
        lease=str(LEASE),
        epoch=1,
        threads=1,
        memory_bytes=1024 * MIB,
    )
    start = Start(
        trainer_id="t", tenant=LEASE.tenant, grant=grant, cache_dir=tmp_path, work_dir=tmp_path
    )
    room_bytes = None if room is None else room * MIB
    assert start.within(room_bytes).grant.memory_bytes == allowed * MIB

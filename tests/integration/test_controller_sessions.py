"""Trainer sessions: who may open one, and what silence means."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_api.trainer.v1 import session_pb2_grpc
from allotment_core.auth.principal import Role
from allotment_core.errors import AllotmentError
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.search_world import SearchWorld, all_trials, create, spec

NAME = "tenants/local/experiments/e"
REFUSED = ("PERMISSION_DENIED", "NOT_FOUND")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SearchWorld]:
    async with SearchWorld(tmp_path).open() as opened:
        opened.allocator.on_grant = lambda lease: None
        yield opened


async def leased(world: SearchWorld) -> str:
    """The name of a lease that is held and has no trainer."""
    async with asyncio.timeout(10):
        while not world.allocator.live:  # noqa: ASYNC110 (another server's fact)
            await asyncio.sleep(0.01)
    return world.allocator.live[0].name


def open_session(world: SearchWorld, lease: str, epoch: int, said: Any) -> Any:
    """A stream of a trainer with a token for this lease, that says these messages."""
    assert world.served is not None
    token = world.served.token(Role.TRAINER, lease=lease, lease_epoch=epoch)
    stub: Any = session_pb2_grpc.TrainerServiceStub(world.served.channel(token))

    async def requests() -> AsyncIterator[pb.OpenSessionRequest]:
        for message in said:
            yield message
        await asyncio.sleep(30)

    return stub.OpenSession(requests())


def hello(lease: str, epoch: int = 1) -> pb.OpenSessionRequest:
    families = [pb.OfferedFamily(family="families/constant", available=True)]
    return pb.OpenSessionRequest(
        hello=pb.Hello(lease=lease, lease_epoch=epoch, families=families, threads=1)
    )


async def failure(call: Any) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return from_rpc_error(caught.value)


async def test_a_token_opens_no_session_of_another_lease_or_epoch(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        lease = await leased(world)
        other_epoch = await failure(open_session(world, lease, 2, [hello(lease, 1)]))
        assert other_epoch.kind.name in REFUSED
        other_lease = await failure(
            open_session(world, "tenants/local/leases/other", 1, [hello(lease)])
        )
        assert other_lease.kind.name in REFUSED


async def test_an_epoch_that_is_over_is_told_so(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        lease = await leased(world)
        world.allocator.restart(lease)
        error = await failure(open_session(world, lease, 1, [hello(lease, 1)]))
        assert error.reason == "LEASE_ENDED"


async def test_a_silent_trainer_loses_its_trial(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        lease = await leased(world)
        error = await failure(open_session(world, lease, 1, [hello(lease)]))
        assert error.reason == "HEARTBEATS_MISSED"
        async with asyncio.timeout(10):
            while (await all_trials(stub, NAME))[0].epoch == 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        attempts = (await all_trials(stub, NAME))[0].attempts
        assert [a.cause for a in attempts] == [search_pb2.ATTEMPT_CAUSE_LOST]


@pytest.mark.parametrize(
    "report",
    [
        pb.OpenSessionRequest(),
        pb.OpenSessionRequest(started=pb.TrialStarted()),
        pb.OpenSessionRequest(failure=pb.TrialFailure(key=pb.ReportKey(trial=f"{NAME}/trials/1"))),
        pb.OpenSessionRequest(
            result=pb.TrialResult(
                key=pb.ReportKey(trial=f"{NAME}/trials/1", trial_epoch=1, sequence=1)
            )
        ),
    ],
)
async def test_reports_that_say_nothing_end_the_session(
    world: SearchWorld, report: pb.OpenSessionRequest
) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        lease = await leased(world)
        error = await failure(open_session(world, lease, 1, [hello(lease), report]))
        assert error.kind.name == "INVALID_ARGUMENT"


async def test_a_trainer_reports_nothing_of_another_experiment(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        lease = await leased(world)
        key = pb.ReportKey(
            trial="tenants/local/experiments/other/trials/1", trial_epoch=1, sequence=1
        )
        report = pb.OpenSessionRequest(started=pb.TrialStarted(key=key))
        error = await failure(open_session(world, lease, 1, [hello(lease), report]))
        assert error.reason == "OTHER_EXPERIMENT"


async def test_a_session_begins_with_a_hello(world: SearchWorld) -> None:
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        lease = await leased(world)
        heartbeat = pb.OpenSessionRequest(heartbeat=pb.Heartbeat())
        error = await failure(open_session(world, lease, 1, [heartbeat]))
        assert error.kind.name in ("INVALID_ARGUMENT", "PERMISSION_DENIED")


async def test_a_trial_that_only_a_heartbeat_names_keeps_its_trainer(world: SearchWorld) -> None:
    """Its assignment was under way when the Hello was written: no other one comes beside it."""
    async with world.controller() as stub:
        await create(stub, spec(trial_count=3))
        lease = await leased(world)
        greeting = hello(lease)
        greeting.hello.families.add(family="families/linear", available=True)
        greeting.hello.families.add(family="families/lightgbm", available=True)
        async with asyncio.timeout(10):
            async for response in open_session(world, lease, 1, [greeting]):
                if response.HasField("assignment"):
                    assignment = response.assignment
                    break
        running = pb.RunningTrial(trial=assignment.trial, trial_epoch=assignment.trial_epoch)
        heartbeat = pb.OpenSessionRequest(heartbeat=pb.Heartbeat(running=[running]))
        said = [greeting, heartbeat, heartbeat]
        answers = []
        with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(20):
                async for response in open_session(world, lease, 1, said):
                    answers.append(str(response.WhichOneof("message")))
        assert answers.count("acknowledgement") >= 2
        assert "assignment" not in answers
        assert [t.epoch for t in await all_trials(stub, NAME)] == [1]

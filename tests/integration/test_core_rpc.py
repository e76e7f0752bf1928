"""What stands before every handler: errors, tokens, access, deadlines, over all four call kinds."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc
from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_api.trainer.v1 import session_pb2, session_pb2_grpc
from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_core.errors import (
    Aborted,
    AllotmentError,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from allotment_core.names import TenantName
from allotment_core.rpc.chain import Limits
from allotment_core.rpc.client import from_rpc_error
from allotment_core.rpc.status import to_metadata
from allotment_testkit.rpc import Served, bearer, new_signer, serving
from allotment_testkit.stub_services import Stubs

OURS = "tenants/local"
BLOB = f"{OURS}/blobs/" + "a" * 64
LEASE = f"{OURS}/leases/l1"
SECRET = "SELECT secret FROM passwords"


@pytest.fixture
def stubs() -> Stubs:
    return Stubs()


@pytest.fixture
async def served(stubs: Stubs) -> AsyncIterator[Served]:
    async with serving(stubs.service, limits=Limits(unary_s=0.5, upload_idle_s=0.3)) as running:
        yield running


async def get_tenant(channel: grpc.aio.Channel, name: str = OURS) -> Any:
    stub: Any = allocator_pb2_grpc.TenantServiceStub(channel)
    return await stub.GetTenant(pb.GetTenantRequest(name=name))


async def put_blob(channel: grpc.aio.Channel, *parents: str) -> Any:
    async def requests() -> AsyncIterator[Any]:
        for parent in parents or (OURS, ""):
            yield blob_pb2.PutBlobRequest(parent=parent, data=b"x")

    stub: Any = blob_pb2_grpc.BlobServiceStub(channel)
    return await stub.PutBlob(requests())


async def read_blob(channel: grpc.aio.Channel, name: str = BLOB) -> bytes:
    stub: Any = blob_pb2_grpc.BlobServiceStub(channel)
    return b"".join([r.data async for r in stub.ReadBlob(blob_pb2.ReadBlobRequest(name=name))])


async def open_session(channel: grpc.aio.Channel, *leases: str) -> int:
    async def requests() -> AsyncIterator[Any]:
        for lease in leases or (LEASE,):
            hello = session_pb2.Hello(lease=lease)
            yield session_pb2.OpenSessionRequest(hello=hello if lease else None)

    stub: Any = session_pb2_grpc.TrainerServiceStub(channel)
    return len([r async for r in stub.OpenSession(requests())])


async def failure(call: Any) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def admin(served: Served) -> grpc.aio.Channel:
    return served.channel(served.token(Role.ADMIN))


async def test_all_four_kinds_are_served(served: Served) -> None:
    channel = admin(served)
    assert (await get_tenant(channel)).tenant.etag == "test-admin"
    assert (await put_blob(channel)).blob.size_bytes == 2
    assert await read_blob(channel) == bytes(range(9)) + b"end"
    assert await open_session(channel, LEASE, "") == 2


ERRORS = (
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unauthenticated,
    PermissionDenied,
    ResourceExhausted,
    Cancelled,
    Unavailable,
    DeadlineExceeded,
    DataLoss,
    Unimplemented,
)


def let_all_raise(stubs: Stubs, trouble: Exception) -> None:
    stubs.tenants.trouble = stubs.blobs.trouble = stubs.sessions.trouble = trouble


@pytest.mark.parametrize("kind", [get_tenant, put_blob, read_blob, open_session])
async def test_errors_arrive_as_they_were_raised(served: Served, stubs: Stubs, kind: Any) -> None:
    channel = admin(served)
    for error_class in ERRORS:
        raised = error_class(
            "slot 4 of 2: grün",
            reason="NO_SUCH_SLOT",
            violations=(FieldViolation("slot", "at most 2"),),
            retry_after_s=1.5,
            limit="2",
        )
        let_all_raise(stubs, raised)
        error = await failure(kind(channel))
        assert type(error) is error_class
        assert (error.reason, error.message) == ("NO_SUCH_SLOT", "slot 4 of 2: grün")
        assert error.violations == raised.violations
        assert (error.retry_after_s, error.metadata) == (1.5, {"limit": "2"})


@pytest.mark.parametrize("kind", [get_tenant, put_blob, read_blob, open_session])
async def test_of_an_unknown_exception_the_caller_learns_an_id(
    served: Served, stubs: Stubs, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    let_all_raise(stubs, KeyError(SECRET))
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
        await kind(admin(served))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "SELECT" not in f"{caught.value.details()}{caught.value.trailing_metadata()}"
    error = from_rpc_error(caught.value)
    assert type(error) is AllotmentError
    assert error.metadata["call"] in error.message
    assert SECRET in caplog.text


async def test_a_huge_error_still_arrives(served: Served, stubs: Stubs) -> None:
    stubs.tenants.trouble = InvalidArgument(
        "ü" * 100_000, violations=[FieldViolation("f" * 999, "\n" * 9999)] * 999, key="v" * 9999
    )
    error = await failure(get_tenant(admin(served)))
    assert isinstance(error, InvalidArgument)
    assert error.message.endswith("...")


PATHS = {
    get_tenant: "/allotment_api.allocator.v1.TenantService/GetTenant",
    put_blob: "/allotment_api.dataset.v1.BlobService/PutBlob",
    read_blob: "/allotment_api.dataset.v1.BlobService/ReadBlob",
    open_session: "/allotment_api.trainer.v1.TrainerService/OpenSession",
}
STANDARD = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


async def send(channel: Any, path: str, *messages: bytes, token: str = "") -> grpc.StatusCode:
    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    metadata = bearer(token) if token else None
    call = channel.stream_stream(path)(requests(), metadata=metadata, timeout=5)
    try:
        await call.read()
        call.cancel()
    except grpc.aio.AioRpcError as e:
        if from_rpc_error(e).reason == "CALL_ENDED":
            return await send(channel, path, *messages, token=token)
        return e.code()
    code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.parametrize("path", [*PATHS.values(), *STANDARD])
async def test_garbage_is_an_invalid_argument(served: Served, path: str) -> None:
    channel, token = served.raw_channel(), served.token(Role.ADMIN)
    for garbage in (b"\xff" * 40, b"\x0a\x05ab", b"\x0a\x02\xc3\x28", b"\x0b" * 5000):
        code = await send(channel, path, garbage, token=token)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, garbage[:10]


@pytest.mark.parametrize("path", [PATHS[get_tenant], PATHS[read_blob], STANDARD[0], STANDARD[1]])
async def test_no_message_where_one_is_due_is_an_invalid_argument(
    served: Served, path: str
) -> None:
    code = await send(served.raw_channel(), path, token=served.token(Role.ADMIN))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("path", ["/x.Y/Z", "/x", "/", PATHS[get_tenant] + "s", "/grpc.health.v1"])
async def test_an_unknown_method_is_unimplemented(served: Served, path: str) -> None:
    code = await send(served.raw_channel(), path, b"\xff", token=served.token())
    assert code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", [*PATHS.values(), *STANDARD])
async def test_a_message_over_the_limit_is_refused(served: Served, path: str) -> None:
    code = await send(
        served.raw_channel(), path, b"x" * (4 * 1024 * 1024 + 1), token=served.token(Role.ADMIN)
    )
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_response_over_the_limit_is_refused(served: Served) -> None:
    stub: Any = allocator_pb2_grpc.TenantServiceStub(admin(served))
    error = await failure(stub.ListTenants(pb.ListTenantsRequest()))
    assert isinstance(error, ResourceExhausted)
    assert error.reason == "RESPONSE_TOO_LARGE"


@pytest.mark.parametrize("path", [*PATHS.values(), *STANDARD[2:]])
async def test_without_a_good_token_nothing_is_read(served: Served, path: str) -> None:
    channel = served.raw_channel()
    foreign = new_signer().issue("x", TenantName("local"), Role.ADMIN, 60, SystemClock().now())
    assert await send(channel, path, b"\xff") is grpc.StatusCode.UNAUTHENTICATED
    for token in ("x", "a.b.c", foreign, served.token()[:-3] + "AAA"):
        code = await send(channel, path, b"\xff", token=token)
        assert code is grpc.StatusCode.UNAUTHENTICATED, token
    for value in ("Basic abc", "Bearer", "", served.token()):
        call = channel.unary_unary(path)(b"", metadata=(("authorization", value),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, value


@pytest.mark.parametrize("size", [3_000, 9_000, 12_000, 60_000, 2_000_000])
async def test_huge_metadata_is_a_clear_refusal(served: Served, size: int) -> None:
    code = await send(served.raw_channel(), PATHS[get_tenant], b"", token="x" * size)
    assert code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_health_needs_no_token_and_names_services(served: Served) -> None:
    check = served.raw_channel().unary_unary(STANDARD[0])
    for name in (b"", b"allotment_api.dataset.v1.BlobService"):
        assert await check(b"\x0a" + bytes([len(name)]) + name) == b"\x08\x01"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(b"\x0a\x03abc")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("path", STANDARD[2:])
async def test_reflection_lists_and_describes(served: Served, path: str) -> None:
    channel = served.raw_channel()
    call = channel.stream_stream(path)(metadata=bearer(served.token(Role.VIEWER)))
    await call.write(b"\x3a\x00")
    services = await call.read()
    assert b"allotment_api.dataset.v1.BlobService" in services
    assert b"grpc.health.v1.Health" in services
    symbol = b"allotment_api.dataset.v1.BlobService.PutBlob"
    await call.write(b"\x22" + bytes([len(symbol)]) + symbol)
    described = await call.read()
    assert b"allotment_api/dataset/v1/blob.proto" in described
    assert b"google/protobuf/descriptor.proto" in described
    await call.write(b"\x22\x03abc")
    assert b"nothing of that name" in await call.read()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


THEIRS = "tenants/other"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.EDITOR, Role.TRAINER])
async def test_another_tenants_name_reads_as_a_missing_one(served: Served, role: Role) -> None:
    lease = {"lease": LEASE, "lease_epoch": 1} if role is Role.TRAINER else {}
    channel = served.channel(served.token(role, **lease))  # type: ignore[arg-type]
    calls: list[Any] = [read_blob(channel, BLOB.replace(OURS, THEIRS))]
    calls += [put_blob(channel, THEIRS)] if role is not Role.VIEWER else []
    calls += [open_session(channel, LEASE.replace(OURS, THEIRS))] if lease else []
    calls += [get_tenant(channel, THEIRS)] if not lease else []
    for call in calls:
        error = await failure(call)
        assert isinstance(error, NotFound)
        assert error.message.startswith(THEIRS)
        assert error.message.endswith("does not exist, or this token may not see it")


async def test_an_admin_sees_every_tenant(served: Served) -> None:
    channel = admin(served)
    assert (await get_tenant(channel, THEIRS)).tenant.name == THEIRS
    assert (await get_tenant(channel, "tenants/-")).tenant.name == "tenants/-"
    error = await failure(get_tenant(served.channel(), "tenants/-"))
    assert isinstance(error, PermissionDenied)


async def test_roles_hold_their_verbs_and_no_others(served: Served) -> None:
    trainer = served.token(Role.TRAINER, lease=LEASE, lease_epoch=1)
    tokens = {role: served.token(role) for role in (Role.VIEWER, Role.EDITOR, Role.ADMIN)}
    tokens |= {Role.TRAINER: trainer}
    allowed: dict[Any, set[Role]] = {
        get_tenant: {Role.VIEWER, Role.EDITOR, Role.ADMIN},
        read_blob: set(Role),
        put_blob: {Role.EDITOR, Role.TRAINER, Role.ADMIN},
        open_session: {Role.TRAINER, Role.ADMIN},
    }
    for kind, roles in allowed.items():
        for role, token in tokens.items():
            channel = served.channel(token)
            if role in roles:
                await kind(channel)
            else:
                error = await failure(kind(channel))
                assert isinstance(error, PermissionDenied), (kind, role)
                assert role.value in error.message


async def test_a_trainer_has_its_own_lease_alone(served: Served) -> None:
    channel = served.channel(served.token(Role.TRAINER, lease=LEASE, lease_epoch=1))
    assert await open_session(channel) == 1
    assert isinstance(await failure(open_session(channel, LEASE + "2")), NotFound)
    assert isinstance(await failure(open_session(channel, LEASE, LEASE + "2")), NotFound)


async def test_every_message_of_a_stream_is_checked(served: Served) -> None:
    channel = served.channel()
    assert (await put_blob(channel, OURS, "", OURS)).blob.size_bytes == 3
    assert isinstance(await failure(put_blob(channel, OURS, THEIRS)), NotFound)
    first = await failure(put_blob(channel, "", OURS))
    assert isinstance(first, InvalidArgument)
    assert first.violations[0].field == "parent"


async def test_requests_are_checked_before_a_handler_sees_them(served: Served) -> None:
    stub: Any = allocator_pb2_grpc.TenantServiceStub(admin(served))
    for request_id in ("", "a b", "x" * 65, "ä"):
        error = await failure(stub.CreateTenant(pb.CreateTenantRequest(request_id=request_id)))
        assert error.reason == "INVALID_REQUEST_ID"
        assert error.violations[0].field == "request_id"
    error = await failure(stub.ListTenants(pb.ListTenantsRequest(page_size=-1)))
    assert error.reason == "INVALID_PAGE_SIZE"
    error = await failure(stub.GetTenant(pb.GetTenantRequest(name="x" * 9999)))
    assert error.reason == "INVALID_NAME"
    assert "x" * 81 not in error.message
    error = await failure(stub.UpdateTenant(pb.UpdateTenantRequest(request_id="1")))
    assert error.violations[0].field == "tenant.name"


async def test_a_unary_call_ends_at_the_servers_limit(served: Served, stubs: Stubs) -> None:
    stubs.tenants.pause_s = 300
    stub: Any = allocator_pb2_grpc.TenantServiceStub(admin(served))
    error = await failure(stub.GetTenant(pb.GetTenantRequest(name=OURS), timeout=40))
    assert isinstance(error, DeadlineExceeded)
    assert "0.5 s" in error.message  # the server's own


async def test_a_timeout_inside_a_handler_is_no_deadline(served: Served, stubs: Stubs) -> None:
    stubs.tenants.trouble = TimeoutError()
    assert type(await failure(get_tenant(admin(served)))) is AllotmentError


async def test_an_upload_that_falls_silent_is_ended(served: Served) -> None:
    stub: Any = blob_pb2_grpc.BlobServiceStub(served.channel())
    call = stub.PutBlob(timeout=40)
    await call.write(blob_pb2.PutBlobRequest(parent=OURS))
    error = await failure(call)
    assert error.reason == "STREAM_IDLE"


async def test_streams_of_a_tenant_are_bounded(stubs: Stubs) -> None:
    stubs.blobs.endless = True
    async with serving(stubs.service, limits=Limits(streams_per_tenant=2)) as served:
        stub: Any = blob_pb2_grpc.BlobServiceStub(served.channel())
        calls = [stub.ReadBlob(blob_pb2.ReadBlobRequest(name=BLOB)) for _ in range(2)]
        for call in calls:
            await call.read()
        error = await failure(read_blob(served.channel()))
        assert error.reason == "TOO_MANY_STREAMS"
        other = served.channel(served.token(tenant=THEIRS))
        stubs.blobs.endless = False
        await read_blob(other, BLOB.replace(OURS, THEIRS))
        stubs.blobs.one_closed.clear()
        calls[0].cancel()
        await asyncio.wait_for(stubs.blobs.one_closed.wait(), 20)
        await read_blob(served.channel())


async def test_a_reader_that_takes_nothing_holds_nothing(stubs: Stubs) -> None:
    stubs.blobs.endless_bytes = 1 << 20
    async with serving(stubs.service, limits=Limits(taken_idle_s=0.3)) as served:
        stub: Any = blob_pb2_grpc.BlobServiceStub(served.channel())
        call = stub.ReadBlob(blob_pb2.ReadBlobRequest(name=BLOB))
        await call.read()
        await asyncio.wait_for(stubs.blobs.one_closed.wait(), 20)

        async def rest() -> None:
            while await call.read() is not grpc.aio.EOF:
                pass

        error = await failure(rest())
        assert isinstance(error, Unavailable)
        assert error.reason == "SLOW_READER"


async def test_calls_are_logged_with_their_id_and_without_their_token(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    token = served.token()
    with caplog.at_level(logging.DEBUG, "allotment_core"):
        await failure(get_tenant(served.channel(token), "nonsense"))
    ended = [r for r in caplog.records if r.getMessage() == "call ended"]
    fields = vars(ended[-1])
    assert fields["code"] == "INVALID_ARGUMENT"
    assert fields["reason"] == "INVALID_NAME"
    assert fields["subject"] == "test-editor"
    assert token not in json.dumps({k: str(v) for k, v in fields.items()})


def test_the_status_travels_in_the_standard_form() -> None:
    ((key, raw),) = to_metadata(NotFound("gone"))
    status = status_pb2.Status.FromString(raw)
    assert key == "grpc-status-details-bin"
    assert (status.code, status.message) == (5, "gone")

"""Whatever is sent to a healthy server, the answer is a clear refusal."""

import random

import grpc
import pytest

from allotment_testkit.services_system import System
from allotment_testkit.surface import Method, call, methods, standard_methods

NEVER = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}
ECHO_LIMIT = 80
LONG = "x" * 5_000
HOSTILE_TEXTS = (
    LONG,
    "tenants/" + LONG,
    "tenants/local/datasets/../../../etc/passwd",
    "tenants/local/datasets/a/versions/" + "9" * 400,
    "tenants/local\x00/datasets/a",
    "tenants//datasets//",
    "'; drop table experiments; --",
    "tenants/-/experiments/-",
    "\u202etenants/local",
)


def garbage(seed: int) -> list[bytes]:
    rng = random.Random(seed)
    return [
        b"\xff" * 40,
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x02\xc3\x28",
        rng.randbytes(1_000),
        rng.randbytes(100_000),
        b"\x0b" * 5_000,
    ]


def hostile_requests(method: Method) -> list[bytes]:
    """Well-formed messages whose strings and numbers are absurd."""
    if method.descriptor is None:
        return [b""]
    requests = [b""]
    for text in HOSTILE_TEXTS:
        request = method.request()
        for field in request.DESCRIPTOR.fields:
            if field.is_repeated:
                continue
            if field.type == field.TYPE_STRING:
                setattr(request, field.name, text)
            elif field.type in (field.TYPE_INT32, field.TYPE_INT64):
                setattr(request, field.name, -(2**31))
            elif field.type == field.TYPE_DOUBLE:
                setattr(request, field.name, float("nan"))
        requests.append(request.SerializeToString())
    return requests


def check(method: Method, channel: grpc.Channel, payloads: list[bytes], token: str) -> None:
    watch = method.server_streams
    for payload in payloads:
        answer = call(channel, method, [payload], token=token, timeout_s=3 if watch else 12)
        told = f"{method.path} {payload[:60]!r}: {answer}"
        assert answer.code not in NEVER, told
        assert watch or answer.elapsed_s < 10, told
        assert LONG[: ECHO_LIMIT + 1] not in answer.message, told
        assert "Traceback" not in answer.message, told
        assert "site-packages" not in answer.message, told


@pytest.mark.parametrize("method", methods() + standard_methods(), ids=lambda each: each.path)
def test_garbage_is_refused_clearly(
    method: Method, running_system: System, raw_channel: grpc.Channel
) -> None:
    check(method, raw_channel, garbage(1) + hostile_requests(method), running_system.token)


@pytest.mark.parametrize("method", methods(), ids=lambda each: each.path)
def test_no_token_and_bad_tokens_are_unauthenticated(
    method: Method, running_system: System, raw_channel: grpc.Channel
) -> None:
    good = running_system.token
    for token in ("", "x", "a.b.c", good[:-4] + "AAAA", "\u00e9".encode().hex() * 3_000):
        for payload in (b"", b"\xff" * 20):
            answer = call(raw_channel, method, [payload], token=token)
            assert answer.code in (
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            ), f"{method.path}: {answer}"
            assert token[10:] not in answer.message or len(token) <= 10


def test_unknown_methods_are_unimplemented(
    running_system: System, raw_channel: grpc.Channel
) -> None:
    for path in ("/allotment_api.dataset.v1.DatasetService/Nothing", "/no.Service/At", "/x"):
        method = Method(path=path, client_streams=False, server_streams=False)
        answer = call(raw_channel, method, [b"\xff"], token=running_system.token)
        assert answer.code is grpc.StatusCode.UNIMPLEMENTED, answer


def test_a_message_over_the_limit_is_refused(
    running_system: System, raw_channel: grpc.Channel
) -> None:
    method = next(each for each in methods() if each.path.endswith("/CreateUpload"))
    payload = b"\x0a\x80\x80\x80\x04" + b"a" * (8 * 1024 * 1024)
    answer = call(raw_channel, method, [payload], token=running_system.token)
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED, answer

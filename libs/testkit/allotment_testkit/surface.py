"""The served surface, from the descriptors: every method, raw calls, and what was answered."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from allotment_api.allocator.v1 import allocator_pb2
from allotment_api.common.v1 import access_pb2
from allotment_api.dataset.v1 import blob_pb2, dataset_pb2
from allotment_api.exporter.v1 import exporter_pb2
from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2

_FILES = (
    dataset_pb2.DESCRIPTOR,
    blob_pb2.DESCRIPTOR,
    search_pb2.DESCRIPTOR,
    session_pb2.DESCRIPTOR,
    allocator_pb2.DESCRIPTOR,
    exporter_pb2.DESCRIPTOR,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC as it is called on the wire."""

    path: str
    client_streams: bool
    server_streams: bool
    descriptor: MethodDescriptor | None = None

    @property
    def access(self) -> access_pb2.AccessRule:
        assert self.descriptor is not None
        return self.descriptor.GetOptions().Extensions[access_pb2.access]

    def request(self) -> Message:
        """An empty request."""
        assert self.descriptor is not None
        return GetMessageClass(self.descriptor.input_type)()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a call ended. `responses`: how many came, at most one is awaited."""

    code: grpc.StatusCode
    message: str
    reason: str
    responses: tuple[bytes, ...]
    elapsed_s: float


def methods() -> list[Method]:
    """Every RPC of ours."""
    return [
        Method(
            path=f"/{service.full_name}/{method.name}",
            client_streams=method.client_streaming,
            server_streams=method.server_streaming,
            descriptor=method,
        )
        for file in _FILES
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def standard_methods() -> list[Method]:
    """Health and reflection."""
    reflection = "ServerReflection/ServerReflectionInfo"
    return [
        Method(path="/grpc.health.v1.Health/Check", client_streams=False, server_streams=False),
        Method(path="/grpc.health.v1.Health/Watch", client_streams=False, server_streams=True),
        Method(path=f"/grpc.reflection.v1.{reflection}", client_streams=True, server_streams=True),
        Method(
            path=f"/grpc.reflection.v1alpha.{reflection}", client_streams=True, server_streams=True
        ),
    ]


def call(
    channel: grpc.Channel,
    method: Method,
    requests: Iterable[bytes],
    *,
    token: str = "",
    timeout_s: float = 10.0,
) -> Answer:
    """Sends raw bytes; of a stream of responses the first one alone is awaited."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    payloads = list(requests)
    started = time.perf_counter()
    responses: list[bytes] = []
    code, message, reason = grpc.StatusCode.OK, "", ""
    outgoing: object = iter(payloads) if method.client_streams else payloads[0]
    kind: Any = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[method.client_streams, method.server_streams]
    try:
        answered = kind(method.path)(outgoing, metadata=metadata, timeout=timeout_s)
        if method.server_streams:
            for response in answered:
                responses.append(response)
                answered.cancel()
                break
        else:
            responses.append(answered)
    except grpc.RpcError as error:
        code, message, reason = error.code(), error.details() or "", reason_of(error)
    return Answer(
        code=code,
        message=message,
        reason=reason,
        responses=tuple(responses),
        elapsed_s=time.perf_counter() - started,
    )


def reason_of(error: grpc.RpcError) -> str:
    """The stable reason in the error's details; empty: there is none."""
    for datum in error.trailing_metadata() or ():
        if datum.key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(datum.value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""


def set_path(message: Message, path: str, value: str) -> None:
    """Sets a string field by its dotted path."""
    *parents, last = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    setattr(message, last, value)

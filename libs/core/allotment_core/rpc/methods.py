"""The methods of a server, out of the descriptors: types, kinds, access rules."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from allotment_api.common.v1 import access_pb2
from allotment_core.rpc.service import Service

if TYPE_CHECKING:
    from allotment_core.db import Database

PUBLIC = access_pb2.AccessRule()
"""No token needed. Only health has it; a proto can't say it."""
ANY_TOKEN = access_pb2.AccessRule(verb=access_pb2.VERB_BROWSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method and who serves it."""

    path: str
    request_class: type[Message]
    response_class: type[Message]
    client_streams: bool
    server_streams: bool
    behaviour: Callable[..., Any]
    rule: access_pb2.AccessRule
    database: "Database | None" = None

    @property
    def takes_request_id(self) -> bool:
        """Mutating calls say so by this field."""
        return "request_id" in self.request_class.DESCRIPTOR.fields_by_name

    @property
    def takes_page_size(self) -> bool:
        return "page_size" in self.request_class.DESCRIPTOR.fields_by_name


class _Recorder:
    """Stands in for a grpc.Server in a generated add_..._to_server and takes what it registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, dict[str, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """The registered handlers below say the same."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.handlers[service] = handlers


def methods_of(service: Service) -> Iterator[Method]:
    """All methods of a service.

    Raises: ValueError when one has no access rule, a rule that does not fit its request, or no
        implementation: such a server must not start.
    """
    for add_to_server, servicer in service.servicers:
        recorder = _Recorder()
        try:
            add_to_server(servicer, recorder)
        except AttributeError as e:
            raise ValueError(f"service {service.name}: {e}") from e
        for full_name, handlers in recorder.handlers.items():
            descriptor = descriptor_pool.Default().FindServiceByName(full_name)
            for method in descriptor.methods:
                rule = _rule(method)
                behaviour = _behaviour(method, handlers[method.name])
                yield make_method(method, behaviour, rule, service.database)


def make_method(
    descriptor: MethodDescriptor,
    behaviour: Callable[..., Any],
    rule: access_pb2.AccessRule,
    database: "Database | None" = None,
) -> Method:
    """The method of a descriptor, served by `behaviour`."""
    return Method(
        path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        request_class=message_factory.GetMessageClass(descriptor.input_type),
        response_class=message_factory.GetMessageClass(descriptor.output_type),
        client_streams=descriptor.client_streaming,
        server_streams=descriptor.server_streaming,
        behaviour=behaviour,
        rule=rule,
        database=database,
    )


def _rule(method: MethodDescriptor) -> access_pb2.AccessRule:
    options = method.GetOptions()
    rule = options.Extensions[access_pb2.access]
    if not options.HasExtension(access_pb2.access) or rule.verb == access_pb2.VERB_UNSPECIFIED:
        raise ValueError(
            f"{method.full_name} has no access rule: add option (common.v1.access) to its proto"
        )
    if rule.resource_field:
        field = _field(method.input_type, rule.resource_field)
        if field is None or field.type != field.TYPE_STRING:
            raise ValueError(
                f"{method.full_name}: its access rule names the field {rule.resource_field!r}, "
                f"which is no string of {method.input_type.name}"
            )
    return rule


def _field(message: Descriptor | None, path: str) -> FieldDescriptor | None:
    field = None
    for part in path.split("."):
        field = message.fields_by_name.get(part) if message else None
        if field is None:
            return None
        message = field.message_type
    return field


def _behaviour(method: MethodDescriptor, handler: Any) -> Callable[..., Any]:
    behaviour: Callable[..., Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if method.server_streaming:
        fits, wanted = inspect.isasyncgenfunction(behaviour), "an async generator"
    else:
        fits, wanted = inspect.iscoroutinefunction(behaviour), "an async function"
    if not fits:
        raise ValueError(f"{method.full_name} is not implemented: it has to be {wanted}")
    return behaviour

"""Server reflection, v1 and v1alpha, in our own chain. Needs any valid token."""

import functools
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection_pb2

from allotment_core.rpc.methods import ANY_TOKEN, Method, make_method

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
_INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


@functools.cache
def _register_v1() -> None:
    """v1 is v1alpha under another package; grpcio-reflection brings only the latter."""
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace("v1alpha", "v1")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace("v1alpha", "v1")
        method.output_type = method.output_type.replace("v1alpha", "v1")
    pool.Add(file)


class Reflection:
    """Tells what a server serves."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._pool = descriptor_pool.Default()

    def methods(self) -> Iterator[Method]:
        """For the chain."""
        _register_v1()
        for name in SERVICES:
            descriptor = self._pool.FindServiceByName(name).methods_by_name["ServerReflectionInfo"]
            yield make_method(descriptor, functools.partial(self._serve, name), ANY_TOKEN)

    async def _serve(
        self, service: str, requests: AsyncIterator[Any], _context: Any
    ) -> AsyncIterator[Any]:
        method = self._pool.FindServiceByName(service).methods_by_name["ServerReflectionInfo"]
        response_class = message_factory.GetMessageClass(method.output_type)
        async for request in requests:
            response = response_class(valid_host=request.host, original_request=request)
            self._answer(request, response)
            yield response

    def _answer(self, request: Any, response: Any) -> None:
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                services = response.list_services_response.service
                for name in self._services:
                    services.add(name=name)
            elif kind == "file_by_filename":
                _add_files(response, self._pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                _add_files(response, self._file_of(request.file_containing_symbol))
            elif kind == "file_containing_extension":
                asked = request.file_containing_extension
                message = self._pool.FindMessageTypeByName(asked.containing_type)
                extension: Any = self._pool.FindExtensionByNumber(message, asked.extension_number)
                _add_files(response, extension.file)
            elif kind == "all_extension_numbers_of_type":
                message = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                numbers = response.all_extension_numbers_response
                numbers.base_type_name = message.full_name
                extensions = self._pool.FindAllExtensions(message)
                numbers.extension_number.extend(sorted(e.number for e in extensions))
            else:
                _refuse(response, _INVALID, "the request asks for nothing")
        except KeyError:
            _refuse(response, _NOT_FOUND, f"nothing of that name for {kind}")

    def _file_of(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # the pool does not count methods as symbols, clients do
            parent, _, last = symbol.rpartition(".")
            service = self._pool.FindServiceByName(parent)
            if last not in service.methods_by_name:
                raise
            return service.file


def _refuse(response: Any, code: int, text: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = text


def _add_files(response: Any, file: FileDescriptor) -> None:
    """The file, then all that it depends on."""
    done: dict[str, bytes] = {}

    def visit(each: FileDescriptor) -> None:
        if each.name not in done:
            done[each.name] = b""
            for dependency in each.dependencies:
                visit(dependency)
            done[each.name] = each.serialized_pb

    visit(file)
    # Clients take the first for the one they asked for.
    ordered = [done.pop(file.name), *done.values()]
    response.file_descriptor_response.file_descriptor_proto.extend(ordered)

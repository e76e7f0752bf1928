"""Rules that every RPC keeps, read from the descriptors."""

import importlib
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from allotment_api.common.v1 import access_pb2

PROTOS = Path(__file__).parents[3] / "protos"
READS = ("Get", "List", "Watch", "Query")
MUTATING_VERBS = {access_pb2.VERB_WRITE, access_pb2.VERB_STORE, access_pb2.VERB_ADMINISTER}
STORES_NOTHING = {"IssueToken"}
WITHOUT_RESOURCE = (
    access_pb2.VERB_BROWSE,
    access_pb2.VERB_ADMINISTER,
    access_pb2.VERB_IDENTIFY,
)


def _methods() -> dict[str, MethodDescriptor]:
    found = {}
    for proto in sorted(PROTOS.rglob("*.proto")):
        module = ".".join(proto.relative_to(PROTOS).with_suffix("").parts) + "_pb2"
        file = importlib.import_module(module).DESCRIPTOR
        for service in file.services_by_name.values():
            for method in service.methods:
                found[f"{service.name}.{method.name}"] = method
    return found


METHODS = _methods()


def rule_of(method: MethodDescriptor) -> access_pb2.AccessRule:
    rule: access_pb2.AccessRule = method.GetOptions().Extensions[access_pb2.access]
    return rule


def is_read(method: MethodDescriptor) -> bool:
    return method.name.startswith(READS)


def is_mutating(method: MethodDescriptor) -> bool:
    return (
        rule_of(method).verb in MUTATING_VERBS
        and not is_read(method)
        and method.name not in STORES_NOTHING
    )


def message_of(field: FieldDescriptor) -> Descriptor:
    """The message that a field holds."""
    assert field.message_type is not None
    return field.message_type


def field_at(message: Descriptor, path: str) -> FieldDescriptor:
    *parents, last = path.split(".")
    for parent in parents:
        message = message_of(message.fields_by_name[parent])
    field: FieldDescriptor = message.fields_by_name[last]
    return field


def all_rpcs() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rpc", METHODS)


def test_all_services_are_looked_at() -> None:
    services = {rpc.split(".")[0] for rpc in METHODS}
    assert services == {
        "BlobService",
        "DatasetService",
        "ExportService",
        "LeaseService",
        "PoolService",
        "SearchService",
        "TenantService",
        "TrainerService",
    }


@all_rpcs()
def test_rpc_has_an_access_rule(rpc: str) -> None:
    method = METHODS[rpc]
    assert method.GetOptions().HasExtension(access_pb2.access)
    rule = rule_of(method)
    assert rule.verb != access_pb2.VERB_UNSPECIFIED
    if not rule.resource_field:
        # Nobody but an admin acts on what has no tenant.
        assert rule.verb in WITHOUT_RESOURCE


@all_rpcs()
def test_resource_field_is_a_string_of_the_request(rpc: str) -> None:
    path = rule_of(METHODS[rpc]).resource_field
    if path:
        field = field_at(METHODS[rpc].input_type, path)
        assert field.type == FieldDescriptor.TYPE_STRING
        assert not field.is_repeated


@all_rpcs()
def test_rpc_has_messages_of_its_own(rpc: str) -> None:
    method = METHODS[rpc]
    assert method.input_type.name == f"{method.name}Request"
    assert method.output_type.name == f"{method.name}Response"
    assert method.input_type.file == method.output_type.file == method.containing_service.file


@pytest.mark.parametrize("rpc", [name for name, method in METHODS.items() if is_mutating(method)])
def test_mutating_rpc_can_be_repeated(rpc: str) -> None:
    method = METHODS[rpc]
    if method.client_streaming:
        # An upload is repeated by its content: by (upload, offset), or by sha256.
        fields = set(method.input_type.fields_by_name)
        assert {"data"} < fields
        assert fields & {"offset", "sha256"}
        return
    field = method.input_type.fields_by_name["request_id"]
    assert field.type == FieldDescriptor.TYPE_STRING
    assert field.number == 1


def test_reports_of_a_session_can_be_repeated() -> None:
    messages = METHODS["TrainerService.OpenSession"].input_type.oneofs_by_name["message"].fields
    reports = {message_of(field).name: message_of(field) for field in messages}
    for name in ("Hello", "Heartbeat"):
        del reports[name]
    assert reports
    for report in reports.values():
        key = message_of(report.fields_by_name["key"])
        assert set(key.fields_by_name) == {"trial", "trial_epoch", "sequence"}


@pytest.mark.parametrize("rpc", [n for n, m in METHODS.items() if not is_mutating(m)])
def test_rpc_that_changes_nothing_takes_no_request_id(rpc: str) -> None:
    assert "request_id" not in METHODS[rpc].input_type.fields_by_name


@pytest.mark.parametrize(
    "rpc", [n for n, m in METHODS.items() if m.name.startswith(("List", "Query"))]
)
def test_list_is_paged(rpc: str) -> None:
    request, response = METHODS[rpc].input_type, METHODS[rpc].output_type
    assert request.fields_by_name["page_size"].type == FieldDescriptor.TYPE_INT32
    assert request.fields_by_name["page_token"].type == FieldDescriptor.TYPE_STRING
    assert response.fields_by_name["next_page_token"].type == FieldDescriptor.TYPE_STRING
    assert sum(field.is_repeated for field in response.fields) == 1


@all_rpcs()
def test_only_watches_stream_to_the_client(rpc: str) -> None:
    method = METHODS[rpc]
    streams = method.name.startswith("Watch") or method.name in ("ReadBlob", "OpenSession")
    assert method.server_streaming == streams


@pytest.mark.parametrize("rpc", [n for n, m in METHODS.items() if m.name.startswith("Update")])
def test_update_takes_a_mask_and_an_etag(rpc: str) -> None:
    method = METHODS[rpc]
    mask = method.input_type.fields_by_name["update_mask"]
    assert message_of(mask).full_name == "google.protobuf.FieldMask"
    resource = method.input_type.fields_by_name[method.name.removeprefix("Update").lower()]
    assert "etag" in message_of(resource).fields_by_name


@pytest.mark.parametrize("rpc", [n for n, m in METHODS.items() if m.name.startswith("Create")])
def test_operation_can_be_watched(rpc: str) -> None:
    """What is created with a state of its own has a stream of its changes."""
    method = METHODS[rpc]
    (resource,) = method.output_type.fields
    if "state" in message_of(resource).fields_by_name:
        noun = method.name.removeprefix("Create")
        service = rpc.split(".")[0]
        assert {f"{service}.Watch{noun}", f"{service}.Watch{noun}s"} & set(METHODS)

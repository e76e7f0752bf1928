"""Another tenant's resource answers as one that does not exist, on every RPC that takes a name."""

import uuid
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_api.common.v1 import access_pb2
from allotment_api.dataset.v1 import dataset_pb2, dataset_pb2_grpc
from allotment_api.search.v1 import search_pb2, search_pb2_grpc
from allotment_testkit.services_system import System
from allotment_testkit.surface import Method, call, methods, set_path

ROWS = "x,y\n" + "".join(f"{i},{'ab'[i % 7 < 3]}\n" for i in range(200))
# As long as each other: echoed names are cut.
OURS, THEIRS, GHOST = "tenants/ours", "tenants/theirs", "tenants/ghosts"
NAMED = [each for each in methods() if each.access.resource_field]


@dataclass(frozen=True, kw_only=True)
class TwoTenants:
    """`names`: resources of the other tenant that really exist, by kind."""

    our_token: str
    our_viewer_token: str
    names: dict[str, str]


def issue(stub: Any, as_admin: Any, tenant: str, role: int) -> str:
    request = allocator_pb2.IssueTokenRequest(tenant=tenant, role=role, ttl_s=600)  # type: ignore[arg-type]
    return str(stub.IssueToken(request, metadata=as_admin, timeout=10).token)


def import_rows(channel: grpc.Channel, metadata: Any) -> tuple[str, str, str]:
    """The names of an upload, an import and a version of the other tenant."""
    stub: Any = dataset_pb2_grpc.DatasetServiceStub(channel)
    request_id = uuid.uuid4().hex
    create = dataset_pb2.CreateUploadRequest(request_id=request_id, parent=THEIRS)
    upload = stub.CreateUpload(create, metadata=metadata, timeout=10).upload.name
    chunk = dataset_pb2.WriteUploadRequest(name=upload, data=ROWS.encode(), last=True)
    stub.WriteUpload(iter([chunk]), metadata=metadata, timeout=10)
    started = stub.CreateImport(
        dataset_pb2.CreateImportRequest(
            request_id=request_id, parent=THEIRS, upload=upload, dataset_id="rows", target_hint="y"
        ),
        metadata=metadata,
        timeout=10,
    ).operation
    watch = dataset_pb2.WatchImportRequest(name=started.name)
    last = None
    for answer in stub.WatchImport(watch, metadata=metadata, timeout=30):
        last = answer.operation
    assert last is not None
    assert last.version, last
    return upload, started.name, last.version


@pytest.fixture(scope="module")
def two_tenants(running_system: System, raw_channel: grpc.Channel) -> TwoTenants:
    as_admin = (("authorization", f"Bearer {running_system.token}"),)
    tenants: Any = allocator_pb2_grpc.TenantServiceStub(raw_channel)
    for name in (OURS, THEIRS):
        request = allocator_pb2.CreateTenantRequest(
            request_id=uuid.uuid4().hex, tenant_id=name.removeprefix("tenants/")
        )
        tenants.CreateTenant(request, metadata=as_admin, timeout=10)
    their_token = issue(tenants, as_admin, THEIRS, allocator_pb2.ROLE_EDITOR)
    as_them = (("authorization", f"Bearer {their_token}"),)
    upload, operation, version = import_rows(raw_channel, as_them)
    search: Any = search_pb2_grpc.SearchServiceStub(raw_channel)
    spec = search_pb2.ExperimentSpec(
        dataset_version=version, target="y", budget=search_pb2.Budget(trial_count=1)
    )
    experiment = search.CreateExperiment(
        search_pb2.CreateExperimentRequest(
            request_id=uuid.uuid4().hex, parent=THEIRS, experiment_id="search", spec=spec
        ),
        metadata=as_them,
        timeout=20,
    ).experiment.name
    names = {
        "tenant": THEIRS,
        "upload": upload,
        "import": operation,
        "version": version,
        "dataset": version.rpartition("/versions/")[0],
        "experiment": experiment,
        "owner": experiment,
    }
    watch = search_pb2.WatchExperimentRequest(name=experiment)
    for answer in search.WatchExperiment(watch, metadata=as_them, timeout=60):
        if answer.HasField("trial"):
            names["trial"] = answer.trial.name
        if answer.HasField("model"):
            names["model"] = answer.model.name
            names["export"] = answer.model.export
            if answer.model.artefact_sha256:
                names["blob"] = f"{THEIRS}/blobs/{answer.model.artefact_sha256}"
    leases: Any = allocator_pb2_grpc.LeaseServiceStub(raw_channel)
    listing = allocator_pb2.ListLeasesRequest(parent=THEIRS, include_ended=True)
    names["lease"] = leases.ListLeases(listing, metadata=as_them, timeout=10).leases[0].name
    return TwoTenants(
        our_token=issue(tenants, as_admin, OURS, allocator_pb2.ROLE_EDITOR),
        our_viewer_token=issue(tenants, as_admin, OURS, allocator_pb2.ROLE_VIEWER),
        names=names,
    )


def noun_of(method: Method) -> str:
    """The kind of resource that the method's resource field names."""
    rpc = method.path.rpartition("/")[2]
    field = method.access.resource_field
    if field in ("owner", "hello.lease"):
        return field.rpartition(".")[2]
    if field in ("tenant", "tenant.name"):
        return "tenant"
    if field == "parent":
        inner = {"ListVersions": "dataset", "ListTrials": "experiment", "ListModels": "experiment"}
        return {**inner, "WatchModels": "experiment"}.get(rpc, "tenant")
    kinds = ("upload", "import", "dataset", "version", "blob", "experiment", "trial", "model")
    for kind in (*kinds, "export", "lease", "tenant"):
        if rpc.lower().endswith(kind):
            return kind
    return "version" if rpc == "InspectTarget" else rpc


def answered(method: Method, channel: grpc.Channel, name: str, token: str) -> tuple[Any, str, str]:
    request = method.request()
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        set_path(request, "request_id", uuid.uuid4().hex)
    set_path(request, method.access.resource_field, name)
    answer = call(channel, method, [request.SerializeToString()], token=token)
    return answer.code, answer.reason, answer.message


@pytest.mark.parametrize("method", NAMED, ids=lambda each: each.path)
def test_another_tenants_name_answers_as_one_that_does_not_exist(
    method: Method, two_tenants: TwoTenants, raw_channel: grpc.Channel
) -> None:
    theirs = two_tenants.names[noun_of(method)]
    ghost = GHOST + theirs.removeprefix(THEIRS)
    for token in (two_tenants.our_token, two_tenants.our_viewer_token):
        code, reason, message = answered(method, raw_channel, theirs, token)
        ghost_code, ghost_reason, ghost_message = answered(method, raw_channel, ghost, token)
        assert (code, reason) == (ghost_code, ghost_reason), f"{message} / {ghost_message}"
        assert message.replace("theirs", "ghosts") == ghost_message
        needs_other_role = code is grpc.StatusCode.PERMISSION_DENIED
        assert code is grpc.StatusCode.NOT_FOUND or needs_other_role, (code, message)
        if method.access.verb in (access_pb2.VERB_READ, access_pb2.VERB_FETCH):
            assert code is grpc.StatusCode.NOT_FOUND, message


SECOND_NAMES = (
    ("DatasetService/CreateImport", {"parent": OURS, "dataset_id": "d"}, "upload", "upload"),
    (
        "SearchService/CreateExperiment",
        {"parent": OURS, "spec.target": "y"},
        "spec.dataset_version",
        "version",
    ),
    ("BlobService/PutBlob", {"parent": OURS}, "owner", "experiment"),
)


@pytest.mark.parametrize(("path", "fields", "field", "noun"), SECOND_NAMES)
def test_a_second_name_of_another_tenant_does_not_exist_either(
    path: str,
    fields: dict[str, str],
    field: str,
    noun: str,
    two_tenants: TwoTenants,
    raw_channel: grpc.Channel,
) -> None:
    method = next(each for each in methods() if each.path.endswith(path))
    answers = []
    theirs = two_tenants.names[noun]
    for name in (theirs, GHOST + theirs.removeprefix(THEIRS)):
        request = method.request()
        if "request_id" in request.DESCRIPTOR.fields_by_name:
            set_path(request, "request_id", uuid.uuid4().hex)
        for key, value in fields.items():
            set_path(request, key, value)
        if path.endswith("CreateExperiment"):
            request.spec.budget.trial_count = 1  # type: ignore[attr-defined]
        set_path(request, field, name)
        answers.append(
            call(raw_channel, method, [request.SerializeToString()], token=two_tenants.our_token)
        )
    real, ghost = answers
    assert real.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), real
    assert (real.code, real.reason) == (ghost.code, ghost.reason)
    assert real.message.replace("theirs", "ghosts") == ghost.message

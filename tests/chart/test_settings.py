"""What the chart tells services is what they understand, and its defaults are theirs."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from allotment_allocator.cluster_config import ClusterConfig, load_cluster
from allotment_allocator.config import AllocatorConfig, AllocatorServer
from allotment_controller.config import ControllerConfig, ControllerServer
from allotment_controller.domain.experiment import BudgetStart
from allotment_core.config import load
from allotment_core.rpc.tls import TlsFiles
from allotment_dataset.config import DatasetConfig, DatasetServer
from allotment_exporter.config import ExporterConfig, ExporterServer
from allotment_gateway.config import GatewayConfig, GatewayServer
from allotment_gateway.domain.routes import OWNERS, owner_of_service
from allotment_testkit.chart import CHART, environment_of, render
from allotment_testkit.chart_forms import (
    EXTERNAL_POSTGRESQL,
    EXTERNAL_S3,
    FORMS,
    KEYLESS_S3,
    KUEUE,
    PULL_SECRETS,
    TENANTS,
)

CONFIGS: dict[str, tuple[type[Any], type[Any]]] = {
    "dataset": (DatasetConfig, DatasetServer),
    "controller": (ControllerConfig, ControllerServer),
    "allocator": (AllocatorConfig, AllocatorServer),
    "exporter": (ExporterConfig, ExporterServer),
    "gateway": (GatewayConfig, GatewayServer),
}
OTHER_ON_PURPOSE = {
    ("gateway", "drain_notice_s"): "load balancers and kube-proxy need time to hear of it",
}
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


def environment(service: str, values: Mapping[str, Any] | None = None) -> dict[str, str]:
    rendered = render(values)
    return environment_of(
        rendered.one("Deployment", f"allotment-{service}")["spec"]["template"],
    )


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("service", CONFIGS)
def test_services_read_what_the_chart_sets(service: str, form: str) -> None:
    """An unknown variable with a service's prefix is refused, and so is one that is missing."""
    rendered = render(FORMS[form])
    deployment = rendered.find("Deployment", f"allotment-{service}")
    if deployment is None:
        assert service == "gateway"
        return
    env = environment_of(deployment["spec"]["template"])
    own, server = CONFIGS[service]
    load(own, env, f"ALLOTMENT_{service.upper()}_")
    served = load(server, env, "ALLOTMENT_SERVE_")
    assert served.address == "0.0.0.0:8443"
    assert served.health_address == "0.0.0.0:8080"
    assert (served.metrics_host, served.metrics_port) == ("0.0.0.0", 9090)
    files = Path("/etc/allotment/tls")
    ca = None if service == "gateway" else files / "ca.crt"
    assert served.tls == TlsFiles(certificate=files / "tls.crt", key=files / "tls.key", ca=ca)
    others = {name for name in env if name.startswith("ALLOTMENT_")}
    known = [f"ALLOTMENT_{service.upper()}_", "ALLOTMENT_SERVE_", "ALLOTMENT_LOG_LEVEL"]
    known += ["ALLOTMENT_CLUSTER_"] if service == "allocator" else []
    assert all(name.startswith(tuple(known)) for name in others)
    assert (load_cluster(env) is not None) is (service == "allocator")


@pytest.mark.parametrize("service", CONFIGS)
def test_defaults_of_settings_are_the_services_own(service: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(CONFIGS[service][0])}
    for name, value in DEFAULTS[service]["settings"].items():
        field = fields[snake(name)]
        if (service, field.name) in OTHER_ON_PURPOSE:
            assert value != field.default, "no longer on purpose"
        else:
            assert value == field.default, f"{service}.settings.{name}"


@pytest.mark.parametrize("service", CONFIGS)
def test_every_setting_reaches_its_service(service: str) -> None:
    changed = {
        name: "random" if name == "sampler" else value + 1
        for name, value in DEFAULTS[service]["settings"].items()
    }
    env = environment(service, {service: {"settings": changed}})
    loaded = load(CONFIGS[service][0], env, f"ALLOTMENT_{service.upper()}_")
    for name, value in changed.items():
        assert getattr(loaded, snake(name)) == value


def test_settings_of_the_cluster_are_the_allocators_own_defaults() -> None:
    loaded = load_cluster(environment("allocator"))
    assert loaded is not None
    found = {
        field.name: getattr(loaded, field.name)
        for field in dataclasses.fields(ClusterConfig)
        if field.default is not dataclasses.MISSING and getattr(loaded, field.name) != field.default
    }
    assert found == {
        "account": "allotment-allocator",
        "tenant_role": "allotment.allotment-tenant",
        # Small enough for the smallest clusters.
        "slot_cores": 0.25,
        "slot_cores_limit": 1.0,
        "slot_memory_bytes": 1536 << 20,
    }


def test_every_setting_of_the_cluster_is_set() -> None:
    """Nothing that the allocator can be told is left out; ports of pods are fixed."""
    env = environment("allocator", {**KUEUE, **PULL_SECRETS})
    left_out = {
        field.name
        for field in dataclasses.fields(ClusterConfig)
        if f"ALLOTMENT_CLUSTER_{field.name.upper()}" not in env
    }
    assert left_out == {"kubeconfig", "controller_pod_port", "dataset_pod_port"}


@pytest.mark.parametrize("wanted", [True, False])
def test_nodes_are_given_to_tenants_where_that_is_wanted(wanted: bool) -> None:
    loaded = load_cluster(environment("allocator", {"dedicatedNodes": {"enabled": wanted}}))
    assert loaded is not None
    assert loaded.dedicated_nodes is wanted


def test_the_allocator_knows_where_it_is_and_how_trainers_reach_the_services() -> None:
    loaded = load_cluster(
        environment_of(
            render(release="ml", namespace="team").one("Deployment", "ml-allocator")["spec"][
                "template"
            ]
        )
    )
    assert loaded is not None
    assert (loaded.release, loaded.namespace) == ("ml", "team")
    assert loaded.service_account == "ml-allocator"
    assert loaded.bound_role == "team.ml-tenant"
    assert loaded.controller_address == "ml-controller.team.svc:8443"
    assert loaded.dataset_address == "ml-dataset.team.svc:8443"
    assert loaded.trainer_image == "allotment/trainer:0.1.0"
    assert loaded.kubeconfig is None


def test_pools_tenants_queues_and_trainers_reach_the_allocator() -> None:
    values = {
        **TENANTS,
        **KUEUE,
        **PULL_SECRETS,
        "pools": {
            "a100": {"pricePerSlotHour": 2.5, "maxNodes": 4, "slotsPerNode": 8, "product": "A100"},
            "cheap": {"pricePerSlotHour": 1, "nodeLabels": {"spot": "yes"}},
        },
        "tenantQuota": {"requests.nvidia.com/gpu": "8"},
        "trainer": {
            "cpu": {"cores": 0.5, "coresLimit": 2, "threads": 2, "memory": "1Gi"},
            "gpu": {"cores": 8, "memory": "64G", "resource": "amd.com/gpu", "migPrefix": "x/"},
            "graceSeconds": 45,
            "cacheSize": "1Ti",
            "priorityClassName": "low",
            "runtimeClassName": "nvidia",
            "environment": {"NCCL_DEBUG": "INFO"},
        },
        "nodeLostAfterSeconds": 90,
        "networkPolicy": {"dns": {"namespace": "openshift-dns", "ports": [5353]}},
        "allocator": {"kubernetesApi": {"qps": 50, "burst": 60}},
    }
    loaded = load_cluster(environment("allocator", values))
    assert loaded is not None
    assert loaded.prices == {"a100": 2.5, "cheap": 1.0}
    assert loaded.declared_pools["a100"].most_nodes == 4
    assert loaded.declared_pools["a100"].node_slots == 8
    assert loaded.declared_pools["a100"].product == "A100"
    assert loaded.namespaces_by_tenant == {"acme": "team-acme"}
    assert loaded.queues_by_tenant == {"acme": "acme", "beta": "beta"}
    assert (loaded.queue, loaded.queue_priority_class) == ("all", "trials")
    assert json.loads(loaded.tenant_quota) == {"requests.nvidia.com/gpu": "8"}
    assert (loaded.slot_cores, loaded.slot_cores_limit, loaded.slot_threads) == (0.5, 2.0, 2)
    assert (loaded.slot_memory_bytes, loaded.gpu_memory_bytes) == (1 << 30, 64 * 10**9)
    assert (loaded.gpu_threads, loaded.gpu_resource) == (8, "amd.com/gpu")
    assert (loaded.mig_prefix, loaded.trainer_grace_s) == ("x/", 45)
    assert loaded.trainer_cache_bytes == 1 << 40
    assert (loaded.trainer_priority_class, loaded.trainer_runtime_class) == ("low", "nvidia")
    assert loaded.environment == {"NCCL_DEBUG": "INFO"}
    assert loaded.lost_after_s == 90
    assert (loaded.dns_namespace, loaded.dns_ports) == ("openshift-dns", ("5353",))
    assert (loaded.qps, loaded.burst) == (50, 60)
    assert loaded.trainer_pull_secret == "registry"
    assert loaded.trainer_pull_secret_file == Path("/etc/allotment/pull/config.json")


def test_queues_count_only_where_kueue_is_enabled() -> None:
    loaded = load_cluster(environment("allocator", TENANTS))
    assert loaded is not None
    assert loaded.queues_by_tenant == {}


def test_one_lease_time_is_both_services() -> None:
    values = {"allocator": {"settings": {"leaseTtlS": 90}}}
    allocator = load(AllocatorConfig, environment("allocator", values), "ALLOTMENT_ALLOCATOR_")
    controller = load(ControllerConfig, environment("controller", values), "ALLOTMENT_CONTROLLER_")
    assert allocator.lease_ttl_s == controller.lease_ttl_s == 90


def test_in_a_cluster_budgets_count_from_the_first_grant_and_a_tenant_is_there() -> None:
    controller = load(ControllerConfig, environment("controller"), "ALLOTMENT_CONTROLLER_")
    assert controller.budget_starts is BudgetStart.GRANTED
    allocator = load(AllocatorConfig, environment("allocator"), "ALLOTMENT_ALLOCATOR_")
    assert allocator.local_tenant == "default"


def test_services_call_each_other_where_certificates_count() -> None:
    called = {
        "dataset": {"allocator"},
        "controller": {"allocator", "dataset", "exporter"},
        "exporter": {"allocator", "dataset"},
    }
    for service, others in called.items():
        server = load(CONFIGS[service][1], environment(service), "ALLOTMENT_SERVE_")
        for other in others:
            assert getattr(server, f"{other}_address") == f"allotment-{other}:8444"
    gateway = load(GatewayConfig, environment("gateway"), "ALLOTMENT_GATEWAY_")
    assert gateway.addresses == {
        name: (f"allotment-{name}:8443",) for name in CONFIGS if name != "gateway"
    }


def test_ipv6_addresses_are_written_as_such() -> None:
    server = load(
        DatasetServer, environment("dataset", {"listenAddress": "::"}), "ALLOTMENT_SERVE_"
    )
    assert (server.address, server.metrics_host) == ("[::]:8443", "::")
    assert server.services_address == "[::]:8444"


@pytest.mark.parametrize("service", ["dataset", "controller", "allocator", "exporter"])
def test_databases_are_the_bundled_one_or_the_one_that_is_named(service: str) -> None:
    name = f"ALLOTMENT_{service.upper()}_DATABASE_URL"
    bundled = "postgresql://allotment@allotment-postgresql:5432/allotment?sslmode=prefer"
    assert environment(service)[name] == bundled
    values = {
        "postgresql": {
            "enabled": False,
            "external": {
                "host": "db.example.com",
                "port": 6432,
                "database": "ml data",
                "user": "a@b",
                "secret": {"name": "database", "key": "pw"},
                "ca": {"configMap": "database-ca", "key": "root.pem"},
            },
        }
    }
    assert environment(service, values)[name] == (
        "postgresql://a%40b@db.example.com:6432/ml%20data"
        "?sslmode=verify-full&sslrootcert=/etc/allotment/database/root.pem"
    )
    template = render(values).one("Deployment", f"allotment-{service}")["spec"]["template"]
    [password] = [e for e in template["spec"]["containers"][0]["env"] if e["name"] == "PGPASSWORD"]
    assert password["valueFrom"]["secretKeyRef"] == {"name": "database", "key": "pw"}


def test_an_external_database_is_checked_against_the_systems_authorities_by_default() -> None:
    url = environment("controller", EXTERNAL_POSTGRESQL)["ALLOTMENT_CONTROLLER_DATABASE_URL"]
    assert url.endswith("?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt")


def test_a_database_without_a_password_gets_none() -> None:
    values = {"postgresql": {"enabled": False, "external": {"host": "db", "sslmode": "disable"}}}
    template = render(values).one("Deployment", "allotment-controller")["spec"]["template"]
    names = {each["name"] for each in template["spec"]["containers"][0]["env"]}
    assert "PGPASSWORD" not in names


def dataset(values: Mapping[str, Any]) -> DatasetConfig:
    return load(DatasetConfig, environment("dataset", values), "ALLOTMENT_DATASET_")


def test_blobs_are_in_the_bundled_server_or_the_one_that_is_named() -> None:
    bundled = dataset({})
    assert bundled.blobs == "s3://allotment"
    assert bundled.s3_endpoint == "http://allotment-minio:9000"
    assert bundled.s3_access_key_file == Path("/etc/allotment/s3/access-key")
    assert bundled.s3_create_bucket
    assert bundled.s3_virtual_host is False
    named = dataset(
        {
            **EXTERNAL_S3,
            "s3": {
                **EXTERNAL_S3["s3"],
                "bucket": "models",
                "folder": "prod/one",
                "region": "eu-central-1",
                "ca": {"configMap": "s3-ca"},
                "pathStyle": True,
                "createBucket": True,
            },
        }
    )
    assert named.blobs == "s3://models/prod/one"
    assert (named.s3_endpoint, named.s3_region) == ("https://s3.example.com", "eu-central-1")
    assert named.s3_ca_file == Path("/etc/allotment/s3-ca/ca.crt")
    assert named.s3_virtual_host is False
    assert named.s3_create_bucket


def test_an_external_bucket_is_used_as_it_is_and_its_host_decides_on_paths() -> None:
    named = dataset(EXTERNAL_S3)
    assert not named.s3_create_bucket
    assert named.s3_virtual_host is None
    assert dataset({**EXTERNAL_S3, "s3": {"pathStyle": False}}).s3_virtual_host is True


def test_without_a_secret_the_bucket_is_reached_by_the_account_itself() -> None:
    config = dataset(KEYLESS_S3)
    assert config.s3_access_key_file is None
    assert config.s3_endpoint == "https://s3.amazonaws.com"
    account = render(KEYLESS_S3).one("ServiceAccount", "allotment-dataset")
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:x"}


def test_routes_name_every_service_of_the_contracts_and_its_owner() -> None:
    protos = CHART.parents[1] / "protos"
    served = set()
    for path in protos.rglob("*.proto"):
        text = path.read_text()
        [package] = re.findall(r"^package (.+);", text, re.MULTILINE)
        served |= {
            f"{package}.{name}" for name in re.findall(r"^service (\w+)", text, re.MULTILINE)
        }
    owners = (CHART / "templates" / "routes" / "_owners.tpl").read_text()
    named = dict(re.findall(r"^(allotment_api\.\S+): (\w+)$", owners, re.MULTILINE))
    assert named.keys() == served
    assert OWNERS
    assert named == {name: owner_of_service(name) for name in served}

"""The settings of a cluster."""

import json
from pathlib import Path

import pytest

from allotment_allocator.cluster_config import PREFIX, ClusterConfig, load_cluster
from allotment_core.errors import InvalidArgument

NEEDED = {
    "RELEASE": "allotment",
    "NAMESPACE": "platform",
    "TRAINER_IMAGE": "allotment/trainer:1",
    "CONTROLLER_ADDRESS": "allotment-controller.platform:8443",
    "DATASET_ADDRESS": "allotment-dataset.platform:8443",
    "CA_FILE": "/etc/allotment/ca.crt",
}


def loaded(**more: str) -> ClusterConfig:
    config = load_cluster({PREFIX + name: value for name, value in {**NEEDED, **more}.items()})
    assert config is not None
    return config


def test_without_any_of_its_settings_there_is_no_cluster() -> None:
    assert load_cluster({"PATH": "/bin", "ALLOTMENT_ALLOCATOR_SLOTS": "2"}) is None


def test_one_of_its_settings_alone_says_what_else_is_needed() -> None:
    with pytest.raises(InvalidArgument, match="ALLOTMENT_CLUSTER_NAMESPACE is not set"):
        load_cluster({PREFIX + "RELEASE": "allotment"})


def test_names_follow_the_release_unless_they_are_given() -> None:
    assert loaded().service_account == "allotment-allocator"
    assert loaded().bound_role == "allotment-tenant"
    assert loaded(ACCOUNT="a", TENANT_ROLE="r").service_account == "a"


def test_pools_have_prices_and_what_an_autoscaler_may_bring() -> None:
    pools = {
        "h100": {"price_per_slot_hour": 2.5, "max_nodes": 4, "slots_per_node": 8},
        "cpu": {"price_per_slot_hour": 0.04},
    }
    config = loaded(POOLS=json.dumps(pools))
    assert config.prices == {"h100": 2.5, "cpu": 0.04}
    assert list(config.declared_pools) == ["h100"]
    assert config.declared_pools["h100"].most_nodes == 4
    assert config.declared_pools["h100"].node_slots == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POOLS", "h100=3"),
        ("POOLS", "[]"),
        ("POOLS", '{"h100": {"max_node": 3}}'),
        ("POOLS", '{"h100": {"max_nodes": -1}}'),
        ("POOLS", '{"h100": {"max_nodes": "4"}}'),
        ("POOLS", '{"h100": {"max_nodes": true}}'),
        ("POOLS", '{"h100": {"max_nodes": 1, "slots_per_node": 0}}'),
        ("POOLS", '{"h100": {"max_nodes": 1, "resource": "tpu"}}'),
        ("QUEUES", '{"acme": 3}'),
        ("TRAINER_ENVIRONMENT", "A=B"),
        ("TENANT_NAMESPACES", "acme"),
        ("TENANT_QUOTA", '{"pods": 3}'),
        ("DNS_PORTS", "53,dns"),
        ("SLOT_CORES", "0"),
        ("SLOT_CORES", "nan"),
        ("SLOT_CORES_LIMIT", "0.5"),
        ("CONTROLLER_ADDRESS", "allotment-controller"),
        ("RELEASE", ""),
        ("QPS", "0"),
    ],
)
def test_what_can_not_be_used_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=PREFIX + name) as refused:
        loaded(**{name: value})
    assert refused.value.reason == "INVALID_CONFIG"


def test_a_slot_may_be_a_fraction_of_a_core() -> None:
    config = loaded(SLOT_CORES="0.25", SLOT_CORES_LIMIT="1", SLOT_THREADS="1")
    assert (config.slot_cores, config.slot_cores_limit, config.slot_threads) == (0.25, 1.0, 1)
    assert config.ca_file == Path("/etc/allotment/ca.crt")

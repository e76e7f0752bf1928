"""Who may talk to whom, as the policies together allow it."""

from collections.abc import Mapping
from typing import Any

import pytest

from allotment_testkit.chart import Json, Rendered, every, render, template_of
from allotment_testkit.chart_forms import (
    EXTERNAL_POSTGRESQL,
    EXTERNAL_S3,
    FORMS,
    GRPC_ROUTE,
    KEYLESS_S3,
    NO_GATEWAY,
    PEER,
    TENANTS,
)

COMPONENT = "app.kubernetes.io/component"
Edge = tuple[str, str, int]
INSIDE: set[Edge] = {
    ("gateway", "dataset", 8443),
    ("gateway", "controller", 8443),
    ("gateway", "allocator", 8443),
    ("gateway", "exporter", 8443),
    ("controller", "dataset", 8444),
    ("controller", "allocator", 8444),
    ("controller", "exporter", 8444),
    ("exporter", "dataset", 8444),
    ("exporter", "allocator", 8444),
    ("dataset", "allocator", 8444),
    ("dataset", "minio", 9000),
    *((name, "postgresql", 5432) for name in ("dataset", "controller", "allocator", "exporter")),
}
"""Every connection between pods of the release. Nothing else is open between them."""


def policies(rendered: Rendered) -> dict[str, Json]:
    found = {}
    for policy in rendered.of("NetworkPolicy"):
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        found[spec["podSelector"]["matchLabels"][COMPONENT]] = spec
    return found


def inside(peer: Json) -> str | None:
    """The component of this release that a peer is; None: it is something else."""
    if "namespaceSelector" in peer or "podSelector" not in peer:
        return None
    labels = peer["podSelector"]["matchLabels"]
    assert labels["app.kubernetes.io/instance"] == "allotment"
    return str(labels[COMPONENT])


def allowed(specs: Mapping[str, Json], side: str) -> set[Edge]:
    edges = set()
    peers = "to" if side == "egress" else "from"
    for component, spec in specs.items():
        for rule in spec.get(side, ()):
            for peer in rule.get(peers, ()):
                other = inside(peer)
                for port in rule.get("ports", ()) if other else ():
                    ends = (component, other) if side == "egress" else (other, component)
                    edges.add((str(ends[0]), str(ends[1]), port["port"]))
    return edges


def test_both_ends_agree_on_every_connection() -> None:
    specs = policies(render())
    outward = allowed(specs, "egress") - {("test", "gateway", 8443)}
    assert outward == INSIDE
    # The gateway takes everybody.
    assert allowed(specs, "ingress") == INSIDE


@pytest.mark.parametrize("form", [name for name in FORMS if name != "no network policies"])
def test_every_pod_is_fenced(form: str) -> None:
    rendered = render(FORMS[form])
    fenced = policies(rendered).keys()
    for name, template in rendered.pods():
        assert template["metadata"]["labels"][COMPONENT] in fenced, name
    assert fenced == {t["metadata"]["labels"][COMPONENT] for _, t in rendered.pods()}


def test_a_policys_pod_listens_where_it_says() -> None:
    rendered = render()
    listening = {
        template["metadata"]["labels"][COMPONENT]: {
            port["containerPort"]
            for container in template["spec"]["containers"]
            for port in container.get("ports", ())
        }
        for _, template in rendered.pods()
    }
    for _, to, port in INSIDE:
        assert port in listening[to]


def test_there_are_no_policies_where_they_are_off() -> None:
    assert not render(FORMS["no network policies"]).of("NetworkPolicy")


def trainers(spec: Json) -> list[Json]:
    return [
        rule
        for rule in spec.get("ingress", ())
        for peer in rule.get("from", ())
        if peer.get("podSelector", {}).get("matchLabels", {}).get(COMPONENT) == "trainer"
    ]


def test_trainers_of_tenants_namespaces_reach_controller_and_dataset_alone() -> None:
    specs = policies(render())
    assert {name for name, spec in specs.items() if trainers(spec)} == {"controller", "dataset"}
    for name in ("controller", "dataset"):
        [rule] = trainers(specs[name])
        assert rule["ports"] == [{"protocol": "TCP", "port": 8443}]
        [peer] = rule["from"]
        assert peer["namespaceSelector"] == {
            "matchLabels": {
                "allotment.dev/home": "allotment",
                "app.kubernetes.io/instance": "allotment",
            },
            "matchExpressions": [{"key": "allotment.dev/tenant", "operator": "Exists"}],
        }
        assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "allotment"


def test_trainers_of_namespaces_made_beforehand_come_by_their_names() -> None:
    for name in ("controller", "dataset"):
        [rule] = [
            rule
            for rule in policies(render(TENANTS))[name]["ingress"]
            if len(rule.get("from", ())) == 2 and rule["ports"][0]["port"] == 8443
        ]
        _, beforehand = rule["from"]
        assert {
            "key": "kubernetes.io/metadata.name",
            "operator": "In",
            "values": ["team-acme"],
        } in beforehand["namespaceSelector"]["matchExpressions"]
        assert beforehand["podSelector"]["matchLabels"][COMPONENT] == "trainer"


def test_stores_call_nobody_and_nobody_else_calls_them() -> None:
    specs = policies(render())
    for name in ("postgresql", "minio"):
        assert "egress" not in specs[name]
        assert len(specs[name]["ingress"]) == 1


def test_only_who_calls_the_api_server_may_leave_without_a_destination() -> None:
    specs = policies(render())
    free = {name for name, spec in specs.items() if {} in spec.get("egress", ())}
    assert free == {"allocator", "install", "uninstall", "rotate"}


def test_the_api_servers_place_can_be_named() -> None:
    values = {"networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]}}}
    for name in ("allocator", "install", "uninstall", "rotate"):
        rule = policies(render(values))[name]["egress"][-1]
        assert rule == {
            "ports": [{"protocol": "TCP", "port": 6443}],
            "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
        }


def test_names_are_looked_up_where_the_clusters_dns_is() -> None:
    values = {
        "networkPolicy": {
            "dns": {"namespace": "dns", "ports": [5353], "addresses": ["169.254.20.10/32"]}
        }
    }
    rule = policies(render(values))["dataset"]["egress"][0]
    home = {"matchLabels": {"kubernetes.io/metadata.name": "dns"}}
    assert rule["to"] == [
        {"namespaceSelector": home},
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ]
    assert rule["ports"] == [{"protocol": p, "port": 5353} for p in ("UDP", "TCP")]


def egress(values: Mapping[str, Any], component: str) -> list[Json]:
    rules: list[Json] = policies(render(values))[component]["egress"]
    return rules


def test_external_stores_are_reached_by_their_ports_and_addresses() -> None:
    assert {"ports": [{"protocol": "TCP", "port": 5432}]} in egress(
        EXTERNAL_POSTGRESQL, "controller"
    )
    named = {
        **EXTERNAL_POSTGRESQL,
        **EXTERNAL_S3,
        "s3": {"endpoint": "http://10.1.0.9:9001", "secret": {"name": "x"}},
        "networkPolicy": {"databaseCidrs": ["10.1.0.0/24"], "objectStoreCidrs": ["10.1.0.9/32"]},
    }
    assert {
        "ports": [{"protocol": "TCP", "port": 5432}],
        "to": [{"ipBlock": {"cidr": "10.1.0.0/24"}}],
    } in egress(named, "exporter")
    assert {
        "ports": [{"protocol": "TCP", "port": 9001}],
        "to": [{"ipBlock": {"cidr": "10.1.0.9/32"}}],
    } in egress(named, "dataset")


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("https://s3.example.com", 443), ("http://s3.example.com", 80), ("https://h:9443", 9443)],
)
def test_the_object_stores_port_is_its_endpoints(endpoint: str, port: int) -> None:
    values = {**EXTERNAL_S3, "s3": {"endpoint": endpoint, "secret": {"name": "x"}}}
    assert {"ports": [{"protocol": "TCP", "port": port}]} in egress(values, "dataset")


def test_a_keyless_account_may_ask_its_provider_who_it_is() -> None:
    assert {"ports": [{"protocol": "TCP", "port": p} for p in (443, 80)]} in egress(
        KEYLESS_S3, "dataset"
    )


def test_clients_of_the_gateway_can_be_named_and_the_test_stays_one() -> None:
    spec = policies(render({"networkPolicy": {"clients": [PEER]}}))["gateway"]
    rules = [rule for rule in spec["ingress"] if rule["ports"][0]["port"] == 8443]
    assert [PEER] in [rule.get("from") for rule in rules]
    assert all("from" in rule for rule in rules)
    assert ("test", "gateway", 8443) in allowed({"gateway": spec}, "ingress")
    everybody = policies(render())["gateway"]["ingress"]
    assert everybody == [{"ports": [{"protocol": "TCP", "port": 8443}]}]


def test_without_a_gateway_the_routes_controller_comes_in_its_place() -> None:
    closed = policies(render(NO_GATEWAY))
    assert "ingress" not in closed["exporter"] or all(
        rule["ports"][0]["port"] != 8443 for rule in closed["exporter"]["ingress"]
    )
    opened = policies(render({**NO_GATEWAY, **GRPC_ROUTE}))
    for name in ("dataset", "controller", "allocator", "exporter"):
        assert {"ports": [{"protocol": "TCP", "port": 8443}]} in opened[name]["ingress"]
    named = {**NO_GATEWAY, **GRPC_ROUTE, "networkPolicy": {"routeControllers": [PEER]}}
    assert {"ports": [{"protocol": "TCP", "port": 8443}], "from": [PEER]} in policies(
        render(named)
    )["exporter"]["ingress"]


def metrics(values: Mapping[str, Any]) -> list[Json]:
    return [
        rule
        for spec in policies(render(values)).values()
        for rule in spec.get("ingress", ())
        if rule["ports"][0]["port"] == 9090
    ]


def test_metrics_are_closed_unless_somebody_reads_them() -> None:
    assert not metrics({})
    assert metrics({"serviceMonitor": {"enabled": True}}) == 5 * [
        {"ports": [{"protocol": "TCP", "port": 9090}]}
    ]
    assert metrics({"networkPolicy": {"metrics": [PEER]}}) == 5 * [
        {"ports": [{"protocol": "TCP", "port": 9090}], "from": [PEER]}
    ]


def test_jobs_around_a_release_have_their_policies_while_they_run() -> None:
    rendered = render()
    for job, hook in (("install", "pre-install,pre-upgrade"), ("uninstall", "post-delete")):
        policy = rendered.one("NetworkPolicy", f"allotment-{job}")
        assert policy["metadata"]["annotations"]["helm.sh/hook"] == hook
    assert "annotations" not in rendered.one("NetworkPolicy", "allotment-rotate")["metadata"]
    assert every(rendered, lambda each: template_of(each) is not None)

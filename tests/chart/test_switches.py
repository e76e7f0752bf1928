"""Each switch of the values, on and off."""

import pytest

from allotment_testkit.chart import Json, environment_of, render, template_of
from allotment_testkit.chart_forms import (
    CERT_MANAGER,
    CERTIFICATE,
    EXTERNAL_POSTGRESQL,
    EXTERNAL_S3,
    FORMS,
    GIVEN_ISSUER,
    GRPC_ROUTE,
    INGRESS,
    NO_GATEWAY,
    REPLICAS,
)

SERVERS = {"allocator", "controller", "dataset", "exporter"}


def test_a_service_with_replicas_keeps_one_up_and_spreads_them() -> None:
    rendered = render(REPLICAS)
    assert rendered.names("PodDisruptionBudget") == {
        f"allotment-{name}" for name in ("controller", "allocator", "gateway")
    }
    for name in ("controller", "allocator", "gateway"):
        budget = rendered.one("PodDisruptionBudget", f"allotment-{name}")["spec"]
        assert budget["maxUnavailable"] == 1
        deployment = rendered.one("Deployment", f"allotment-{name}")["spec"]
        assert deployment["selector"] == budget["selector"]
        constraints = deployment["template"]["spec"]["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in constraints} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
        for each in constraints:
            assert each["labelSelector"] == budget["selector"]


def test_a_single_replica_has_no_budget_that_would_hold_up_a_drain() -> None:
    assert not render().of("PodDisruptionBudget")
    assert not render(FORMS["replicas without budgets"]).of("PodDisruptionBudget")
    for each in render().of("Deployment"):
        assert "topologySpreadConstraints" not in each["spec"]["template"]["spec"]


def test_the_gateway_is_scaled_by_its_calls_in_flight() -> None:
    rendered = render({"hpa": {"enabled": True, "inFlightPerPod": 10, "metric": "calls"}})
    scaler = rendered.one("HorizontalPodAutoscaler", "allotment-gateway")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "allotment-gateway"
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    [metric] = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == "calls"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "10"}
    deployment = rendered.one("Deployment", "allotment-gateway")["spec"]
    assert "replicas" not in deployment
    assert "topologySpreadConstraints" in deployment["template"]["spec"]
    assert rendered.names("PodDisruptionBudget") == {"allotment-gateway"}
    assert not render().of("HorizontalPodAutoscaler")


def test_prometheus_finds_the_pods_with_metrics() -> None:
    rendered = render({"serviceMonitor": {"enabled": True, "labels": {"release": "prom"}}})
    monitor = rendered.one("ServiceMonitor", "allotment")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    service = rendered.one("Service", "allotment-metrics")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= service["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["name"] == monitor["spec"]["endpoints"][0]["port"]
    assert not render().of("ServiceMonitor")
    assert render().find("Service", "allotment-metrics") is None


def test_the_gateways_service_is_what_the_values_say() -> None:
    values = {
        "gateway": {
            "service": {
                "type": "NodePort",
                "port": 8443,
                "nodePort": 30443,
                "annotations": {"a": "b"},
                "loadBalancerSourceRanges": ["10.0.0.0/8"],
            }
        }
    }
    service = render(values).one("Service", "allotment-gateway")
    assert service["metadata"]["annotations"] == {"a": "b"}
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    [port] = service["spec"]["ports"]
    assert (port["port"], port["nodePort"]) == (8443, 30443)


def test_no_route_is_made_unless_one_is_asked_for() -> None:
    assert not render().of("GRPCRoute", "Ingress", "BackendTLSPolicy")


def test_a_grpc_route_leads_to_the_gateway() -> None:
    rendered = render(GRPC_ROUTE)
    spec = rendered.one("GRPCRoute", "allotment")["spec"]
    assert spec["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert spec["hostnames"] == ["ml.example.com"]
    assert spec["rules"] == [{"backendRefs": [{"name": "allotment-gateway", "port": 443}]}]
    assert rendered.names("BackendTLSPolicy") == {"allotment-gateway"}


def test_a_grpc_route_in_the_gateways_place_leads_to_each_service() -> None:
    rendered = render({**GRPC_ROUTE, **NO_GATEWAY})
    rules = rendered.one("GRPCRoute", "allotment")["spec"]["rules"]
    leads = {
        match["method"]["service"]: rule["backendRefs"][0]["name"].removeprefix("allotment-")
        for rule in rules
        for match in rule["matches"]
    }
    assert set(leads.values()) == SERVERS
    assert leads["allotment_api.search.v1.SearchService"] == "controller"
    assert all(rule["backendRefs"][0]["port"] == 8443 for rule in rules)
    assert rendered.names("BackendTLSPolicy") == {f"allotment-{name}" for name in SERVERS}
    for policy in rendered.of("BackendTLSPolicy"):
        [reference] = policy["spec"]["validation"]["caCertificateRefs"]
        assert reference == {"group": "", "kind": "ConfigMap", "name": "allotment-ca"}


def test_a_gateway_that_trusts_already_gets_no_policy() -> None:
    values = {"route": {**GRPC_ROUTE["route"], "grpcRoute": {"backendTls": False,
              "parentRefs": [{"name": "public"}]}}}  # fmt: skip
    assert not render(values).of("BackendTLSPolicy")


@pytest.mark.parametrize("gateway", [True, False])
def test_an_ingress_leads_to_the_gateway_or_each_service(gateway: bool) -> None:
    rendered = render({**INGRESS, "gateway": {"enabled": gateway}})
    ingress = rendered.one("Ingress", "allotment")
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == (
        "GRPCS"
    )
    spec = ingress["spec"]
    assert spec["ingressClassName"] == "nginx"
    assert spec["tls"] == [{"hosts": ["ml.example.com"], "secretName": "ml-tls"}]
    [rule] = spec["rules"]
    paths = {p["path"]: p["backend"]["service"] for p in rule["http"]["paths"]}
    if gateway:
        assert paths == {"/": {"name": "allotment-gateway", "port": {"number": 443}}}
    else:
        assert len(paths) == 8
        assert {service["name"] for service in paths.values()} == {
            f"allotment-{name}" for name in SERVERS
        }


def test_annotations_of_an_ingress_win_over_the_charts() -> None:
    body = "nginx.ingress.kubernetes.io/proxy-body-size"
    values = {"route": {**INGRESS["route"], "annotations": {body: "1g", "more": "x"}}}
    annotations = render(values).one("Ingress", "allotment")["metadata"]["annotations"]
    assert (annotations[body], annotations["more"]) == ("1g", "x")


def certificates(values: Json) -> dict[str, Json]:
    return {each["metadata"]["name"]: each["spec"] for each in render(values).of("Certificate")}


def test_certificates_are_our_own_unless_cert_manager_makes_them() -> None:
    assert not render().of("Certificate", "Issuer")


def test_cert_manager_issues_from_the_authority_that_was_made_at_install() -> None:
    rendered = render(CERT_MANAGER)
    assert rendered.one("Issuer", "allotment")["spec"] == {"ca": {"secretName": "allotment-ca-key"}}
    found = certificates(dict(CERT_MANAGER))
    assert found.keys() == {f"allotment-{name}-tls" for name in (*SERVERS, "gateway")}
    for name, spec in found.items():
        service = name.removeprefix("allotment-").removesuffix("-tls")
        assert spec["secretName"] == name
        assert spec["uris"] == [f"spiffe://allotment/service/{service}"]
        assert {"server auth", "client auth"} <= set(spec["usages"])
        assert spec["duration"] == "2160h"
        assert spec["renewBefore"] == "720h"
        assert "127.0.0.1" in spec["ipAddresses"]
        own = f"allotment-{service}"
        assert spec["dnsNames"] == [
            own,
            f"{own}.allotment",
            f"{own}.allotment.svc",
            f"{own}.allotment.svc.cluster.local",
            "localhost",
        ]
        assert spec["issuerRef"] == {
            "name": "allotment",
            "kind": "Issuer",
            "group": "cert-manager.io",
        }


def test_more_names_are_those_of_the_gateway_or_of_everybody_without_one() -> None:
    names = {"certificates": {"mode": "cert-manager", "serverNames": ["10.0.0.7", "ml.example"]}}
    found = certificates(names)
    assert "ml.example" in found["allotment-gateway-tls"]["dnsNames"]
    assert "10.0.0.7" in found["allotment-gateway-tls"]["ipAddresses"]
    assert "ml.example" not in found["allotment-dataset-tls"]["dnsNames"]
    alone = certificates({**names, **NO_GATEWAY})
    assert alone.keys() == {f"allotment-{name}-tls" for name in SERVERS}
    assert all("ml.example" in spec["dnsNames"] for spec in alone.values())


def test_an_issuer_of_ones_own_brings_its_authority() -> None:
    rendered = render(GIVEN_ISSUER)
    assert not rendered.of("Issuer")
    secret = rendered.one("Secret", "allotment-ca")
    assert secret["stringData"] == {"ca.crt": CERTIFICATE}
    issuer = {"name": "company", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    for spec in certificates(dict(GIVEN_ISSUER)).values():
        assert spec["issuerRef"] == issuer
    assert rendered.find("ConfigMap", "allotment-ca") is None
    both = render({**GIVEN_ISSUER, **GRPC_ROUTE})
    assert both.one("ConfigMap", "allotment-ca")["data"] == {"ca.crt": CERTIFICATE}


def test_no_other_secret_is_rendered() -> None:
    for form in FORMS.values():
        assert {each["metadata"]["name"] for each in render(form).of("Secret")} <= {"allotment-ca"}


@pytest.mark.parametrize(
    ("values", "gone"),
    [(EXTERNAL_POSTGRESQL, "postgresql"), (EXTERNAL_S3, "minio")],
    ids=["postgresql", "minio"],
)
def test_an_external_store_leaves_nothing_of_the_bundled_one(values: Json, gone: str) -> None:
    for item in render(values).objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/component"] != gone
        template = template_of(item)
        if template is not None:
            for volume in template["spec"]["volumes"]:
                named = volume.get("secret", {}).get("secretName", "")
                assert named != f"allotment-{gone}"


def test_files_of_external_authorities_are_mounted_where_the_settings_look() -> None:
    values = {
        "postgresql": {
            "enabled": False,
            "external": {"host": "db", "ca": {"configMap": "database-ca"}},
        },
        "minio": {"enabled": False},
        "s3": {"ca": {"configMap": "s3-ca"}},
    }
    for name in SERVERS:
        spec = render(values).one("Deployment", f"allotment-{name}")["spec"]["template"]["spec"]
        mounts = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
        assert mounts["database-ca"] == "/etc/allotment/database"
        assert ("s3-ca" in mounts) is (name == "dataset")
        [volume] = [v for v in spec["volumes"] if v["name"] == "database-ca"]
        assert volume["configMap"] == {"name": "database-ca"}


@pytest.mark.parametrize("name", ["postgresql", "minio"])
def test_stores_and_their_volumes_stay_or_go_together(name: str) -> None:
    def policy(values: Json) -> str:
        spec = render(values).one("StatefulSet", f"allotment-{name}")["spec"]
        return str(spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"])

    assert policy({}) == "Retain"
    assert policy({"persistence": {"deleteOnUninstall": True}}) == "Delete"


@pytest.mark.parametrize("name", ["postgresql", "minio"])
def test_a_stores_volume_has_its_class_or_that_of_all(name: str) -> None:
    def storage_class(values: Json) -> str | None:
        spec = render(values).one("StatefulSet", f"allotment-{name}")["spec"]
        [claim] = spec["volumeClaimTemplates"]
        found: str | None = claim["spec"].get("storageClassName")
        return found

    every = {"persistence": {"storageClass": "slow"}}
    assert storage_class({}) is None
    assert storage_class(every) == "slow"
    assert storage_class({**every, name: {"persistence": {"storageClass": "fast"}}}) == "fast"


def test_a_claim_never_names_a_version() -> None:
    """Claims of a StatefulSet can't change: an upgrade would be refused."""
    for each in render().of("StatefulSet"):
        for labels in (
            each["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"],
            each["spec"]["selector"]["matchLabels"],
        ):
            assert labels.keys() == {
                "app.kubernetes.io/part-of",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
            }


def test_selectors_name_no_version_either() -> None:
    for each in render().of("Deployment"):
        assert "helm.sh/chart" not in each["spec"]["selector"]["matchLabels"]


def test_postgresql_stops_fast_and_starts_on_a_volume_that_it_has_used() -> None:
    spec = render().one("StatefulSet", "allotment-postgresql")["spec"]["template"]["spec"]
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    [container] = spec["containers"]
    assert "pg_ctl stop" in container["lifecycle"]["preStop"]["exec"]["command"][-1]
    [folder] = [e["value"] for e in container["env"] if e["name"] == "PGDATA"]
    [mount] = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "data"]
    assert folder.startswith(f"{mount}/")


def test_uploads_are_kept_on_a_volume_where_that_is_wanted() -> None:
    def uploads(values: Json) -> Json:
        spec = render(values).one("Deployment", "allotment-dataset")["spec"]["template"]["spec"]
        [volume] = [v for v in spec["volumes"] if v["name"] == "uploads"]
        found: Json = volume
        return found

    kept = {"dataset": {"persistence": {"enabled": True, "size": "1Ti"}}}
    assert uploads({})["emptyDir"] == {"sizeLimit": "20Gi"}
    assert render().find("PersistentVolumeClaim", "allotment-dataset") is None
    assert uploads(kept)["persistentVolumeClaim"] == {"claimName": "allotment-dataset"}
    claim = render(kept).one("PersistentVolumeClaim", "allotment-dataset")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Ti"
    goes = render({**kept, "persistence": {"deleteOnUninstall": True}})
    assert "annotations" not in goes.one("PersistentVolumeClaim", "allotment-dataset")["metadata"]


@pytest.mark.parametrize("dedicated", [True, False])
def test_nodes_are_fenced_where_they_may_be_changed(dedicated: bool) -> None:
    rendered = render({"dedicatedNodes": {"enabled": dedicated}})
    names = rendered.names("ValidatingAdmissionPolicy")
    assert ("allotment.allotment-nodes" in names) is dedicated
    assert ("allotment.allotment-uninstall-nodes" in names) is dedicated


def test_the_first_pull_secret_is_mounted_for_the_allocator() -> None:
    values = {"image": {"pullSecrets": ["registry"]}}
    spec = render(values).one("Deployment", "allotment-allocator")["spec"]["template"]["spec"]
    [volume] = [v for v in spec["volumes"] if v["name"] == "pull"]
    assert volume["secret"]["secretName"] == "registry"
    assert volume["secret"]["items"] == [{"key": ".dockerconfigjson", "path": "config.json"}]
    plain = render().one("Deployment", "allotment-allocator")["spec"]["template"]["spec"]
    assert "pull" not in {v["name"] for v in plain["volumes"]}


def test_registered_families_are_files_that_the_controller_reads() -> None:
    text = '{"family": "napping"}'
    rendered = render({"controller": {"families": {"napping": text}}})
    assert rendered.one("ConfigMap", "allotment-families")["data"] == {"napping.json": text}
    template = rendered.one("Deployment", "allotment-controller")["spec"]["template"]
    path = environment_of(template)["ALLOTMENT_CONTROLLER_FAMILIES_DIR"]
    container = template["spec"]["containers"][0]
    mount = {"name": "families", "mountPath": path, "readOnly": True}
    assert mount in container["volumeMounts"]
    volume = {"name": "families", "configMap": {"name": "allotment-families"}}
    assert volume in template["spec"]["volumes"]
    other = render({"controller": {"families": {"napping": text + " "}}})
    changed = other.one("Deployment", "allotment-controller")["spec"]["template"]
    assert environment_of(changed)["ALLOTMENT_CONTROLLER_FAMILIES_DIR"] != path
    assert render().find("ConfigMap", "allotment-families") is None

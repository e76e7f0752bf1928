"""Every pod of every form of the chart keeps to the rules of a fenced namespace."""

from collections.abc import Iterator

import pytest

from allotment_testkit.chart import Json, Rendered, environment_of, merged, render
from allotment_testkit.chart_forms import FORMS, NO_GATEWAY, PULL_SECRETS

WITH_TOKEN = {"allocator", "install", "rotate", "uninstall"}
"""Who calls the API server."""
SERVICES = ("dataset", "controller", "allocator", "exporter", "gateway")


@pytest.fixture(params=FORMS, ids=str)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(FORMS[request.param])


def containers(rendered: Rendered) -> Iterator[tuple[str, Json]]:
    for name, template in rendered.pods():
        for kind in ("initContainers", "containers"):
            for container in template["spec"].get(kind, ()):
                yield name, container


def component(template: Json) -> str:
    return str(template["metadata"]["labels"]["app.kubernetes.io/component"])


def test_pods_are_restricted(rendered: Rendered) -> None:
    for name, template in rendered.pods():
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & template["spec"].keys(), name
        for volume in template["spec"].get("volumes", ()):
            assert "hostPath" not in volume, name
    for name, container in containers(rendered):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert not any("hostPort" in port for port in container.get("ports", ())), name


def test_containers_have_requests_and_limits(rendered: Rendered) -> None:
    for name, container in containers(rendered):
        for side in ("requests", "limits"):
            given = container["resources"][side].keys()
            assert given == {"cpu", "memory", "ephemeral-storage"}, f"{name} {side}"


def test_only_who_calls_the_api_server_has_a_token(rendered: Rendered) -> None:
    for name, template in rendered.pods():
        mounted = template["spec"]["automountServiceAccountToken"]
        assert mounted is (component(template) in WITH_TOKEN), name
    for account in rendered.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_every_pod_that_serves_has_an_account_of_its_own(rendered: Rendered) -> None:
    accounts = rendered.names("ServiceAccount")
    used = []
    for name, template in rendered.pods():
        if component(template) == "test":
            continue
        account = template["spec"]["serviceAccountName"]
        assert account in accounts, name
        used.append(account)
    assert len(used) == len(set(used))


def test_images_have_a_tag_and_the_one_pull_policy(rendered: Rendered) -> None:
    policies = set()
    for name, container in containers(rendered):
        tag = container["image"].rpartition(":")[2]
        assert tag not in ("", "latest", container["image"]), name
        policies.add(container["imagePullPolicy"])
    assert len(policies) == 1


def test_variables_of_services_in_the_namespace_stay_outside(rendered: Rendered) -> None:
    """Kubernetes' own ALLOTMENT_DATASET_PORT would be refused as an unknown setting."""
    for name, template in rendered.pods():
        assert template["spec"]["enableServiceLinks"] is False, name


def test_pods_are_gone_within_30_s(rendered: Rendered) -> None:
    for name, template in rendered.pods():
        assert template["spec"]["terminationGracePeriodSeconds"] <= 25, name


def test_everything_is_labelled_as_a_part_of_this_release(rendered: Rendered) -> None:
    for item in rendered.objects:
        templates = [item["metadata"], *(t["metadata"] for t in item.get("volumeClaims", ()))]
        for metadata in templates:
            labels = metadata["labels"]
            assert labels["app.kubernetes.io/part-of"] == "allotment", metadata["name"]
            assert labels["app.kubernetes.io/instance"] == "allotment", metadata["name"]
    for name, template in rendered.pods():
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "allotment", name
    for item in rendered.of("StatefulSet"):
        for claim in item["spec"]["volumeClaimTemplates"]:
            assert claim["metadata"]["labels"]["app.kubernetes.io/part-of"] == "allotment"


def test_what_is_mounted_is_there_and_the_other_way_round(rendered: Rendered) -> None:
    for name, template in rendered.pods():
        spec = template["spec"]
        claims = set()
        if name.startswith("StatefulSet"):
            claims = {"data"}
        volumes = {volume["name"] for volume in spec["volumes"]} | claims
        mounted = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
        assert mounted == volumes, name


def test_liveness_asks_the_process_alone_and_readiness_what_it_needs(rendered: Rendered) -> None:
    for deployment in rendered.of("Deployment"):
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
        # The name "" is the process; "ready" says whether it serves, or stands by.
        process, ready = {"port": 8080}, {"port": 8080, "service": "ready"}
        assert [probe["grpc"] for probe in probes] == [process, ready, process]
        assert container["startupProbe"]["failureThreshold"] >= 120
        live = container["livenessProbe"]
        assert live["failureThreshold"] * live["periodSeconds"] >= 60
    for stateful in rendered.of("StatefulSet"):
        [container] = stateful["spec"]["template"]["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        assert container["livenessProbe"] != container["readinessProbe"]


def test_two_owners_of_uploads_or_exports_never_run_at_once(rendered: Rendered) -> None:
    strategies = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]["strategy"]["type"]
        for each in rendered.of("Deployment")
    }
    assert strategies["dataset"] == strategies["exporter"] == "Recreate"
    assert strategies["controller"] == strategies["allocator"] == "RollingUpdate"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_placed_as_its_values_say(name: str) -> None:
    place = {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "own", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "high",
    }
    spread = [
        {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
    ]
    values = {
        name: {
            **place,
            "topologySpread": spread,
            "podAnnotations": {"note": "x"},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "serviceAccount": {"annotations": {"role": "arn:x"}},
            "resources": {"limits": {"cpu": "3"}},
        }
    }
    rendered = render(values)
    template = rendered.one("Deployment", f"allotment-{name}")["spec"]["template"]
    spec = template["spec"]
    assert {key: spec[key] for key in place} == place
    assert spec["topologySpreadConstraints"] == spread
    assert template["metadata"]["annotations"]["note"] == "x"
    assert environment_of(template)["HTTPS_PROXY"] == "http://proxy:3128"
    assert spec["containers"][0]["resources"]["limits"]["cpu"] == "3"
    account = rendered.one("ServiceAccount", f"allotment-{name}")
    assert account["metadata"]["annotations"] == {"role": "arn:x"}
    others = [each for each in SERVICES if each != name]
    for other in others:
        template = rendered.one("Deployment", f"allotment-{other}")["spec"]["template"]
        assert not place.keys() & template["spec"].keys()


@pytest.mark.parametrize("name", ["postgresql", "minio"])
def test_a_bundled_store_is_placed_as_its_values_say(name: str) -> None:
    values = {name: {"nodeSelector": {"disk": "fast"}, "priorityClassName": "high"}}
    spec = render(values).one("StatefulSet", f"allotment-{name}")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["priorityClassName"] == "high"


def test_images_come_from_one_registry_with_one_tag() -> None:
    values = merged(
        PULL_SECRETS,
        {"image": {"registry": "registry.example.com/", "tag": "1.2.3", "repository": "ml/part"}},
    )
    rendered = render(values)
    for name, template in rendered.pods():
        [container] = template["spec"]["containers"]
        image = container["image"]
        assert image.startswith("registry.example.com/"), name
        if component(template) not in ("postgresql", "minio"):
            assert image.startswith("registry.example.com/ml/part/"), name
            assert image.endswith(":1.2.3"), name
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]


def test_a_tag_of_digits_alone_stays_what_it_is() -> None:
    template = render({"image": {"tag": 20261121}}).one("Deployment", "allotment-dataset")
    image = template["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "allotment/dataset:20261121"


def test_the_platform_chooses_users_where_the_values_choose_none() -> None:
    rendered = render(FORMS["the platform's own users"])
    for name, template in rendered.pods():
        given = template["spec"]["securityContext"].keys()
        assert given == {"runAsNonRoot", "seccompProfile"}, name
    assert rendered.find("ConfigMap", "allotment-postgresql") is None


def test_the_form_to_try_out_asks_for_one_cpu_and_two_gibibytes_at_most() -> None:
    cores, memory = 0.0, 0.0
    for name, template in render().pods():
        for container in template["spec"]["containers"]:
            requests = container["resources"]["requests"]
            assert requests["cpu"].endswith("m"), name
            assert requests["memory"].endswith("Mi"), name
            cores += int(requests["cpu"][:-1]) / 1000
            memory += int(requests["memory"][:-2])
    allocator = render().one("Deployment", "allotment-allocator")["spec"]["template"]
    trainer = float(environment_of(allocator)["ALLOTMENT_CLUSTER_SLOT_CORES"])
    assert trainer == 0.25
    assert cores <= 1.0
    assert memory <= 2048


def test_one_replica_of_each_runs_in_the_form_to_try_out() -> None:
    rendered = render()
    for each in rendered.of("Deployment", "StatefulSet"):
        assert each["spec"]["replicas"] == 1
    assert len(rendered.of("Deployment")) == 5
    assert rendered.names("StatefulSet") == {"allotment-postgresql", "allotment-minio"}


def test_a_gateway_that_is_off_leaves_nothing_behind() -> None:
    for item in render(NO_GATEWAY).objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/component"] not in ("gateway", "test")

"""A release's life: rendering it twice, beside another one, installing and removing it."""

import re

import pytest
import yaml

from allotment_allocator.install.config import InstallConfig
from allotment_core.config import load
from allotment_testkit.chart import CHART, HOOK, Json, environment_of, render, render_afresh
from allotment_testkit.chart_forms import CERT_MANAGER, FORMS, GIVEN_ISSUER, GRPC_ROUTE, TENANTS

GRACE = "helm.sh/hook-delete-policy"


def test_the_chart_asks_for_nothing_that_only_one_helm_knows() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["apiVersion"] == "v2"
    assert chart["appVersion"] == "0.1.0"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rendering_is_the_same_each_time(form: str) -> None:
    assert render_afresh(FORMS[form]).text == render(FORMS[form]).text


def test_templates_look_nothing_up_and_draw_nothing() -> None:
    for path in (CHART / "templates").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"\b(lookup|rand\w+|gen\w+|now|uuidv4|htpasswd)\b", text), path


@pytest.mark.parametrize("form", ["default", "namespaces made beforehand and pull secrets"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("allotment", "allotment"), ("allotment", "second")),
        (("allotment", "allotment"), ("second", "allotment")),
        (("b-c", "a"), ("c", "a-b")),
    ],
)
def test_two_releases_in_one_cluster_do_not_meet(
    one: tuple[str, str], other: tuple[str, str], form: str
) -> None:
    def keys(release: str, namespace: str) -> set[tuple[str, str | None, str]]:
        values = FORMS[form]
        if form != "default":
            values = {**values, "tenants": {"acme": {"namespace": f"{namespace}-{release}-acme"}}}
        return {
            (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"])
            for o in render(values, release, namespace).objects
        }

    assert not keys(*one) & keys(*other)


def test_everything_in_a_namespace_begins_with_the_releases_name() -> None:
    for item in render(release="ml", namespace="team").objects:
        name = item["metadata"]["name"]
        if item["metadata"].get("namespace") == "team":
            assert name.startswith("ml"), name
        else:
            # Cluster-wide, or the right to tell of nodes, whose events are in `default` alone.
            told = item["metadata"].get("namespace") == "default"
            assert not told or item["kind"] in ("Role", "RoleBinding"), name
            assert told or "namespace" not in item["metadata"], name
            assert name.startswith("team.ml-"), name


def test_names_that_scripts_rely_on() -> None:
    rendered = render()
    assert {f"allotment-{name}" for name in ("dataset", "controller", "allocator", "exporter")} < (
        rendered.names("Service")
    )
    gateway = rendered.one("Service", "allotment-gateway")["spec"]
    assert gateway["type"] == "ClusterIP"
    assert gateway["ports"] == [{"name": "grpc", "port": 443, "targetPort": "grpc"}]
    assert rendered.one("Service", "allotment-postgresql")["spec"]["ports"][0]["port"] == 5432
    assert rendered.one("Service", "allotment-minio")["spec"]["ports"][0]["port"] == 9000
    for name in ("dataset", "controller", "allocator", "exporter"):
        service = rendered.one("Service", f"allotment-{name}")["spec"]
        assert service["clusterIP"] == "None"
        assert [port["port"] for port in service["ports"]] == [8443, 8444]
    image = rendered.one("StatefulSet", "allotment-postgresql")["spec"]["template"]["spec"]
    assert image["containers"][0]["image"].startswith("postgres:")


def test_images_of_stores_are_the_values_alone() -> None:
    rendered = render({"postgresql": {"image": "postgres:15-test"}, "minio": {"image": "m:test"}})
    for name, image in (("postgresql", "postgres:15-test"), ("minio", "m:test")):
        spec = rendered.one("StatefulSet", f"allotment-{name}")["spec"]["template"]["spec"]
        assert spec["containers"][0]["image"] == image


def hooks(objects: tuple[Json, ...]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for item in objects:
        when = item["metadata"].get("annotations", {}).get(HOOK)
        if when:
            found.setdefault(when, []).append(item)
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_hooks_have_what_they_need_before_they_run(form: str) -> None:
    found = hooks(render(FORMS[form]).objects)
    assert {"pre-install,pre-upgrade", "post-delete"} <= found.keys()
    for when in ("pre-install,pre-upgrade", "post-delete"):
        weights = {
            item["kind"]: int(item["metadata"]["annotations"]["helm.sh/hook-weight"])
            for item in found[when]
        }
        assert weights["Job"] == max(weights.values())
        assert weights["ServiceAccount"] < weights["RoleBinding"] < weights["Job"]
        assert weights["Role"] < weights["RoleBinding"]


def test_nothing_of_a_removal_stays_even_when_it_fails() -> None:
    found = hooks(render().objects)
    for item in found["post-delete"]:
        policy = item["metadata"]["annotations"][GRACE]
        assert policy == "before-hook-creation,hook-succeeded,hook-failed"
    for item in found["pre-install,pre-upgrade"]:
        # Why it failed has to be read.
        assert item["metadata"]["annotations"][GRACE] == "before-hook-creation,hook-succeeded"


def test_a_removal_is_bounded() -> None:
    spec = render().one("Job", "allotment-uninstall")["spec"]
    assert spec["activeDeadlineSeconds"] == 60
    assert spec["backoffLimit"] == 0


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_jobs_read_what_the_chart_sets(form: str) -> None:
    rendered = render(FORMS[form])
    jobs = [rendered.one("Job", f"allotment-{verb}") for verb in ("install", "uninstall")]
    templates = [job["spec"]["template"] for job in jobs]
    rotate = rendered.find("CronJob", "allotment-rotate")
    if rotate is not None:
        templates.append(rotate["spec"]["jobTemplate"]["spec"]["template"])
    for template in templates:
        config = load(InstallConfig, environment_of(template), "ALLOTMENT_INSTALL_")
        assert (config.release, config.namespace) == ("allotment", "allotment")
        [container] = template["spec"]["containers"]
        assert container["command"][:4] == ["python", "-P", "-m", "allotment_allocator.install"]


def test_defaults_of_the_jobs_are_their_own() -> None:
    env = environment_of(render().one("Job", "allotment-install")["spec"]["template"])
    config = load(InstallConfig, env, "ALLOTMENT_INSTALL_")
    plain = InstallConfig(release="allotment", namespace="allotment", postgresql=True, minio=True)
    assert config == plain


def test_certificates_name_what_services_are_called_by() -> None:
    """Those of cert-manager and our own are for the same names."""
    values = {"certificates": {"mode": "cert-manager", "serverNames": ["10.0.0.7", "ml.example"]}}
    rendered = render(values)
    env = environment_of(rendered.one("Job", "allotment-install")["spec"]["template"])
    config = load(InstallConfig, env, "ALLOTMENT_INSTALL_")
    for certificate in rendered.of("Certificate"):
        service = certificate["metadata"]["labels"]["app.kubernetes.io/component"]
        spec = certificate["spec"]
        assert {*spec["dnsNames"], *spec["ipAddresses"]} == set(config.names_of(service))


def install(values: Json | None = None, job: str = "allotment-install") -> dict[str, str]:
    env = environment_of(render(values).one("Job", job)["spec"]["template"])
    return {
        name.removeprefix("ALLOTMENT_INSTALL_"): value
        for name, value in env.items()
        if name.startswith("ALLOTMENT_INSTALL_")
    }


def test_what_is_made_at_install_is_what_the_values_say() -> None:
    plain = install()
    assert plain["CERTIFICATES"] == "own"
    assert (plain["POSTGRESQL"], plain["MINIO"]) == ("true", "true")
    assert plain["SERVICES"] == "dataset,controller,allocator,exporter,gateway"
    assert (plain["DELETE_STORES"], plain["CA_CONFIG_MAP"]) == ("false", "false")
    assert install(dict(CERT_MANAGER))["CERTIFICATES"] == "cert-manager"
    assert install(dict(GIVEN_ISSUER))["CERTIFICATES"] == "none"
    changed = install(
        {
            **GRPC_ROUTE,
            **TENANTS,
            "gateway": {"enabled": False},
            "minio": {"enabled": False},
            "persistence": {"deleteOnUninstall": True},
            "dedicatedNodes": {"enabled": True},
            "certificates": {"serverNames": ["10.0.0.7", "ml.example.com"], "days": 7,
                             "renewBeforeDays": 2},
        }
    )  # fmt: skip
    assert changed["MINIO"] == "false"
    assert changed["SERVICES"] == "dataset,controller,allocator,exporter"
    assert changed["SERVER_NAMES"] == "10.0.0.7,ml.example.com"
    assert (changed["CERTIFICATE_DAYS"], changed["RENEW_DAYS"]) == ("7", "2")
    assert changed["DELETE_STORES"] == changed["CA_CONFIG_MAP"] == "true"
    assert changed["DEDICATED_NODES"] == "true"
    assert changed["TENANT_NAMESPACES"] == '{"acme":"team-acme"}'
    assert install(None, "allotment-uninstall") == plain


def test_certificates_are_looked_at_each_day_unless_somebody_else_does() -> None:
    job = render().one("CronJob", "allotment-rotate")["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    [container] = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][-1] == "rotate"
    assert render(GIVEN_ISSUER).find("CronJob", "allotment-rotate") is None


def test_the_test_runs_a_search_as_a_client_does() -> None:
    pod = render().one("Pod", "allotment-test")
    assert pod["metadata"]["annotations"][HOOK] == "test"
    [container] = pod["spec"]["containers"]
    env = {each["name"]: each for each in container["env"]}
    assert env["ALLOTMENT_SERVER"]["value"] == "allotment-gateway:443"
    token = {"name": "allotment-admin", "key": "token"}
    assert env["ALLOTMENT_TOKEN"]["valueFrom"]["secretKeyRef"] == token
    assert pod["spec"]["volumes"][1]["secret"]["secretName"] == "allotment-ca"
    script = (CHART / "files" / "experiment.py").read_text()
    assert [line.rstrip() for line in container["args"][0].splitlines()] == script.splitlines()
    compile(container["args"][0], "experiment", "exec")


def test_no_pod_holds_a_password_as_text() -> None:
    for name, template in render().pods():
        [container] = template["spec"]["containers"]
        for each in container.get("env", ()):
            if re.search("PASSWORD|TOKEN$|ROOT_USER", each["name"]):
                assert "secretKeyRef" in each["valueFrom"], name

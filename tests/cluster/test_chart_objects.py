"""What the chart renders, on a real API server: taken as it is, and fenced as it says."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest
import yaml

from allotment_testkit.chart import CHART, Json, render, why_no_helm
from allotment_testkit.chart_forms import FORMS
from allotment_testkit.cluster_allocator import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]
RELEASE = "fenced"
DRY = "--dry-run=server"
POD: Json = {
    "restartPolicy": "Never",
    "nodeSelector": {"nowhere": "true"},
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "idle",
            "image": "idle:1",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}
"""One that no node takes."""


@pytest.fixture(scope="module", autouse=True)
def _helm() -> None:
    reason = why_no_helm()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def home(kube: Kube) -> Iterator[str]:
    """A namespace that takes restricted pods alone."""
    name = f"home-{uuid.uuid4().hex[:6]}"
    standard = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    kube.apply(namespace(name, standard))
    yield name
    kube.run("delete", "namespace", name, "--wait=false")


def namespace(name: str, labels: dict[str, str]) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_api_server_takes_every_object_without_a_warning(
    kube: Kube, home: str, form: str
) -> None:
    if not kube.run("get", "crd", "certificates.cert-manager.io", check=False):
        pytest.skip("the cluster doesn't know the kinds of cert-manager, Gateway API and so on")
    rendered = render(FORMS[form], RELEASE, home)
    missing = {
        tenant["namespace"]
        for tenant in FORMS[form].get("tenants", {}).values()
        if tenant.get("namespace")
    }
    for name in missing:
        kube.apply(namespace(name, {}))
    done = subprocess.run(
        ["kubectl", "apply", "--dry-run=server", "-f", "-"],
        input=rendered.text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert len(done.stdout.splitlines()) == len(rendered.objects)


@pytest.fixture(scope="module")
def default_home(kube: Kube) -> Iterator[None]:
    """The namespace of k8s/, for as long as it is not there anyway."""
    if kube.run("get", "namespace", "allotment", "--ignore-not-found"):
        yield
        return
    kube.apply(namespace("allotment", {}))
    yield
    kube.run("delete", "namespace", "allotment", "--wait=false")


@pytest.mark.usefixtures("default_home")
@pytest.mark.parametrize("folder", ["try-out", "base", "uninstall"])
def test_the_api_server_takes_what_kustomize_builds(kube: Kube, folder: str) -> None:
    built = kube.run("kustomize", str(CHART.parents[1] / "k8s" / folder))
    objects = [each for each in yaml.safe_load_all(built) if each]
    accepted = kube.run("apply", "--dry-run=server", "-f", "-", stdin=built).splitlines()
    assert len(accepted) == len(objects)
    assert "helm" not in built
    stores = {o["metadata"]["name"] for o in objects if o["kind"] == "StatefulSet"}
    assert stores == ({"allotment-postgresql", "allotment-minio"} if folder == "try-out" else set())


class Fenced:
    """The rights and policies of a release, and calls by its accounts."""

    def __init__(self, kube: Kube, home: str) -> None:
        self.kube, self.home = kube, home
        self.tag = uuid.uuid4().hex[:6]
        values = {"dedicatedNodes": {"enabled": True}}
        rights = ("ClusterRole", "ClusterRoleBinding", "ServiceAccount")
        fences = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        self.objects = render(values, RELEASE, home).of(*rights, *fences)
        kube.apply(*self.objects)

    def tenants(self, **changes: str) -> dict[str, str]:
        """The labels of a namespace of a tenant."""
        return {
            "app.kubernetes.io/part-of": "allotment",
            "app.kubernetes.io/instance": RELEASE,
            "allotment.dev/home": self.home,
            "allotment.dev/tenant": "acme",
            "pod-security.kubernetes.io/enforce": "restricted",
            **changes,
        }

    def made(self, suffix: str, labels: dict[str, str]) -> str:
        """A namespace that an administrator has made."""
        name = f"{RELEASE}-{suffix}-{self.tag}"
        self.kube.apply(namespace(name, labels))
        return name

    def binding(self, where: str, role: str = "", account: str = "") -> Json:
        return {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "allotment-allocator", "namespace": where},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": role or f"{self.home}.{RELEASE}-tenant",
            },
            "subjects": [
                {
                    "kind": "ServiceAccount",
                    "name": account or f"{RELEASE}-allocator",
                    "namespace": self.home,
                }
            ],
        }

    def remove(self) -> None:
        selector = f"app.kubernetes.io/instance={RELEASE}"
        for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            self.kube.run("delete", kind, "-l", selector)
        for kind in ("clusterrolebindings", "clusterroles"):
            self.kube.run("delete", kind, "-l", selector)
        for found in self.kube.get("namespaces"):
            name = found["metadata"]["name"]
            if name.startswith(f"{RELEASE}-") and name.endswith(self.tag):
                self.kube.run("delete", "namespace", name, "--wait=false")

    def refusal(self, *command: str, account: str = "allocator", stdin: Json | None = None) -> str:
        """What the API server said to this account of ours; empty: it was done."""
        user = f"system:serviceaccount:{self.home}:{RELEASE}-{account}"
        done = subprocess.run(
            ["kubectl", f"--as={user}", *command],
            input=None if stdin is None else json.dumps(stdin),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def fenced(kube: Kube, home: str) -> Iterator[Fenced]:
    found = Fenced(kube, home)
    # A policy counts from the moment that the API server has read it, within seconds.
    foreign = found.made("foreign", {})
    deadline = time.monotonic() + 30
    while "ValidatingAdmissionPolicy" not in found.refusal("delete", "namespace", foreign, DRY):
        assert time.monotonic() < deadline, "the policies never took effect"
        time.sleep(0.2)
    yield found
    found.remove()


def test_the_allocator_makes_and_removes_namespaces_of_its_tenants(fenced: Fenced) -> None:
    name = f"{RELEASE}-acme-{fenced.tag}"
    made = namespace(name, fenced.tenants())
    assert fenced.refusal("create", "-f", "-", stdin=made) == ""
    assert fenced.refusal("create", "-f", "-", stdin=fenced.binding(name)) == ""
    assert fenced.refusal("delete", "namespace", name, "--wait=false") == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"allotment.dev/tenant": ""},
        {"allotment.dev/home": "elsewhere"},
        {"app.kubernetes.io/instance": "another"},
        {"pod-security.kubernetes.io/enforce": "privileged"},
    ],
    ids=str,
)
def test_a_namespace_that_is_not_a_fenced_tenants_is_not_made(
    fenced: Fenced, changes: dict[str, str]
) -> None:
    made = namespace(f"{RELEASE}-odd-{fenced.tag}", fenced.tenants(**changes))
    assert "labelled as that of a tenant" in fenced.refusal("create", "-f", "-", DRY, stdin=made)


@pytest.mark.parametrize("account", ["allocator", "uninstall"])
def test_no_other_namespace_is_removed(fenced: Fenced, account: str) -> None:
    for name in (fenced.made("others", {}), fenced.home):
        said = fenced.refusal("delete", "namespace", name, DRY, account=account)
        assert "ValidatingAdmissionPolicy" in said


@pytest.mark.parametrize("account", ["allocator", "uninstall"])
def test_another_releases_tenants_stay(fenced: Fenced, account: str) -> None:
    labels = fenced.tenants(**{"allotment.dev/home": "elsewhere"})
    name = fenced.made(f"theirs-{account}", labels)
    said = fenced.refusal("delete", "namespace", name, DRY, account=account)
    assert "tenants may" in said


@pytest.mark.parametrize("name", ["kube-system", "default"])
def test_rights_are_given_in_no_other_namespace(fenced: Fenced, name: str) -> None:
    said = fenced.refusal("create", "-f", "-", DRY, stdin=fenced.binding(name))
    assert "namespaces of this release's tenants alone" in said


def test_rights_are_given_to_nobody_else_and_are_no_others(fenced: Fenced) -> None:
    name = fenced.made("tenant", fenced.tenants())
    assert fenced.refusal("create", "-f", "-", DRY, stdin=fenced.binding(name)) == ""
    other = fenced.binding(name, account="default")
    assert "for itself alone" in fenced.refusal("create", "-f", "-", DRY, stdin=other)
    # RBAC itself refuses: there is a right to bind one role.
    admin = fenced.binding(name, role="cluster-admin")
    assert "forbidden" in fenced.refusal("create", "-f", "-", DRY, stdin=admin)


@pytest.mark.parametrize("account", ["allocator", "uninstall"])
def test_nodes_get_labels_and_taints_of_ours_alone(
    kube: Kube, fenced: Fenced, account: str
) -> None:
    node = kube.get("nodes")[0]["metadata"]["name"]
    patch = ["patch", "node", node, DRY, "--type=merge", "-p"]

    def said(change: Json) -> str:
        return fenced.refusal(*patch, json.dumps(change), account=account)

    taint = {"key": "allotment.dev/dedicated", "value": "acme", "effect": "NoSchedule"}
    kept = kube.get("node", node)[0]["spec"].get("taints", [])
    assert said({"metadata": {"labels": {"allotment.dev/dedicated": "acme"}}}) == ""
    assert said({"spec": {"taints": [*kept, taint]}}) == ""
    assert "labels allotment.dev/*" in said({"metadata": {"labels": {"role": "master"}}})
    assert "labels allotment.dev/*" in said({"metadata": {"labels": {"kubernetes.io/os": None}}})
    foreign = {"key": "node.example.com/away", "effect": "NoExecute"}
    assert "taints allotment.dev/*" in said({"spec": {"taints": [*kept, foreign]}})
    assert "taints allotment.dev/*" in said({"spec": {"unschedulable": True}})


def test_the_removal_touches_no_pod_or_job_of_others(kube: Kube, fenced: Fenced) -> None:
    for kind, spec in (("Pod", POD), ("Job", {"template": {"spec": POD}, "suspend": True})):
        for labels, refused in (({}, True), (fenced.tenants(), False)):
            name = f"{kind.lower()}-{'theirs' if refused else 'ours'}"
            version = "v1" if kind == "Pod" else "batch/v1"
            metadata = {"name": name, "namespace": fenced.home, "labels": labels}
            kube.apply({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
            command = ["delete", kind.lower(), name, "-n", fenced.home, DRY]
            said = fenced.refusal(*command, account="uninstall")
            assert bool(said) is refused, said


def test_the_allocator_reads_no_secret_anywhere(kube: Kube, fenced: Fenced) -> None:
    user = f"system:serviceaccount:{fenced.home}:{RELEASE}-allocator"
    for where in (["-A"], ["-n", fenced.home], ["-n", "kube-system"]):
        for verb in ("get", "list", "create"):
            answer = kube.run("auth", "can-i", verb, "secrets", f"--as={user}", *where, check=False)
            assert answer.strip() == "no", (verb, where)

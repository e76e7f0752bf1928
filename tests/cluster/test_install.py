"""The chart's Jobs on a real API server, as processes with the rights that the chart gives them."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from allotment_testkit.cluster_allocator import Kube

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "allotment"
SETTLED_S = 15.0
"""Until a new policy is in force, at most."""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


class Release:
    """A release of which nothing is there but what a hook brings."""

    def __init__(self, kube: Kube, folder: Path, home: str) -> None:
        self.kube = kube
        self.home = home
        self.name = f"r{uuid.uuid4().hex[:6]}"
        self._folder = folder
        self.values: list[str] = []

    def render(self, template: str) -> list[Json]:
        """The hook's objects but for its Job."""
        values = [part for value in self.values for part in ("--set", value)]
        shown = f"templates/install/{template}.yaml"
        command = ["helm", "template", self.name, str(CHART), "-n", self.home, "-s", shown, *values]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        printed = self.kube.run(
            "create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", stdin=text
        )
        objects, at = [], 0
        decoder = json.JSONDecoder()
        while at < len(printed.rstrip()):
            found, at = decoder.raw_decode(printed, at)
            objects += found.get("items", [found])
            at += len(printed[at:]) - len(printed[at:].lstrip())
        return objects

    def run(self, verb: str) -> subprocess.CompletedProcess[str]:
        """As the Job does: its account, its settings, its rights."""
        objects = self.render(verb)
        if verb == "rotate":
            objects += [self._account("rotate")]
        job = next(o for o in objects if o["kind"] in ("Job", "CronJob"))
        self.kube.apply(*[o for o in objects if o is not job])
        pod = job["spec"].get("jobTemplate", job)
        pod = (
            pod["spec"].get("template", pod)
            if job["kind"] == "CronJob"
            else job["spec"]["template"]
        )
        settings = {e["name"]: e["value"] for e in pod["spec"]["containers"][0]["env"]}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ALLOTMENT_")}
        settings["ALLOTMENT_INSTALL_KUBECONFIG"] = str(self._kubeconfig(verb))
        return subprocess.run(
            [sys.executable, "-P", "-m", "allotment_allocator.install", verb],
            env={**inherited, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def secret(self, kind: str) -> dict[str, bytes]:
        [found] = self.kube.get("secret", f"{self.name}-{kind}", "-n", self.home)
        return {key: base64.b64decode(value) for key, value in found["data"].items()}

    def secrets(self) -> set[str]:
        found = self.kube.get("secrets", "-n", self.home)
        names = [item["metadata"]["name"] for item in found]
        return {n.removeprefix(f"{self.name}-") for n in names if n.startswith(self.name)}

    def _account(self, verb: str) -> Json:
        metadata = {"name": f"{self.name}-{verb}", "namespace": self.home}
        return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}

    def _kubeconfig(self, verb: str) -> Path:
        """The administrator's, with the account's token in place of his certificate."""
        token = self.kube.run("create", "token", f"{self.name}-{verb}", "-n", self.home).strip()
        config = json.loads(self.kube.run("config", "view", "--raw", "--flatten", "-o", "json"))
        for user in config["users"]:
            user["user"] = {"token": token}
        path = self._folder / f"{verb}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path


@pytest.fixture
def release(kube: Kube, tmp_path: Path) -> Iterator[Release]:
    if shutil.which("helm") is None:
        pytest.skip("helm is not on the PATH")
    home = f"home-{uuid.uuid4().hex[:6]}"
    kube.run("create", "namespace", home)
    made = Release(kube, tmp_path, home)
    yield made
    kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies"
    kube.run(
        "delete",
        f"{kinds},validatingadmissionpolicybindings",
        "-l",
        f"app.kubernetes.io/instance={made.name}",
    )
    kube.run("delete", "namespace", home, "--wait=false")


def test_install_makes_everything_once_and_rotation_renews_what_ends(release: Release) -> None:
    first = release.run("install")
    assert first.returncode == 0, first.stderr
    leaves = {f"{s}-tls" for s in ("dataset", "controller", "allocator", "exporter", "gateway")}
    others = {"ca", "ca-key", "signing-key", "admin", "postgresql", "minio"}
    assert release.secrets() == leaves | others
    assert set(release.secret("ca")) == {"ca.crt"}
    before = {kind: release.secret(kind) for kind in leaves | others}
    again = release.run("install")
    assert again.returncode == 0, again.stderr
    assert {kind: release.secret(kind) for kind in leaves | others} == before

    release.values = ["certificates.days=500", "certificates.renewBeforeDays=400"]
    rotated = release.run("rotate")
    assert rotated.returncode == 0, rotated.stderr
    changed = {kind for kind in leaves | others if release.secret(kind) != before[kind]}
    assert changed == leaves
    certificate = x509.load_pem_x509_certificate(release.secret("gateway-tls")["tls.crt"])
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 500
    assert release.secret("gateway-tls")["ca.crt"] == before["ca"]["ca.crt"]


def test_what_people_made_stays_theirs(release: Release, kube: Kube) -> None:
    name = f"{release.name}-postgresql"
    kube.run("create", "secret", "generic", name, "-n", release.home, "--from-literal=password=x")
    assert release.run("install").returncode == 0
    assert release.secret("postgresql") == {"password": b"x"}
    removed = release.run("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert release.secrets() == {"postgresql", "minio"}


def test_a_kept_volume_without_its_password_stops_the_install(release: Release, kube: Kube) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": f"data-{release.name}-postgresql-0", "namespace": release.home},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "none",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    kube.apply(claim)
    refused = release.run("install")
    assert refused.returncode == 1
    assert "KEPT_VOLUME_WITHOUT_PASSWORD" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert release.secrets() == set()


def labelled(release: Release, tenant: str = "", **more: str) -> dict[str, str]:
    labels = {
        "app.kubernetes.io/part-of": "allotment",
        "app.kubernetes.io/instance": release.name,
        "allotment.dev/home": release.home,
        **{f"allotment.dev/{key}": value for key, value in more.items()},
    }
    return labels | ({"allotment.dev/tenant": tenant} if tenant else {})


def namespace(name: str, labels: dict[str, str]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }


def trainer(name: str, place: str, labels: dict[str, str]) -> Json:
    """A Job as a lease has it, with a pod that nobody ever runs."""
    container = {"name": "trainer", "image": "none:none"}
    pod = {
        "metadata": {"labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"nobody": "has-this"},
            "containers": [container],
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": place, "labels": labels},
        "spec": {"backoffLimit": 0, "template": pod},
    }


def names(kube: Kube, *what: str) -> set[str]:
    return {item["metadata"]["name"] for item in kube.get(*what)}


def wait_for_pods(kube: Kube, place: str, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(kube.get("pods", "-n", place)) != count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_uninstall_removes_what_is_the_releases_and_nothing_else(
    release: Release, kube: Kube
) -> None:
    made, given, other = (f"{release.name}-{kind}" for kind in ("acme", "given", "other"))
    lease = labelled(release, "acme", lease="l1")
    theirs = {**lease, "app.kubernetes.io/instance": "another"}
    kube.apply(namespace(made, labelled(release, "acme")))
    kube.apply(namespace(given, {"allotment.dev/tenant": "given"}))
    kube.apply(namespace(other, {**labelled(release, "x"), "allotment.dev/home": "elsewhere"}))
    for place, labels in ((made, lease), (given, lease), (given, theirs), (other, theirs)):
        mark = labels["app.kubernetes.io/instance"]
        kube.apply(trainer(f"t-{mark}", place, labels))
    kube.run("create", "configmap", "allotment-ca", "-n", given)
    kube.run("create", "configmap", "mine", "-n", given)
    for place, count in ((made, 1), (given, 2), (other, 1)):
        wait_for_pods(kube, place, count)
    release.values = [f"tenants.given.namespace={given}", "dedicatedNodes.enabled=true"]
    node = f"{release.name}-node"
    dedicated = {"dedicated": "acme", "release": release.name, "home": release.home}
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": node,
                "labels": {f"allotment.dev/{k}": v for k, v in dedicated.items()} | {"x": "y"},
            },
            "spec": {
                "taints": [
                    {"key": "allotment.dev/dedicated", "value": "acme", "effect": "NoSchedule"},
                    {"key": "theirs", "value": "", "effect": "NoSchedule"},
                ]
            },
        }
    )
    assert release.run("install").returncode == 0
    hook = {**labelled(release), "app.kubernetes.io/component": "install"}
    kube.apply(trainer("failed-hook", release.home, hook))
    another = {**hook, "app.kubernetes.io/instance": "another"}
    kube.apply(trainer("their-hook", release.home, another))

    begun = time.monotonic()
    removed = release.run("uninstall")
    took = time.monotonic() - begun
    assert removed.returncode == 0, removed.stderr
    assert took < 60
    assert made not in names(kube, "namespaces")
    assert names(kube, "jobs", "-n", given) == {"t-another"}
    assert names(kube, "jobs", "-n", release.home) >= {"their-hook"}
    assert "failed-hook" not in names(kube, "jobs", "-n", release.home)
    assert len(kube.get("pods", "-n", given)) == 1
    assert names(kube, "jobs", "-n", other) == {"t-another"}
    kept = names(kube, "configmaps", "-n", given)
    assert "mine" in kept
    assert "allotment-ca" not in kept
    assert release.secrets() == {"postgresql", "minio"}
    [given_back] = kube.get("node", node)
    assert "allotment.dev" not in json.dumps(given_back["metadata"]["labels"])
    assert given_back["metadata"]["labels"]["x"] == "y"
    keys = {taint["key"] for taint in given_back["spec"]["taints"]}
    assert "theirs" in keys
    assert "allotment.dev/dedicated" not in keys
    kube.run("delete", "node", node)
    kube.run("delete", "namespace", given, other, "--wait=false")
    release.values = ["persistence.deleteOnUninstall=true"]
    assert release.run("uninstall").returncode == 0
    assert release.secrets() == set()


def test_uninstall_can_delete_nothing_of_others(release: Release, kube: Kube) -> None:
    """The policies that come with it fence its rights."""
    place = f"{release.name}-others"
    kube.apply(namespace(place, {"allotment.dev/tenant": "acme"}))
    kube.apply(trainer("theirs", place, {"app.kubernetes.io/part-of": "allotment"}))
    assert release.run("uninstall").returncode == 0
    as_account = f"--as=system:serviceaccount:{release.home}:{release.name}-uninstall"
    deadline = time.monotonic() + SETTLED_S
    for what in (("job", "theirs", "-n", place), ("namespace", place)):
        while True:
            # A server that has not taken the policies over yet would do it: it is only asked.
            tried = ("delete", *what, "--dry-run=server", as_account)
            said = subprocess.run(["kubectl", *tried], capture_output=True, text=True, check=False)
            if said.returncode:
                break
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "may go" in said.stderr
    kube.run("delete", "namespace", place, "--wait=false")

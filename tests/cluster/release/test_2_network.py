"""What a pod in a tenant's namespace reaches, and what not: tried by real pods."""

import base64
import json
import os
from typing import Any

import pytest

from allotment_core.errors import Unauthenticated
from allotment_testkit.release import TAG, Access, Release, eventually, kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
PROBE = "probe"
TRY = """
import json, socket, sys
found = {}
for target in sys.argv[1:]:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=4).close()
        found[target] = "reached"
    except OSError as e:
        found[target] = type(e).__name__
print(json.dumps(found))
"""


def trainer_like(release: Release, namespace: str, name: str, program: str, *more: str) -> Any:
    """A pod with a trainer's labels and image; it keeps every rule of its namespace."""
    image = f"allotment/trainer:{os.environ[TAG]}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/part-of": "allotment",
                "app.kubernetes.io/instance": release.name,
                "app.kubernetes.io/component": "trainer",
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "allotment-trainer",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "command": ["python", "-c", program, *more],
                    "resources": {
                        "requests": {"cpu": "50m", "memory": "64Mi"},
                        "limits": {"cpu": "1", "memory": "256Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def outcome(release: Release, namespace: str, *targets: str) -> dict[str, str]:
    """What the pod found about each host:port."""
    kubectl(
        "apply", "-f", "-", text=json.dumps(trainer_like(release, namespace, PROBE, TRY, *targets))
    )
    try:
        eventually(
            "the probe has ended",
            lambda: (
                kubectl(
                    "get", "pod", PROBE, "--namespace", namespace, "-o", "jsonpath={.status.phase}"
                )
                in ("Succeeded", "Failed")
            ),
            90.0,
        )
        found: dict[str, str] = json.loads(kubectl("logs", PROBE, "--namespace", namespace))
        return found
    finally:
        kubectl("delete", "pod", PROBE, "--namespace", namespace, "--wait=true", "--grace-period=1")


def test_only_what_a_trainer_needs_is_reached(release: Release, access: Access) -> None:
    with access.client() as client:
        client.tenants.create("other")
    eventually(
        "the tenant's namespace is there",
        lambda: kubectl("get", "namespace", f"{release.name}-default", "--ignore-not-found"),
        30.0,
    )
    home = f"{release.namespace}.svc.cluster.local"
    allowed = [f"{release.name}-{service}.{home}:8443" for service in ("controller", "dataset")]
    api = json.loads(kubectl("get", "endpoints", "kubernetes", "-o", "json"))["subsets"][0]
    api_server = f"{api['addresses'][0]['ip']}:{api['ports'][0]['port']}"
    forbidden = [
        "kubernetes.default.svc.cluster.local:443",
        api_server,
        f"{release.name}-postgresql.{home}:5432",
        f"{release.name}-minio.{home}:9000",
        f"{release.name}-allocator.{home}:8443",
        f"{release.name}-exporter.{home}:8443",
        f"{release.name}-controller.{home}:8444",
        f"{release.name}-controller.{home}:9090",
    ]
    found = outcome(release, f"{release.name}-default", *allowed, *forbidden)
    assert {target: found[target] for target in allowed} == dict.fromkeys(allowed, "reached")
    assert {t: how for t, how in found.items() if how == "reached" and t in forbidden} == {}


def test_the_policies_are_what_keeps_it_from_them(release: Release) -> None:
    """The same probe outside a tenant's namespace reaches the API server: the network does work."""
    kubectl("create", "namespace", "probe-outside")
    try:
        body = trainer_like(release, "probe-outside", PROBE, TRY)
        body["spec"]["serviceAccountName"] = "default"
        targets = ["kubernetes.default.svc.cluster.local:443"]
        body["spec"]["containers"][0]["command"] += targets
        eventually("the account is there", lambda: kubectl("get", "sa", "-n", "probe-outside"), 20)
        kubectl("apply", "-f", "-", text=json.dumps(body))
        eventually(
            "the probe has ended",
            lambda: (
                kubectl(
                    "get", "pod", PROBE, "-n", "probe-outside", "-o", "jsonpath={.status.phase}"
                )
                == "Succeeded"
            ),
            90.0,
        )
        assert json.loads(kubectl("logs", PROBE, "-n", "probe-outside")) == {targets[0]: "reached"}
    finally:
        kubectl("delete", "namespace", "probe-outside", "--wait=false")


def test_a_trainers_token_is_no_client_token(release: Release) -> None:
    """A pod's own token doesn't open what belongs to people."""
    token = kubectl(
        *("create", "token", "allotment-trainer", "--namespace", f"{release.name}-default"),
        *("--audience", "allotment"),
    ).strip()
    assert base64.urlsafe_b64decode(token.split(".")[1] + "==")
    with release.forwarded("gateway", 443) as address:
        settings = {**release.environment(address), "ALLOTMENT_TOKEN": token}
        with Access(environment=settings).client() as client, pytest.raises(Unauthenticated):
            list(client.experiments.list())

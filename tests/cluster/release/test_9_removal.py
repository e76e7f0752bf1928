"""`helm uninstall` leaves volumes and their passwords; a new installation takes them over."""

import json
import time

import pytest

from allotment_testkit.release import Access, Release, eventually, kubectl, objects

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def left(release: Release) -> list[str]:
    """Pods of the release, tenants' namespaces, and what it had cluster-wide."""
    found = [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in objects("pods", "--all-namespaces", "--selector", release.part_of)
    ]
    for kind in ("namespaces", "clusterroles", "clusterrolebindings"):
        found += [
            f"{kind}/{each['metadata']['name']}"
            for each in objects(kind, "--selector", release.part_of)
        ]
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    found += [
        f"node/{node['metadata']['name']}"
        for node in nodes
        if any("allotment.dev/dedicated" in str(x) for x in node["spec"].get("taints", ()))
    ]
    return found


def test_removed_and_installed_again(release: Release) -> None:
    with release.forwarded("gateway", 443) as address:
        access = Access(environment=release.environment(address))
        before = {e["name"] for e in json.loads(access.command("experiments", "--json"))}
    assert before
    began_s = time.monotonic()
    release.uninstall()
    assert time.monotonic() - began_s < 90.0
    eventually("nothing of the release is left", lambda: not left(release), 30.0)
    kept = {
        each["metadata"]["name"]
        for each in objects("secrets", "--namespace", release.namespace)
        if each["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") == "allotment"
    }
    assert kept == {f"{release.name}-postgresql", f"{release.name}-minio"}
    assert objects("persistentvolumeclaims", "--namespace", release.namespace)
    release.install()
    with release.forwarded("gateway", 443) as address:
        access = Access(environment=release.environment(address))
        after = {e["name"] for e in json.loads(access.command("experiments", "--json"))}
    assert before <= after

"""What tenants' namespaces hold."""

from typing import Any

import pytest

from allotment_allocator.adapters.kube.spaces import (
    SpaceRules,
    TenantSpaces,
    contents,
    namespace,
)
from allotment_core.names import TenantName

RULES = SpaceRules(release="allotment", home="allotment", account="alloc", tenant_role="r-tenant")
ACME = TenantName("acme")


class Recorder:
    """An API that takes everything."""

    def __init__(self) -> None:
        self.applied: list[str] = []
        self.deleted: list[str] = []

    async def patch(self, path: str, body: dict[str, Any], kind: str) -> dict[str, Any]:
        assert kind == "apply"
        self.applied.append(path)
        return body

    async def delete(self, path: str) -> bool:
        self.deleted.append(path)
        return True


def spaces(
    api: Recorder, rules: SpaceRules = RULES, now: list[float] | None = None
) -> TenantSpaces:
    clock = now or [0.0]
    return TenantSpaces(api, rules, lambda: "PEM", lambda: clock[0])  # type: ignore[arg-type]


async def test_a_namespace_is_made_once_and_looked_after_again_later() -> None:
    api, now = Recorder(), [0.0]
    tenants = spaces(api, now=now)
    await tenants.ensure(ACME)
    first = len(api.applied)
    assert api.applied[0] == "/api/v1/namespaces/allotment-acme"
    await tenants.ensure(ACME)
    assert len(api.applied) == first
    now[0] = 1000.0
    await tenants.ensure(ACME)
    assert len(api.applied) == 2 * first


async def test_a_namespace_made_beforehand_is_filled_but_never_made_or_removed() -> None:
    api = Recorder()
    tenants = spaces(
        api,
        SpaceRules(
            release="x",
            home="x",
            account="a",
            tenant_role="r",
            made_beforehand={"acme": "team-acme"},
        ),
    )
    await tenants.ensure(ACME)
    await tenants.remove(ACME)
    assert all(path.count("/namespaces/team-acme/") == 1 for path in api.applied)
    assert api.deleted == []


@pytest.mark.parametrize("tenant_id", ["a" * 63, "a" * 62 + "b", "acme2"])
def test_every_tenant_has_a_valid_name_of_its_own(tenant_id: str) -> None:
    tenants = spaces(Recorder())
    name = tenants.name_of(TenantName(tenant_id))
    assert len(name) <= 63
    assert name != tenants.name_of(ACME)
    assert name != tenants.name_of(TenantName("a" * 61 + "bc"))


def test_trainers_reach_the_controller_the_dataset_service_and_dns() -> None:
    made = {body["kind"]: body for _, body in contents(ACME, RULES, "PEM")}
    policy = made["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    reached = [str(rule["to"]) for rule in policy["egress"]]
    assert ["kube-system" in reached[0], "controller" in reached[1], "dataset" in reached[2]] == [
        True
    ] * 3
    assert len(reached) == 3


def test_there_are_no_secrets_but_the_one_that_pulls_images() -> None:
    bare = {body["kind"]: body for _, body in contents(ACME, RULES, "PEM")}
    assert "Secret" not in bare
    assert bare["ResourceQuota"]["spec"]["hard"]["count/secrets"] == "0"
    assert bare["ServiceAccount"]["automountServiceAccountToken"] is False


def test_pods_are_held_to_the_restricted_standard() -> None:
    labels = namespace("n", ACME, RULES)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["allotment.dev/tenant"] == "acme"

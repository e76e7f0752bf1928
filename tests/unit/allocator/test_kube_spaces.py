"""What tenants' namespaces hold."""

from dataclasses import replace
from typing import Any

import pytest

from allotment_allocator.adapters.kube.spaces import (
    SpaceRules,
    TenantSpaces,
    contents,
    namespace,
)
from allotment_core.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from allotment_core.names import TenantName

RULES = SpaceRules(release="allotment", home="home", account="alloc", tenant_role="r-tenant")
ACME, BETA = TenantName("acme"), TenantName("beta")


class Cluster:
    """An API server that has namespaces, and takes whatever is put into them."""

    def __init__(self, **there: dict[str, Any]) -> None:
        self.there = {name.replace("_", "-"): item for name, item in there.items()}
        self.applied: list[str] = []
        self.deleted: list[str] = []

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        name = path.removeprefix("/api/v1/namespaces").strip("/")
        if not name:
            return {"items": [i for i in self.there.values() if _selected(i, params)]}
        if name not in self.there:
            raise NotFound(f"there is no {name}")
        return self.there[name]

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/api/v1/namespaces"
        self.there[body["metadata"]["name"]] = body
        return body

    async def patch(self, path: str, body: dict[str, Any], kind: str) -> dict[str, Any]:
        assert kind == "apply"
        self.applied.append(path)
        return body

    async def delete(self, path: str) -> bool:
        self.deleted.append(path)
        return True


def _selected(item: dict[str, Any], params: dict[str, str]) -> bool:
    labels = item["metadata"]["labels"]
    wanted = [each.partition("=") for each in params["labelSelector"].split(",")]
    return all(key in labels and (not sign or labels[key] == v) for key, sign, v in wanted)


def item(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {}, **more}}


def spaces(
    api: Cluster,
    rules: SpaceRules = RULES,
    now: list[float] | None = None,
    ca: list[str] | None = None,
) -> TenantSpaces:
    clock, authority = now or [0.0], ca or ["PEM"]
    return TenantSpaces(api, rules, lambda: authority[0], lambda: clock[0])  # type: ignore[arg-type]


async def only_acme() -> list[TenantName]:
    return [ACME]


async def test_a_namespace_is_made_once_and_looked_after_again_later() -> None:
    api, now = Cluster(), [0.0]
    tenants = spaces(api, now=now)
    await tenants.ensure(ACME)
    first = len(api.applied)
    assert first > 0
    assert list(api.there) == ["allotment-acme"]
    await tenants.ensure(ACME)
    assert len(api.applied) == first
    now[0] = 1000.0
    await tenants.ensure(ACME)
    assert len(api.applied) == 2 * first
    tenants.doubt(ACME)
    await tenants.ensure(ACME)
    assert len(api.applied) == 3 * first


async def test_a_namespace_made_beforehand_is_filled_but_never_made_or_removed() -> None:
    rules = replace(RULES, made_beforehand={"acme": "team-acme", "beta": "team-beta"})
    labels = {"allotment.dev/tenant": "acme"}
    api = Cluster(team_acme=item("team-acme", labels=labels))
    tenants = spaces(api, rules)
    await tenants.ensure(ACME)
    assert all(path.count("/namespaces/team-acme/") == 1 for path in api.applied)

    async def none() -> list[TenantName]:
        return []

    await tenants.look(none)
    assert api.deleted == []
    with pytest.raises(FailedPrecondition, match="make it with the label"):
        await tenants.ensure(BETA)
    assert list(api.there) == ["team-acme"]


@pytest.mark.parametrize("labels", [{}, {"allotment.dev/tenant": "acme"}])
async def test_a_namespace_of_somebody_else_is_never_taken(labels: dict[str, str]) -> None:
    api = Cluster(allotment_acme=item("allotment-acme", labels=labels))
    with pytest.raises(FailedPrecondition, match="is not that of tenants/acme"):
        await spaces(api).ensure(ACME)
    assert api.applied == []


async def test_a_namespace_that_is_still_being_removed_is_waited_for() -> None:
    api = Cluster(allotment_acme=item("allotment-acme", deletionTimestamp="now"))
    with pytest.raises(Unavailable, match="still being removed"):
        await spaces(api).ensure(ACME)


async def test_namespaces_go_with_their_tenants_and_those_of_others_stay() -> None:
    api = Cluster()
    tenants = spaces(api)
    await tenants.ensure(ACME)
    await tenants.ensure(BETA)
    await spaces(api, replace(RULES, release="other")).ensure(BETA)
    await spaces(api, replace(RULES, release="third", home="elsewhere")).ensure(BETA)
    await tenants.look(only_acme)
    assert api.deleted == ["/api/v1/namespaces/allotment-beta"]


async def test_a_new_authority_reaches_every_namespace_at_once() -> None:
    api, ca = Cluster(), ["old"]
    tenants = spaces(api, ca=ca)
    await tenants.ensure(ACME)
    before = len(api.applied)
    await tenants.look(only_acme)
    assert len(api.applied) == before
    ca[0] = "new"
    await tenants.look(only_acme)
    assert any(path.endswith("/configmaps/allotment-ca") for path in api.applied[before:])


def test_two_tenants_never_share_a_namespace() -> None:
    with pytest.raises(InvalidArgument, match="two tenants"):
        replace(RULES, made_beforehand={"acme": "team", "beta": "team"})


@pytest.mark.parametrize("tenant_id", ["a" * 63, "a" * 62 + "b", "acme2"])
def test_every_tenant_has_a_valid_name_of_its_own(tenant_id: str) -> None:
    tenants = spaces(Cluster())
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


def test_dns_may_listen_elsewhere() -> None:
    rules = replace(
        RULES, dns_namespace="openshift-dns", dns_ports=(5353,), dns_addresses=("169.254.20.10/32",)
    )
    made = {body["kind"]: body for _, body in contents(ACME, rules, "PEM")}
    dns = made["NetworkPolicy"]["spec"]["egress"][0]
    assert {port["port"] for port in dns["ports"]} == {5353}
    assert "openshift-dns" in str(dns["to"][0])
    assert dns["to"][1] == {"ipBlock": {"cidr": "169.254.20.10/32"}}


def test_there_are_no_secrets_but_the_one_that_pulls_images() -> None:
    bare = {body["kind"]: body for _, body in contents(ACME, RULES, "PEM")}
    assert "Secret" not in bare
    assert bare["ResourceQuota"]["spec"]["hard"]["count/secrets"] == "0"
    assert bare["ServiceAccount"]["automountServiceAccountToken"] is False


def test_pods_are_held_to_the_restricted_standard() -> None:
    labels = namespace("n", ACME, RULES)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["allotment.dev/tenant"] == "acme"

"""What accounts of the chart may do."""

from collections.abc import Iterator

import pytest

from allotment_testkit.chart import Json, Rendered, render
from allotment_testkit.chart_forms import FORMS, PULL_SECRETS, TENANTS

READ = {"get", "list", "watch"}
CLUSTER_WIDE = {
    "allotment-allocator": {
        ("", "nodes"): READ,
        ("", "pods"): READ,
        ("batch", "jobs"): READ,
        ("", "namespaces"): {"get", "list", "create", "delete"},
        ("rbac.authorization.k8s.io", "rolebindings"): {"get", "create", "patch"},
        ("rbac.authorization.k8s.io", "clusterroles"): {"bind"},
    },
    "allotment-uninstall": {
        ("", "namespaces"): {"list", "delete"},
        ("", "pods"): {"list", "delete", "deletecollection"},
        ("batch", "jobs"): {"list", "delete", "deletecollection"},
    },
}
"""All rights beyond a namespace, by account."""


@pytest.fixture(params=FORMS, ids=str)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(FORMS[request.param])


def roles(rendered: Rendered) -> Iterator[Json]:
    yield from rendered.of("Role", "ClusterRole")


def cluster_wide(rendered: Rendered) -> Iterator[tuple[str, Json]]:
    """The rules of roles that are bound in the whole cluster, with whose they are."""
    for binding in rendered.of("ClusterRoleBinding"):
        role = rendered.one("ClusterRole", binding["roleRef"]["name"])
        for subject in binding["subjects"]:
            assert subject["kind"] == "ServiceAccount"
            for rule in role["rules"]:
                yield subject["name"], rule


def test_no_rule_has_a_wildcard(rendered: Rendered) -> None:
    for role in roles(rendered):
        for rule in role["rules"]:
            for values in rule.values():
                assert not any("*" in value for value in values), role["metadata"]["name"]


def test_nobody_has_a_right_on_secrets_in_the_whole_cluster(rendered: Rendered) -> None:
    for account, rule in cluster_wide(rendered):
        assert "secrets" not in rule.get("resources", ()), account


def test_secrets_are_named_wherever_they_may_be_read(rendered: Rendered) -> None:
    for role in roles(rendered):
        for rule in role["rules"]:
            if "secrets" in rule.get("resources", ()) and rule["verbs"] != ["create"]:
                assert rule["resourceNames"], role["metadata"]["name"]
                assert not {"list", "watch", "deletecollection"} & set(rule["verbs"])


def test_nobody_may_raise_rights(rendered: Rendered) -> None:
    for role in roles(rendered):
        for rule in role["rules"]:
            assert not {"escalate", "impersonate"} & set(rule["verbs"])
            if "bind" in rule["verbs"]:
                assert rule["resourceNames"] == ["allotment.allotment-tenant"]
            assert not {"pods/exec", "pods/attach", "serviceaccounts/token"} & set(
                rule.get("resources", ())
            )


@pytest.mark.parametrize("dedicated", [False, True])
def test_rights_beyond_a_namespace_are_these_alone(dedicated: bool) -> None:
    rendered = render({"dedicatedNodes": {"enabled": dedicated}})
    found: dict[str, dict[tuple[str, str], set[str]]] = {}
    for account, rule in cluster_wide(rendered):
        for group in rule.get("apiGroups", ()):
            for resource in rule["resources"]:
                of_account = found.setdefault(account, {})
                of_account.setdefault((group, resource), set()).update(rule["verbs"])
    expected = {name: dict(rights) for name, rights in CLUSTER_WIDE.items()}
    if dedicated:
        expected["allotment-allocator"]["", "nodes"] = READ | {"patch"}
        expected["allotment-uninstall"]["", "nodes"] = {"get", "list", "patch"}
    assert found == expected


def test_the_role_for_tenants_namespaces_is_bound_nowhere_by_the_chart() -> None:
    rendered = render(FORMS["namespaces made beforehand and pull secrets"])
    for binding in rendered.of("ClusterRoleBinding", "RoleBinding"):
        assert binding["roleRef"]["name"] != "allotment.allotment-tenant"


def test_the_role_for_tenants_namespaces_knows_the_pull_secret_alone() -> None:
    plain = render().one("ClusterRole", "allotment.allotment-tenant")
    assert not any("secrets" in rule["resources"] for rule in plain["rules"])
    rules = render(PULL_SECRETS).one("ClusterRole", "allotment.allotment-tenant")["rules"]
    [secrets] = [rule for rule in rules if "secrets" in rule["resources"]]
    assert secrets["resourceNames"] == ["registry"]


def test_every_binding_is_of_an_account_and_a_role_of_this_chart(rendered: Rendered) -> None:
    accounts = rendered.names("ServiceAccount")
    for binding in rendered.of("RoleBinding", "ClusterRoleBinding"):
        role = binding["roleRef"]
        namespace = None if role["kind"] == "ClusterRole" else binding["metadata"]["namespace"]
        rendered.one(role["kind"], role["name"], namespace)
        for subject in binding["subjects"]:
            assert subject["name"] in accounts
            assert subject["namespace"] == "allotment"


def test_who_may_change_namespaces_bindings_or_nodes_is_fenced(rendered: Rendered) -> None:
    """A right that no label limits has an admission policy for the same account."""
    fenced: dict[str, set[str]] = {}
    for policy in rendered.of("ValidatingAdmissionPolicy"):
        spec = policy["spec"]
        rendered.one("ValidatingAdmissionPolicyBinding", policy["metadata"]["name"])
        assert spec["failurePolicy"] == "Fail"
        [condition] = spec["matchConditions"]
        account = condition["expression"].split(":")[-1].rstrip("'")
        for rule in spec["matchConstraints"]["resourceRules"]:
            fenced.setdefault(account, set()).update(rule["resources"])
    for account, rule in cluster_wide(rendered):
        changes = set(rule["verbs"]) - READ - {"bind"}
        if changes:
            assert set(rule["resources"]) <= fenced[account], account


def test_every_policy_denies(rendered: Rendered) -> None:
    for binding in rendered.of("ValidatingAdmissionPolicyBinding"):
        assert binding["spec"]["validationActions"] == ["Deny"]
        assert binding["spec"]["policyName"] == binding["metadata"]["name"]


def test_only_namespaces_that_were_made_beforehand_are_excepted_from_our_labels() -> None:
    def condition(rendered: Rendered) -> str:
        name = "allotment.allotment-rolebindings"
        policy = rendered.one("ValidatingAdmissionPolicy", name)
        return str(policy["spec"]["validations"][0]["expression"])

    assert "metadata.name in" not in condition(render())
    assert "namespaceObject.metadata.name in ['team-acme']" in condition(render(TENANTS))


def test_removal_has_rights_in_namespaces_made_beforehand_while_it_runs() -> None:
    rendered = render(TENANTS)
    binding = rendered.one("RoleBinding", "allotment-uninstall", "team-acme")
    assert binding["metadata"]["annotations"]["helm.sh/hook"] == "post-delete"
    role = rendered.one("ClusterRole", binding["roleRef"]["name"])
    assert all(rule["verbs"] == ["delete"] and rule["resourceNames"] for rule in role["rules"])
    assert render().find("ClusterRole", "allotment.allotment-uninstall-tenant") is None

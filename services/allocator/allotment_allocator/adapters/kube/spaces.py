"""Tenants as namespaces, fenced: what runs there reaches the controller, the dataset service and
DNS, and has no rights."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_allocator.adapters.kube.jobs import (
    ACCOUNT,
    CA_MAP,
    RELEASE_LABEL,
    TENANT_LABEL,
)
from allotment_allocator.adapters.kube.nodes import OURS, PART_OF
from allotment_core.names import TenantName

_LONGEST_NAME = 63
_CHECKED_EVERY_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRules:
    """What tenants' namespaces have in common."""

    release: str
    home: str
    """The namespace of the services."""
    account: str
    """The allocator's own service account there."""
    tenant_role: str
    """The ClusterRole that it binds for itself in each of them."""
    made_beforehand: Mapping[str, str] = field(default_factory=dict)
    """Namespaces by tenant that are there already and are not made, changed or removed."""
    controller_port: int = 8443
    dataset_port: int = 8443
    """Where pods listen, after service translation."""
    largest_pod_memory: str = "1Ti"
    pull_secret: str = ""
    pull_secret_json: str = ""
    """Docker's configuration that the pull secret holds."""


class TenantSpaces:
    """Satisfies `launcher.Namespaces`."""

    def __init__(
        self, api: KubeApi, rules: SpaceRules, ca: Callable[[], str], monotonic: Callable[[], float]
    ) -> None:
        """`ca`: the authority (PEM) that signed what trainers connect to, as it is now."""
        self._api = api
        self._rules = rules
        self._ca = ca
        self._monotonic = monotonic
        self._checked: dict[TenantName, float] = {}

    def name_of(self, tenant: TenantName) -> str:
        """`allotment-acme` for the release `allotment`; long names are cut and end in a hash."""
        given = self._rules.made_beforehand.get(tenant.tenant_id)
        if given:
            return given
        name = f"{self._rules.release}-{tenant.tenant_id}"
        if len(name) <= _LONGEST_NAME:
            return name
        mark = hashlib.sha256(tenant.tenant_id.encode()).hexdigest()[:8]
        return f"{name[: _LONGEST_NAME - 9].rstrip('-')}-{mark}"

    async def ensure(self, tenant: TenantName) -> None:
        """Applies everything that belongs there, again after a while."""
        now = self._monotonic()
        last = self._checked.get(tenant)
        if last is not None and now - last < _CHECKED_EVERY_S:
            return
        name = self.name_of(tenant)
        if tenant.tenant_id not in self._rules.made_beforehand:
            await self._apply("/api/v1/namespaces", namespace(name, tenant, self._rules))
        for path, body in contents(tenant, self._rules, self._ca()):
            await self._apply(path.format(namespace=name), body)
        self._checked[tenant] = now

    async def remove(self, tenant: TenantName) -> None:
        """With all that is in it, unless it was made beforehand."""
        self._checked.pop(tenant, None)
        if tenant.tenant_id not in self._rules.made_beforehand:
            await self._api.delete(f"/api/v1/namespaces/{self.name_of(tenant)}")

    async def _apply(self, path: str, body: Json) -> None:
        await self._api.patch(f"{path}/{body['metadata']['name']}", body, "apply")


def _labels(tenant: TenantName, rules: SpaceRules) -> dict[str, str]:
    return {PART_OF: OURS, RELEASE_LABEL: rules.release, TENANT_LABEL: tenant.tenant_id}


def namespace(name: str, tenant: TenantName, rules: SpaceRules) -> Json:
    standard = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {**_labels(tenant, rules), **standard}},
    }


def contents(tenant: TenantName, rules: SpaceRules, ca: str) -> list[tuple[str, Json]]:
    """What belongs into a tenant's namespace, in the order in which it is applied."""
    core, rbac = "/api/v1/namespaces/{namespace}", "/apis/rbac.authorization.k8s.io/v1"
    network = "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    made = [
        (f"{rbac}/namespaces/{{namespace}}/rolebindings", _binding(rules)),
        (f"{core}/serviceaccounts", _account()),
        (f"{core}/configmaps", _object("v1", "ConfigMap", CA_MAP, data={"ca.crt": ca})),
        (f"{core}/resourcequotas", _quota(rules)),
        (f"{core}/limitranges", _limits(rules)),
        (network, _policy(rules)),
    ]
    if rules.pull_secret:
        secret = _object(
            "v1",
            "Secret",
            rules.pull_secret,
            type="kubernetes.io/dockerconfigjson",
            stringData={".dockerconfigjson": rules.pull_secret_json},
        )
        made.append((f"{core}/secrets", secret))
    for _, body in made:
        body["metadata"]["labels"] = _labels(tenant, rules)
    return made


def _object(version: str, kind: str, name: str, **more: object) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}


def _account() -> Json:
    return _object("v1", "ServiceAccount", ACCOUNT, automountServiceAccountToken=False)


def _binding(rules: SpaceRules) -> Json:
    """The allocator's own rights in the namespace: it has none in those of others."""
    return _object(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        "allotment-allocator",
        roleRef={
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": rules.tenant_role,
        },
        subjects=[{"kind": "ServiceAccount", "name": rules.account, "namespace": rules.home}],
    )


def _quota(rules: SpaceRules) -> Json:
    """Room for trainers alone: the allocator's division says how many of them."""
    hard = {
        "count/secrets": "1" if rules.pull_secret else "0",
        "count/services": "0",
        "count/persistentvolumeclaims": "0",
        "count/deployments.apps": "0",
        "count/statefulsets.apps": "0",
        "count/cronjobs.batch": "0",
    }
    return _object("v1", "ResourceQuota", "allotment", spec={"hard": hard})


def _limits(rules: SpaceRules) -> Json:
    container = {
        "type": "Container",
        "max": {"memory": rules.largest_pod_memory},
        "default": {"cpu": "1", "memory": "1Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "256Mi"},
    }
    return _object("v1", "LimitRange", "allotment", spec={"limits": [container]})


def _policy(rules: SpaceRules) -> Json:
    """Nothing comes in; out go DNS and what a trainer needs of the services."""

    def service(component: str, port: int) -> Json:
        pods = {RELEASE_LABEL: rules.release, "app.kubernetes.io/component": component}
        home = {"kubernetes.io/metadata.name": rules.home}
        peer = {
            "namespaceSelector": {"matchLabels": home},
            "podSelector": {"matchLabels": pods},
        }
        return {"to": [peer], "ports": [{"protocol": "TCP", "port": port}]}

    dns_pods = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    }
    dns = {
        "to": [dns_pods],
        "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
    }
    egress = [
        dns,
        service("controller", rules.controller_port),
        service("dataset", rules.dataset_port),
    ]
    return _object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "allotment",
        spec={"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": egress},
    )

"""Tenants as namespaces, fenced: what runs there reaches the controller, the dataset service and
DNS, and has no rights."""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_allocator.adapters.kube.jobs import ACCOUNT, CA_MAP, TENANT_LABEL
from allotment_allocator.adapters.kube.nodes import HOME_LABEL, OURS, PART_OF, RELEASE_LABEL
from allotment_core.errors import (
    AllotmentError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from allotment_core.names import TenantName

log = logging.getLogger(__name__)

_LONGEST_NAME = 63
_CHECKED_EVERY_S = 600.0
_LOOKED_EVERY_S = 2.0


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
    """Namespaces by tenant that are there already, labelled with their tenant: they are filled, and
    not made or removed."""
    controller_port: int = 8443
    dataset_port: int = 8443
    """Where pods listen, after service translation."""
    dns_namespace: str = "kube-system"
    dns_ports: tuple[int, ...] = (53,)
    """Where its pods listen (OpenShift: openshift-dns, 5353)."""
    dns_addresses: tuple[str, ...] = ()
    """Ranges (CIDR) of DNS servers that are no pods, as a cache on each node is."""
    largest_pod_memory: str = "1Ti"
    quota: Mapping[str, str] = field(default_factory=dict)
    """More limits of each namespace's ResourceQuota."""
    pull_secret: str = ""
    pull_secret_json: str = ""
    """Docker's configuration that the pull secret holds."""

    def __post_init__(self) -> None:
        names = list(self.made_beforehand.values())
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidArgument(
                f"namespace {twice[0]} is named for two tenants; a tenant's trainers are known by "
                "their namespace, so each needs one of its own",
                reason="NAMESPACE_TAKEN",
            )


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
        # A thousand trainers of a tenant may start at once: the first of them makes it ready.
        self._turns: defaultdict[TenantName, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._checked: dict[TenantName, tuple[float, str]] = {}
        """When each was looked after last, and the authority that it has."""

    def name_of(self, tenant: TenantName) -> str:
        """`allotment-acme` for the release `allotment`; long names are cut and end in a hash."""
        given = self._rules.made_beforehand.get(tenant.tenant_id)
        if given:
            return given
        name = f"{self._rules.release.replace('.', '-')}-{tenant.tenant_id}"
        if len(name) <= _LONGEST_NAME:
            return name
        mark = hashlib.sha256(tenant.tenant_id.encode()).hexdigest()[:8]
        return f"{name[: _LONGEST_NAME - 9].rstrip('-')}-{mark}"

    async def ensure(self, tenant: TenantName) -> None:
        """Applies everything that belongs there, again after a while or with a new authority.

        Raises: FailedPrecondition (NAMESPACE_TAKEN, NO_NAMESPACE), Unavailable while an earlier
        one of that name is still being removed.
        """
        async with self._turns[tenant]:
            await self._ensure(tenant)

    async def _ensure(self, tenant: TenantName) -> None:
        now, ca = self._monotonic(), self._ca()
        checked_at, known_ca = self._checked.get(tenant, (-_CHECKED_EVERY_S, ""))
        if now - checked_at < _CHECKED_EVERY_S and ca == known_ca:
            return
        name = self.name_of(tenant)
        await self._own(name, tenant)
        for path, body in contents(tenant, self._rules, ca):
            await self._apply(path.format(namespace=name), body)
        self._checked[tenant] = now, ca

    async def run(self, tenants: Callable[[], Awaitable[Collection[TenantName]]]) -> None:
        """Keeps namespaces as they have to be, until cancelled."""
        while True:
            try:
                await self.look(tenants)
            except AllotmentError as e:
                log.warning("namespaces not looked after", extra={"reason": e.reason})
            except Exception:
                log.exception("looking after namespaces failed")
            await asyncio.sleep(_LOOKED_EVERY_S)

    async def look(self, tenants: Callable[[], Awaitable[Collection[TenantName]]]) -> None:
        """Brings a new authority to every namespace; removes those whose tenant is no more."""
        # In this order: a namespace is made for a tenant that is there.
        listed = await self._api.get("/api/v1/namespaces", labelSelector=_selector(self._rules))
        there = await tenants()
        known = {self.name_of(tenant) for tenant in there}
        for item in listed.get("items") or ():
            name = item["metadata"]["name"]
            if name not in known and not _ending(item):
                log.info("the tenant of a namespace is no more", extra={"namespace": name})
                await self._api.delete(f"/api/v1/namespaces/{name}")
        ca = self._ca()
        for tenant, (_, known_ca) in tuple(self._checked.items()):
            if tenant not in there:
                del self._checked[tenant]
            elif ca != known_ca:
                await self.ensure(tenant)

    def doubt(self, tenant: TenantName) -> None:
        self._checked.pop(tenant, None)

    async def _own(self, name: str, tenant: TenantName) -> None:
        """Makes the namespace where it is not there. One that is has to be this tenant's."""
        path = f"/api/v1/namespaces/{name}"
        beforehand = tenant.tenant_id in self._rules.made_beforehand
        try:
            found = await self._api.get(path)
        except NotFound:
            if beforehand:
                raise _not_there(name, tenant) from None
            with suppress(AlreadyExists):
                await self._api.create("/api/v1/namespaces", namespace(name, tenant, self._rules))
            found = await self._api.get(path)
        if _ending(found):
            raise Unavailable(
                f"namespace {name} of an earlier {tenant} is still being removed; it is made again "
                "as soon as it has gone",
                reason="NAMESPACE_TERMINATING",
            )
        labels = found["metadata"].get("labels") or {}
        wanted = _marks(tenant, self._rules) if not beforehand else {TENANT_LABEL: tenant.tenant_id}
        wrong = [f"{key}={value}" for key, value in wanted.items() if labels.get(key) != value]
        if wrong:
            raise FailedPrecondition(
                f"namespace {name} is not that of {tenant}: it lacks the label {wrong[0]}; remove "
                "or label it, or name another namespace for the tenant",
                reason="NAMESPACE_TAKEN",
            )

    async def _apply(self, path: str, body: Json) -> None:
        await self._api.patch(f"{path}/{body['metadata']['name']}", body, "apply")


def _not_there(name: str, tenant: TenantName) -> FailedPrecondition:
    return FailedPrecondition(
        f"namespace {name}, which is named for {tenant}, is not there; make it with the label "
        f"{TENANT_LABEL}={tenant.tenant_id}",
        reason="NO_NAMESPACE",
    )


def _ending(item: Json) -> bool:
    return "deletionTimestamp" in item["metadata"]


def _selector(rules: SpaceRules) -> str:
    return f"{RELEASE_LABEL}={rules.release},{HOME_LABEL}={rules.home},{TENANT_LABEL}"


def _labels(tenant: TenantName, rules: SpaceRules) -> dict[str, str]:
    return {PART_OF: OURS, RELEASE_LABEL: rules.release, TENANT_LABEL: tenant.tenant_id}


def _marks(tenant: TenantName, rules: SpaceRules) -> dict[str, str]:
    """The labels by which a namespace is known as ours."""
    return {**_labels(tenant, rules), HOME_LABEL: rules.home}


def namespace(name: str, tenant: TenantName, rules: SpaceRules) -> Json:
    standard = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {**_marks(tenant, rules), **standard}},
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
        **rules.quota,
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

    dns_home = {"kubernetes.io/metadata.name": rules.dns_namespace}
    servers: list[Json] = [{"namespaceSelector": {"matchLabels": dns_home}}]
    servers += [{"ipBlock": {"cidr": cidr}} for cidr in rules.dns_addresses]
    dns = {
        "to": servers,
        "ports": [
            {"protocol": protocol, "port": port}
            for port in rules.dns_ports
            for protocol in ("UDP", "TCP")
        ],
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

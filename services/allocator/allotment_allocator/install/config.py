"""Settings of the chart's Jobs."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from allotment_core.auth.tokens import MAX_TTL_S
from allotment_core.errors import InvalidArgument, clip

PREFIX = "ALLOTMENT_INSTALL_"
CERTIFICATES = ("own", "cert-manager", "none")
GATEWAY = "gateway"
_ENDS = 6
"""Of an authority's life the last sixth is not used for signing: certificates have to fit in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallConfig:
    """The environment has each as ALLOTMENT_INSTALL_<NAME>.

    Raises: InvalidArgument (INVALID_CONFIG).
    """

    release: str
    namespace: str
    """The release's."""
    services: tuple[str, ...] = ("dataset", "controller", "allocator", "exporter", GATEWAY)
    """Those that get a certificate."""
    certificates: str = "own"
    """own: an authority and all certificates; cert-manager: the authority alone, for an Issuer;
    none: neither.
    """
    server_names: tuple[str, ...] = ()
    """More DNS names and addresses of the gateway's certificate, or where there is none of all."""
    cluster_domain: str = "cluster.local"
    ca_days: int = 3650
    """How long an authority is valid. The next one is published when a third is left, and signs
    when a sixth is.
    """
    certificate_days: int = 90
    """How long a service's certificate is valid."""
    renew_days: int = 30
    """It is renewed so long before its end."""
    ca_config_map: bool = False
    """Whether the authority's certificate is in a ConfigMap as well, as a Gateway wants it."""
    admin_tenant: str = "default"
    """The tenant of the first token."""
    admin_token_days: int = 365
    """How long that token is valid; at a third of it, an upgrade renews it."""
    postgresql: bool = False
    """Whether the release has a PostgreSQL of its own, which needs a password."""
    minio: bool = False
    """Whether it has an S3 server of its own."""
    delete_stores: bool = False
    """Whether uninstall removes the passwords of those as well, as their volumes go."""
    tenant_namespaces: str = "{}"
    """JSON: namespaces made beforehand, by tenant: uninstall empties them."""
    pull_secret: str = ""
    """What the allocator copied to those namespaces; empty: nothing."""
    dedicated_nodes: bool = False
    """Whether nodes may be a tenant's alone: uninstall gives them back."""
    kubeconfig: Path | None = None
    """Empty: the service account of this pod."""
    timeout_s: float = 45.0
    """The longest that a run takes."""

    def __post_init__(self) -> None:
        for name in ("release", "namespace"):
            if not getattr(self, name):
                raise _bad(f"{name.upper()} is empty")
        if self.certificates not in CERTIFICATES:
            raise _bad(
                f"CERTIFICATES is {clip(self.certificates)!r}; there are {', '.join(CERTIFICATES)}"
            )
        if not 0 < self.renew_days < self.certificate_days:
            raise _bad(
                f"RENEW_DAYS is {self.renew_days}; it has to be above 0 and below CERTIFICATE_DAYS "
                f"({self.certificate_days})"
            )
        if self.ca_days < _ENDS * self.certificate_days:
            raise _bad(
                f"CA_DAYS is {self.ca_days}; it has to be at least {_ENDS} times CERTIFICATE_DAYS "
                f"({self.certificate_days})"
            )
        longest = MAX_TTL_S // 86400
        if not 0 < self.admin_token_days <= longest:
            raise _bad(f"ADMIN_TOKEN_DAYS is {self.admin_token_days}; it can be 1 to {longest}")
        if not self.timeout_s > 0:
            raise _bad(f"TIMEOUT_S is {self.timeout_s:g}; it has to be above 0")
        _ = self.made_beforehand

    @property
    def made_beforehand(self) -> Collection[str]:
        """Names of namespaces that are not the release's to remove."""
        try:
            found = json.loads(self.tenant_namespaces or "{}")
        except ValueError:
            found = None
        if not isinstance(found, dict) or not all(isinstance(n, str) for n in found.values()):
            raise _bad(
                f"TENANT_NAMESPACES is {clip(self.tenant_namespaces)!r}; it has to be a JSON "
                "object of namespaces by tenant"
            )
        return frozenset(found.values())

    def names_of(self, service: str) -> tuple[str, ...]:
        """DNS names and addresses by which a service is called."""
        host = f"{self.release}-{service}"
        inside = f"{host}.{self.namespace}"
        own = (
            host,
            inside,
            f"{inside}.svc",
            f"{inside}.svc.{self.cluster_domain}",
            "localhost",
            "127.0.0.1",
        )
        outside = service == GATEWAY or GATEWAY not in self.services
        return tuple(dict.fromkeys(own + (self.server_names if outside else ())))


def _bad(what: str) -> InvalidArgument:
    return InvalidArgument(f"{PREFIX}{what}", reason="INVALID_CONFIG")

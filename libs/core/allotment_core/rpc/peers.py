"""Services as callers: known by the certificate that they show, spiffe://allotment/service/<name>.

A listener that asks for certificates lets each service call the ones that need it, and no other.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from allotment_core.auth.principal import SERVICE_ID, Principal, Role
from allotment_core.errors import Unauthenticated, clip
from allotment_core.names import TenantName

_TENANT = TenantName("services")
_NEVER = datetime.max.replace(tzinfo=UTC)


class Peers:
    """The services that may call this one as themselves, each in its role. A role that is not
    admin sees what belongs to no tenant.
    """

    def __init__(self, callers: Mapping[str, Role]) -> None:
        self._principals = {
            (SERVICE_ID + name).encode(): Principal(
                subject=f"service/{name}", tenant=_TENANT, role=role, expires_at=_NEVER
            )
            for name, role in callers.items()
        }

    def principal(self, context: Any) -> Principal | None:
        """Who is at the other end of a call's connection; None: it showed no certificate.

        gRPC has verified the certificate. Raises: Unauthenticated (UNKNOWN_SERVICE_CERTIFICATE).
        """
        if not self._principals:
            return None
        shown = context.auth_context()
        if not shown.get("x509_pem_cert"):
            return None
        ids = shown.get("peer_spiffe_id") or [b""]
        found = self._principals.get(ids[0])
        if found is None:
            raise Unauthenticated(
                f"the certificate of {clip(ids[0].decode(errors='replace'))!r} is not one of a "
                "service that calls this one; send a token, or the certificate of such a service",
                reason="UNKNOWN_SERVICE_CERTIFICATE",
            )
        return found

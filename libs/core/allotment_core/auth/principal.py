"""Who makes a call."""

import enum
from dataclasses import dataclass
from datetime import datetime

from allotment_core.names import LeaseName, TenantName

SERVICE_ID = "spiffe://allotment/service/"
"""How the URI begins by which a service's certificate says whose it is."""


class Role(enum.Enum):
    """What a token may do; access.proto lists the verbs of each."""

    VIEWER = "viewer"
    EDITOR = "editor"
    TRAINER = "trainer"
    SERVICE = "service"
    """One that verifies its callers; no token has this role."""
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The holder of a verified token."""

    subject: str
    tenant: TenantName
    role: Role
    expires_at: datetime
    lease: LeaseName | None = None
    """Trainers alone: the lease that the token is bound to."""
    lease_epoch: int | None = None

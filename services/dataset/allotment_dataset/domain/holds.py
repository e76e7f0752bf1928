"""Who holds which bytes: owners hold blobs, tenants see what their owners hold, the rest is
collected.
"""

import enum
from dataclasses import dataclass
from datetime import datetime

from allotment_core.errors import FieldViolation, InvalidArgument, NotFound, clip
from allotment_core.names import BlobName, TenantName, check_id

MOST_NAMES = 100
_OWN_COLLECTIONS = frozenset(("datasets", "imports", "uploads", "blobs"))
_LONGEST_OWNER = 300


class BlobState(enum.Enum):
    """LIVE: its bytes are stored, or are just being stored. COLLECTING: they are being deleted."""

    LIVE = "LIVE"
    COLLECTING = "COLLECTING"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRecord:
    """What is known of stored bytes.

    `incarnation` is new each time the bytes come back after a collection: who began to store under
    one has to find it again when the bytes are there, else they were collected in between.
    `touch_time`: of the last beginning of a store or end of a hold.
    """

    sha256: str
    size_bytes: int
    incarnation: str
    state: BlobState
    touch_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    name: BlobName
    size_bytes: int


def parse_owner(text: str) -> tuple[TenantName, str]:
    """The tenant and the name of an owner: a resource of another service,
    "tenants/t/experiments/e/trials/1".

    Raises: InvalidArgument (INVALID_OWNER).
    """
    segments = text.split("/") if len(text) <= _LONGEST_OWNER else []
    if len(segments) < 4 or len(segments) % 2 or segments[0] != "tenants":
        raise _bad_owner(text, "it has to be the name of a tenant's resource")
    if segments[2] in _OWN_COLLECTIONS:
        raise _bad_owner(text, f"{segments[2]} hold their blobs without being asked to")
    try:
        tenant = TenantName.parse("/".join(segments[:2]))
        for segment in segments[2:]:
            check_id(segment, "owner")
    except InvalidArgument as e:
        raise _bad_owner(text, str(e)) from None
    return tenant, text


def _bad_owner(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"owner {clip(text)!r} is not valid: {why}",
        reason="INVALID_OWNER",
        violations=(FieldViolation("owner", why),),
    )


def no_such_blob(name: BlobName) -> NotFound:
    return NotFound(
        f"{name} does not exist, or nothing of its tenant holds it; store its bytes again"
    )

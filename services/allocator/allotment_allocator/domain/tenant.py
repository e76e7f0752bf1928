"""Who shares the pools, and how much of them each may count on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from allotment_core.errors import FailedPrecondition, FieldViolation, InvalidArgument
from allotment_core.etags import etag_of
from allotment_core.names import TenantName

LARGEST_WEIGHT = 1000.0
LARGEST_SLOTS = 1_000_000
SMALLEST_WEIGHT = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A tenant's share of contended slots. Valid or not built."""

    weight: float = 1.0
    guaranteed_slots: int = 0
    quota_slots: int = 0
    """0: no limit."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and SMALLEST_WEIGHT <= self.weight <= LARGEST_WEIGHT):
            raise _bad(
                "weight", self.weight, f"has to be {SMALLEST_WEIGHT} to {LARGEST_WEIGHT:,.0f}"
            )
        for field in ("guaranteed_slots", "quota_slots"):
            if not 0 <= getattr(self, field) <= LARGEST_SLOTS:
                raise _bad(field, getattr(self, field), f"has to be 0 to {LARGEST_SLOTS:,}")
        if 0 < self.quota_slots < self.guaranteed_slots:
            raise _bad(
                "quota_slots",
                self.quota_slots,
                f"has to be at least guaranteed_slots ({self.guaranteed_slots}), or 0 for no limit",
            )


def _bad(field: str, value: float, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field} of a tenant is {value:g}; it {rule}", violations=(FieldViolation(field, rule),)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    name: TenantName
    terms: Terms
    create_time: datetime
    update_time: datetime
    revision: int = 1

    @property
    def etag(self) -> str:
        return etag_of(f"{self.name} {self.create_time.isoformat()} {self.revision}".encode())

    def changed(self, terms: Terms, now: datetime) -> "Tenant":
        return replace(self, terms=terms, update_time=now, revision=self.revision + 1)


def check_guarantees(tenants: Iterable[Tenant], changed: Tenant, pool_slots: int) -> None:
    """Raises: FailedPrecondition when all guarantees together would exceed the pool."""
    others = sum(t.terms.guaranteed_slots for t in tenants if t.name != changed.name)
    wanted = changed.terms.guaranteed_slots
    if wanted and others + wanted > pool_slots:
        raise FailedPrecondition(
            f"{changed.name} can't be guaranteed {wanted} slots: other tenants are guaranteed "
            f"{others} of the pool's {pool_slots}; guarantee at most "
            f"{max(0, pool_slots - others)}, or lower another tenant's guarantee first",
            reason="GUARANTEES_EXCEED_POOL",
        )

"""Who shares the pools, and how much of them each may count on."""

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from allotment_allocator.domain.pool import CPU, GPU
from allotment_core.errors import FailedPrecondition, FieldViolation, InvalidArgument
from allotment_core.etags import etag_of
from allotment_core.names import TenantName


class Isolation(enum.Enum):
    SHARED = "SHARED"
    """Its leases share nodes with those of others."""
    DEDICATED = "DEDICATED"
    """It has each node alone, and is charged for all of it."""


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
    guaranteed_gpus: int = 0
    quota_gpus: int = 0
    """0: no limit."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and SMALLEST_WEIGHT <= self.weight <= LARGEST_WEIGHT):
            raise _bad(
                "weight", self.weight, f"has to be {SMALLEST_WEIGHT} to {LARGEST_WEIGHT:,.0f}"
            )
        for unit in ("slots", "gpus"):
            guaranteed, quota = f"guaranteed_{unit}", f"quota_{unit}"
            for field in (guaranteed, quota):
                if not 0 <= getattr(self, field) <= LARGEST_SLOTS:
                    raise _bad(field, getattr(self, field), f"has to be 0 to {LARGEST_SLOTS:,}")
            if 0 < getattr(self, quota) < getattr(self, guaranteed):
                raise _bad(
                    quota,
                    getattr(self, quota),
                    f"has to be at least {guaranteed} ({getattr(self, guaranteed)}), "
                    "or 0 for no limit",
                )

    def of(self, resource: str) -> "Terms":
        """The terms for slots of one resource, as `guaranteed_slots` and `quota_slots`.

        Slices of devices have neither: they are shared by weight alone.
        """
        if resource == CPU:
            return self
        if resource == GPU:
            return Terms(
                weight=self.weight,
                guaranteed_slots=self.guaranteed_gpus,
                quota_slots=self.quota_gpus,
            )
        return Terms(weight=self.weight)


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
    shares_experience: bool = False
    """It consents to others' learning from its tasks."""
    isolation: Isolation = Isolation.SHARED
    revision: int = 1

    @property
    def etag(self) -> str:
        return etag_of(f"{self.name} {self.create_time.isoformat()} {self.revision}".encode())

    def changed(
        self, terms: Terms, shares_experience: bool, isolation: Isolation, now: datetime
    ) -> "Tenant":
        return replace(
            self,
            terms=terms,
            shares_experience=shares_experience,
            isolation=isolation,
            update_time=now,
            revision=self.revision + 1,
        )


def check_guarantees(
    tenants: Iterable[Tenant], changed: Tenant, capacity: Mapping[str, int]
) -> None:
    """Raises: FailedPrecondition when guarantees together would exceed what a resource has.

    `capacity`: slots by resource.
    """
    others = [t.terms for t in tenants if t.name != changed.name]
    for resource in (CPU, GPU):
        wanted = changed.terms.of(resource).guaranteed_slots
        taken = sum(terms.of(resource).guaranteed_slots for terms in others)
        there = capacity.get(resource, 0)
        if wanted and taken + wanted > there:
            unit = "slots" if resource == CPU else "GPUs"
            raise FailedPrecondition(
                f"{changed.name} can't be guaranteed {wanted} {unit}: other tenants are guaranteed "
                f"{taken} of the {there} that there are; guarantee at most "
                f"{max(0, there - taken)}, or lower another tenant's guarantee first",
                reason="GUARANTEES_EXCEED_POOL",
            )

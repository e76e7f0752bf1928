"""What a tenant or an experiment has had lately: slot-seconds that fade.

A slot-second counts half after `half_life_s`, so that old debts are forgiven and what is compared
stays bounded. Who begins to compete is seated at the level of the one who had least among those who
compete already: time in which one wanted nothing earns no credit.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """`attained` faded slot-seconds at the instant `as_of`, held `slot_count` slots since then."""

    attained: float
    as_of: datetime
    slot_count: int = 0

    def at(self, now: datetime, half_life_s: float) -> "Account":
        """The same account later on (exact for a constant number of slots)."""
        elapsed_s = (now - self.as_of).total_seconds()
        if elapsed_s <= 0:
            return self
        kept = 0.5 ** (elapsed_s / half_life_s)
        earned = self.slot_count * half_life_s / math.log(2) * (1 - kept)
        return replace(self, attained=self.attained * kept + earned, as_of=now)

    def holding(self, slot_count: int) -> "Account":
        return replace(self, slot_count=slot_count)

    def seated(self, weight: float, peers: Iterable[tuple[float, float]]) -> "Account":
        """Raised to the least attained per weight of the peers, each (attained, weight)."""
        level = min((attained / share for attained, share in peers), default=0.0)
        return replace(self, attained=max(self.attained, level * weight))

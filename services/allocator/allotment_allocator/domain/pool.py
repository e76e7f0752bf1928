"""Where trials can run."""

from dataclasses import dataclass

from allotment_core.errors import FieldViolation, InvalidArgument
from allotment_core.names import PoolName


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Slots on one machine. A slot is what the smallest trainer needs: threads and memory."""

    name: PoolName
    slot_count: int
    threads_per_slot: int
    memory_bytes_per_slot: int

    def __post_init__(self) -> None:
        for field in ("slot_count", "threads_per_slot", "memory_bytes_per_slot"):
            if getattr(self, field) < 1:
                raise InvalidArgument(
                    f"{self.name} has {field} {getattr(self, field)}; it has to be 1 or more",
                    violations=(FieldViolation(field, "has to be 1 or more"),),
                )

    def check_fits(self, slot_count: int) -> None:
        """Raises: InvalidArgument when no lease of this size can ever be granted."""
        if slot_count < 1:
            raise InvalidArgument(
                f"slot_count is {slot_count}; it has to be 1 or more (0 or unset: 1)",
                violations=(FieldViolation("slot_count", "has to be 1 or more"),),
            )
        if slot_count > self.slot_count:
            raise InvalidArgument(
                f"slot_count is {slot_count}, but {self.name} has {self.slot_count} slots in all "
                "and a lease has to fit on one machine; ask for fewer slots",
                reason="LARGER_THAN_POOL",
                violations=(FieldViolation("slot_count", f"has to be at most {self.slot_count}"),),
            )

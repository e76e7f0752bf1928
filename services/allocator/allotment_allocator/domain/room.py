"""Free slots, node by node, while a division is made."""

from collections import Counter
from collections.abc import Sequence

from allotment_allocator.domain.pool import NodeState, Place, Pool, Wanted
from allotment_allocator.domain.snapshot import Claim, Snapshot


class Room:
    """Knows what is free, what comes anyway, and what is kept for a large claim."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.pools = snapshot.pools
        self.leaving = snapshot.leaving
        self.capacity: dict[Place, int] = {}
        self.states: dict[Place, NodeState] = {}
        self.coming: Counter[Place] = Counter()
        """Slots that will be free without anything being done."""
        self._free: Counter[Place] = Counter()
        self._reserved: dict[Place, Claim] = {}
        self._suitable: dict[Wanted, tuple[Pool, ...]] = {}
        self._open: dict[Wanted, tuple[Sequence[Place], Sequence[Place]]] = {}
        for pool in snapshot.pools:
            for node in pool.nodes:
                place = Place(pool.name, node.name)
                self.capacity[place] = self._free[place] = node.slot_count
                self.states[place] = node.state
        for holding in snapshot.held:
            self.take(holding.place, holding.slot_count)
            if holding.revoking:
                self.coming[holding.place] += holding.slot_count
        for place, slot_count in snapshot.leaving.items():
            self.take(place, slot_count)
            self.coming[place] += slot_count

    def free(self, place: Place) -> int:
        """Below 0 where more is held than there is."""
        return self._free[place]

    def take(self, place: Place, slot_count: int) -> None:
        self._free[place] -= slot_count

    def suitable(self, wanted: Wanted) -> tuple[Pool, ...]:
        """The pools that have such slots."""
        known = self._suitable.get(wanted)
        if known is None:
            known = tuple(pool for pool in self.pools if pool.suits(wanted))
            self._suitable[wanted] = known
        return known

    def open_places(self, wanted: Wanted) -> tuple[Sequence[Place], Sequence[Place]]:
        """Nodes of suitable pools that take new leases: those that are there, those expected."""
        known = self._open.get(wanted)
        if known is None:
            nodes = [
                (Place(pool.name, node.name), node.expected)
                for pool in self.suitable(wanted)
                for node in pool.nodes
                if node.state is NodeState.OPEN
            ]
            known = [p for p, expected in nodes if not expected], [p for p, e in nodes if e]
            self._open[wanted] = known
        return known

    def largest(self, wanted: Wanted) -> int:
        """Slots of the largest suitable node, whatever its state."""
        return max((pool.largest_node for pool in self.suitable(wanted)), default=0)

    def best(self, wanted: Wanted, slot_count: int) -> Place | None:
        """The open node that these slots fill best; one that is there before an expected one."""
        for places in self.open_places(wanted):
            fitting = [
                (self._free[place], index)
                for index, place in enumerate(places)
                if self._free[place] >= slot_count and place not in self._reserved
            ]
            if fitting:
                return places[min(fitting)[1]]
        return None

    def reserve(self, claim: Claim) -> None:
        """Keeps the node that can soonest have room for the claim, if there is one."""
        there, expected = self.open_places(claim.wanted)
        fitting = [
            place
            for place in (*there, *expected)
            if place not in self._reserved and self.capacity[place] >= claim.slot_count
        ]
        if fitting:
            chosen = max(fitting, key=lambda p: self._free[p] + self.coming[p])
            self._reserved[chosen] = claim

    def reserved_for(self, wanted: Wanted) -> Claim | None:
        """A claim that free slots like these are kept for."""
        suitable = {pool.name for pool in self.suitable(wanted)}
        for place, claim in self._reserved.items():
            if place.pool in suitable and self._free[place] > 0:
                return claim
        return None

    def free_slots(self, wanted: Wanted) -> int:
        """Of all open suitable nodes together."""
        there, expected = self.open_places(wanted)
        return sum(max(0, self._free[place]) for place in (*there, *expected))

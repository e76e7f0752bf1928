"""Free slots, node by node, while a division is made."""

from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush

from allotment_allocator.domain.pool import NodeState, Place, Pool, Wanted
from allotment_allocator.domain.snapshot import Claim, Snapshot


class Room:
    """Knows what is free, what comes anyway, and what is kept for a large claim."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.pools = snapshot.pools
        self.leaving = snapshot.leaving
        self.capacity: dict[Place, int] = {}
        self.states: dict[Place, NodeState] = {}
        self.expected: set[Place] = set()
        """Nodes that are not there yet."""
        self.coming: Counter[Place] = Counter()
        """Slots that will be free without anything being done."""
        self._free: dict[Place, int] = {}
        self._reserved: dict[Place, Claim] = {}
        self._suitable: dict[Wanted, tuple[Pool, ...]] = {}
        self._open: dict[Wanted, tuple[_Shelf, _Shelf]] = {}
        self._shelves: dict[Place, list[_Shelf]] = {}
        for pool in snapshot.pools:
            for node in pool.nodes:
                place = Place(pool.name, node.name)
                self.capacity[place] = self._free[place] = node.slot_count
                self.states[place] = node.state
                if node.expected:
                    self.expected.add(place)
        for holding in snapshot.held:
            self.take(holding.place, holding.slot_count)
            if holding.revoking:
                self.coming[holding.place] += holding.slot_count
        for place, slot_count in snapshot.leaving.items():
            self.take(place, slot_count)
            self.coming[place] += slot_count

    def free(self, place: Place) -> int:
        """Below 0 where more is held than there is."""
        return self._free.get(place, 0)

    def take(self, place: Place, slot_count: int) -> None:
        free = self._free[place] = self._free.get(place, 0) - slot_count
        for shelf in self._shelves.get(place, ()):
            shelf.put(place, free)

    def suitable(self, wanted: Wanted) -> tuple[Pool, ...]:
        """The pools that have such slots."""
        known = self._suitable.get(wanted)
        if known is None:
            known = tuple(pool for pool in self.pools if pool.suits(wanted))
            self._suitable[wanted] = known
        return known

    def open_places(self, wanted: Wanted) -> tuple[Sequence[Place], Sequence[Place]]:
        """Nodes of suitable pools that take new leases: those that are there, those expected."""
        there, expected = self._open_shelves(wanted)
        return there.places, expected.places

    def _open_shelves(self, wanted: Wanted) -> "tuple[_Shelf, _Shelf]":
        known = self._open.get(wanted)
        if known is None:
            nodes = [
                (Place(pool.name, node.name), node.expected)
                for pool in self.suitable(wanted)
                for node in pool.nodes
                if node.state is NodeState.OPEN and wanted.node in ("", node.name)
            ]
            there = _Shelf([place for place, expected in nodes if not expected])
            known = self._open[wanted] = there, _Shelf([p for p, expected in nodes if expected])
            for shelf in known:
                for place in shelf.places:
                    shelf.put(place, self._free[place])
                    self._shelves.setdefault(place, []).append(shelf)
                    if place in self._reserved:
                        shelf.close(place)
        return known

    def largest(self, wanted: Wanted) -> int:
        """Slots of the largest suitable node, whatever its state."""
        return max((pool.largest_node for pool in self.suitable(wanted)), default=0)

    def best(self, wanted: Wanted, slot_count: int) -> Place | None:
        """The open node that these slots fill best; one that is there before an expected one."""
        for shelf in self._open_shelves(wanted):
            place = shelf.tightest(slot_count)
            if place is not None:
                return place
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
            for shelf in self._shelves[chosen]:
                shelf.close(chosen)

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


class _Shelf:
    """Places in a fixed order, found by how many slots of them are free."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self._index = {place: index for index, place in enumerate(places)}
        self._free = [0] * len(places)
        # Indexes of places by their free slots; what has changed since leaves when it is met.
        self._heaps: dict[int, list[int]] = {}
        self._most = 0

    def put(self, place: Place, free: int) -> None:
        """Notes how many slots of the place are free now."""
        index = self._index[place]
        if self._free[index] < 0:
            return
        self._free[index] = max(0, free)
        if free > 0:
            heappush(self._heaps.setdefault(free, []), index)
            self._most = max(self._most, free)

    def close(self, place: Place) -> None:
        """The place is not found any more."""
        self._free[self._index[place]] = -1

    def tightest(self, slot_count: int) -> Place | None:
        """The first of the places with the fewest free slots that are enough."""
        for free in range(slot_count, self._most + 1):
            heap = self._heaps.get(free, [])
            while heap:
                if self._free[heap[0]] == free:
                    return self.places[heap[0]]
                heappop(heap)
        return None

"""Tenants that have their nodes alone: whole nodes are divided first, then each tenant's own.

A node belongs to a DEDICATED tenant while it has leases or trainers there and nobody else has.
Among all tenants such a node is one holding of all its slots, and the wish for another node one
claim of all slots of a chosen node: so weight, guarantee, quota and turns count whole nodes, and
the rules that keep `decide` calm hold for them too. Within its own nodes a tenant's leases are
divided among its experiments by the same function.

While a node is being emptied for a tenant, its free slots are given to nobody else once the claim
has waited for `reserve_after_s`, as for every claim of many slots.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from allotment_allocator.domain.division import decide
from allotment_allocator.domain.lease import Lease, Wait
from allotment_allocator.domain.pool import Node, NodeState, Place, describe
from allotment_allocator.domain.snapshot import (
    Claim,
    Decision,
    Holding,
    Revocation,
    RevocationReason,
    Snapshot,
)
from allotment_allocator.domain.waits import NO_POOL, POOL_FULL
from allotment_core.names import LeaseName, PoolName, TenantName

_TAKES_NONE = (NodeState.CORDONED, NodeState.LOST)


def divide(snapshot: Snapshot) -> Decision:
    """`decide`, with nodes that tenants have alone. Deterministic."""
    if not snapshot.dedicated:
        return decide(snapshot)
    estates = Estates(snapshot)
    asking = {holding.lease.tenant for holding in snapshot.held}
    asking |= {claim.lease.tenant for claim in snapshot.queued}
    within = {
        tenant: decide(estates.own_view(tenant)) for tenant in sorted(asking & snapshot.dedicated)
    }
    wishes = estates.wishes(within)
    among_all = decide(estates.common_view([wish.claim for wish in wishes]))
    return _Merger(snapshot, estates, wishes).merge(within, among_all)


class Wish:
    """A tenant's wish for one more node, and the claims that would go there."""

    def __init__(self, first: Claim, place: Place, node: Node) -> None:
        wanted = replace(first.wanted, node=place.node, pool=place.pool.pool_id)
        self.claim = replace(first, slot_count=node.slot_count, wanted=wanted)
        self.place = place
        self.meant_for = [first.lease]
        self._wanted = first.wanted
        self._room = node.slot_count - first.slot_count

    def add(self, claim: Claim) -> bool:
        """Whether it has room for this claim too."""
        if claim.slot_count > self._room or claim.wanted != self._wanted:
            return False
        self._room -= claim.slot_count
        self.meant_for.append(claim.lease)
        return True


class Estates:
    """Whose each node is."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.nodes: dict[Place, Node] = {
            Place(pool.name, node.name): node for pool in snapshot.pools for node in pool.nodes
        }
        self.held: dict[Place, list[Holding]] = defaultdict(list)
        for holding in snapshot.held:
            self.held[holding.place].append(holding)
        self.owners: dict[Place, TenantName] = {}
        self.mixed: set[Place] = set()
        """A dedicated tenant is there, and somebody else too."""
        for place in self.nodes:
            there = self.tenants_on(place)
            if there & snapshot.dedicated:
                if len(there) == 1:
                    self.owners[place] = next(iter(there))
                else:
                    self.mixed.add(place)

    def tenants_on(self, place: Place) -> set[TenantName]:
        """Who has leases on the node, or trainers that have not gone."""
        snapshot = self.snapshot
        there = {holding.lease.tenant for holding in self.held.get(place, ())}
        there |= snapshot.neighbours.get(place.node, set())
        return there | snapshot.departing.get(place.node, set())

    # What `decide` sees

    def own_view(self, tenant: TenantName) -> Snapshot:
        """The tenant's nodes, as if there were nobody else."""
        snapshot = self.snapshot
        own = {place for place, owner in self.owners.items() if owner == tenant}
        pools = [
            replace(pool, nodes=tuple(n for n in pool.nodes if Place(pool.name, n.name) in own))
            for pool in snapshot.pools
        ]
        return replace(
            snapshot,
            pools=tuple(pool for pool in pools if pool.nodes),
            terms={tenant: replace(snapshot.terms[tenant], quota_slots=0, guaranteed_slots=0)}
            if tenant in snapshot.terms
            else {},
            queued=tuple(c for c in snapshot.queued if c.lease.tenant == tenant),
            held=tuple(
                h
                for h in snapshot.held
                if h.lease.tenant == tenant and (h.place in own or h.place not in self.nodes)
            ),
            leaving={p: n for p, n in snapshot.leaving.items() if p in own},
        )

    def common_view(self, wishes: Sequence[Claim]) -> Snapshot:
        """All tenants: nodes that one has alone are held as a whole."""
        snapshot = self.snapshot
        pools = []
        for pool in snapshot.pools:
            nodes = [self._seen(Place(pool.name, node.name), node) for node in pool.nodes]
            pools.append(replace(pool, nodes=tuple(node for node in nodes if node is not None)))
        shared = [
            h
            for h in snapshot.held
            if h.lease.tenant not in snapshot.dedicated or h.place in self.mixed
        ]
        queued = [c for c in snapshot.queued if c.lease.tenant not in snapshot.dedicated]
        return replace(
            snapshot,
            pools=tuple(pools),
            queued=(*queued, *wishes),
            held=(*shared, *self._wholes()),
            leaving=self._leaving(wishes),
        )

    def _seen(self, place: Place, node: Node) -> Node | None:
        """As it is for those who share nodes; None: there is nothing to share."""
        if place in self.owners:
            return None if node.state in _TAKES_NONE or not node.slot_count else node
        if place in self.mixed and node.state is not NodeState.LOST:
            return replace(node, state=NodeState.AWAY)
        return node

    def _wholes(self) -> list[Holding]:
        """Each node that a tenant has alone, as one holding."""
        wholes = []
        for place, tenant in self.owners.items():
            holdings, node = self.held.get(place), self.nodes[place]
            if not holdings or self._seen(place, node) is None:
                continue
            first = min(holdings, key=lambda h: (-h.held_s, h.lease))
            assert first.lease.tenant == tenant
            wholes.append(
                replace(
                    first,
                    slot_count=node.slot_count,
                    revoking=all(h.revoking for h in holdings),
                )
            )
        return wholes

    def _leaving(self, wishes: Sequence[Claim]) -> dict[Place, int]:
        """Trainers on their way out; a node that only they keep is left as a whole."""
        leaving = {p: n for p, n in self.snapshot.leaving.items() if p not in self.owners}
        for place in self.owners:
            if not self.held.get(place):
                leaving[place] = self.nodes[place].slot_count
        for wish in wishes:
            # Trainers in slots of another kind: until they have gone the node is not empty.
            place = Place(PoolName(wish.wanted.pool), wish.wanted.node)
            if self.snapshot.departing.get(place.node):
                leaving.setdefault(place, 1)
        return leaving

    # Which nodes are wished for

    def wishes(self, within: dict[TenantName, Decision]) -> list[Wish]:
        """What each tenant wants beyond its own nodes, each node for one tenant at most."""
        claims = {claim.lease: claim for claim in self.snapshot.queued}
        candidates = self._candidates()
        found: list[Wish] = []
        for _, decision in sorted(within.items()):
            waiting = sorted(decision.waits, key=lambda name: decision.waits[name].position)
            own: list[Wish] = []
            for name in waiting:
                claim = claims[name]
                if any(wish.add(claim) for wish in own):
                    continue
                place = self._chosen(claim, candidates)
                if place is not None:
                    candidates.remove(place)
                    own.append(Wish(claim, place, self.nodes[place]))
            found += own
        return found

    def _candidates(self) -> list[Place]:
        """Nodes that a tenant could have alone, those first that soonest and cheapest are."""
        snapshot = self.snapshot
        held: dict[TenantName, int] = defaultdict(int)
        for holding in snapshot.held:
            held[holding.lease.tenant] += holding.slot_count
        safe = {
            tenant
            for tenant, slots in held.items()
            if tenant in snapshot.terms and slots <= snapshot.terms[tenant].guaranteed_slots
        }

        def cost(place: Place) -> tuple[int, int, bool, int, Place]:
            stay = [h for h in self.held.get(place, ()) if not h.revoking]
            protected = sum(h.slot_count for h in stay if h.lease.tenant in safe)
            node = self.nodes[place]
            return (
                protected,
                sum(h.slot_count for h in stay),
                node.expected,
                node.slot_count,
                place,
            )

        possible = [
            place
            for place, node in self.nodes.items()
            if node.state is NodeState.OPEN
            and not node.in_use_by_others
            and place not in self.owners
            and place not in self.mixed
            and not snapshot.neighbours.get(place.node)
        ]
        return sorted(possible, key=cost)

    def _chosen(self, claim: Claim, candidates: Iterable[Place]) -> Place | None:
        suitable = {p.name for p in self.snapshot.pools if p.suits(claim.wanted)}
        return next(
            (
                place
                for place in candidates
                if place.pool in suitable and self.nodes[place].slot_count >= claim.slot_count
            ),
            None,
        )


class _Merger:
    """One decision out of those within tenants and that among all."""

    def __init__(self, snapshot: Snapshot, estates: Estates, wishes: Sequence[Wish]) -> None:
        self._snapshot = snapshot
        self._estates = estates
        self._wishes = wishes
        self._revocations: dict[LeaseName, Revocation] = {}

    def merge(self, within: dict[TenantName, Decision], among_all: Decision) -> Decision:
        grants = dict(among_all.grants)
        moves = dict(among_all.moves)
        waits = dict(among_all.waits)
        self._take_back(among_all.revocations)
        self._part_mixed()
        for tenant, own in sorted(within.items()):
            moves.update(own.moves)
            for revocation in own.revocations:
                self._revocations.setdefault(revocation.lease, revocation)
            self._drain(tenant, among_all)
            for lease, place in own.grants.items():
                if not self._is_taken_back(place):
                    grants[lease] = place
        for wish in self._wishes:
            granted = grants.pop(wish.claim.lease, None)
            if granted is not None:
                grants.update({lease: granted for lease in wish.meant_for})
        self._explain(within, among_all, grants, waits)
        return Decision(grants, moves, tuple(self._revocations.values()), waits)

    def _take_back(self, revocations: Iterable[Revocation]) -> None:
        """A node that its tenant had alone is taken back with every lease on it."""
        places = {h.lease: h.place for h in self._snapshot.held}
        for revocation in revocations:
            place = places[revocation.lease]
            whole = place in self._estates.owners
            for holding in self._estates.held[place]:
                if holding.lease == revocation.lease or (whole and not holding.revoking):
                    self._revocations[holding.lease] = replace(revocation, lease=holding.lease)

    def _part_mixed(self) -> None:
        """Who is to have nodes alone leaves those that others are on."""
        for place in sorted(self._estates.mixed):
            for holding in self._estates.held.get(place, ()):
                if holding.lease.tenant in self._snapshot.dedicated and not holding.revoking:
                    self._revocations.setdefault(
                        holding.lease,
                        Revocation(holding.lease, RevocationReason.NODE_SHARED, None),
                    )

    def _drain(self, tenant: TenantName, among_all: Decision) -> None:
        """Leases on a cordoned node leave when another whole node is empty."""
        estates, taken = self._estates, set(among_all.grants.values())
        empty = [
            (place, node)
            for place, node in sorted(estates.nodes.items())
            if node.state is NodeState.OPEN
            and not node.in_use_by_others
            and place not in taken
            and not estates.tenants_on(place)
        ]
        for place, owner in sorted(estates.owners.items()):
            if owner != tenant or estates.nodes[place].state is not NodeState.CORDONED:
                continue
            leaving = [h for h in estates.held.get(place, ()) if not h.revoking]
            needed = sum(h.slot_count for h in leaving)
            spare = next((e for e in empty if e[1].slot_count >= needed), None)
            if leaving and spare is not None:
                empty.remove(spare)
                for holding in leaving:
                    self._revocations.setdefault(
                        holding.lease,
                        Revocation(holding.lease, RevocationReason.NODE_DRAINED, None),
                    )

    def _is_taken_back(self, place: Place) -> bool:
        return any(
            holding.lease in self._revocations for holding in self._estates.held.get(place, ())
        )

    def _explain(
        self,
        within: dict[TenantName, Decision],
        among_all: Decision,
        grants: dict[LeaseName, Place],
        waits: dict[LeaseName, Wait],
    ) -> None:
        wish_of = {lease: wish for wish in self._wishes for lease in wish.meant_for}
        claims = {claim.lease: claim for claim in self._snapshot.queued}
        for own in within.values():
            for lease, wait in own.waits.items():
                if lease in grants:
                    waits.pop(lease, None)
                    continue
                wish = wish_of.get(lease)
                outer = among_all.waits.get(wish.claim.lease) if wish is not None else None
                waits[lease] = self._wait(claims[lease], wish, outer, wait.position)
        for claim in claims.values():
            own_wait = claim.lease not in grants and claim.lease not in waits
            if own_wait:
                waits[claim.lease] = self._wait(claim, wish_of.get(claim.lease), None, 1)

    def _wait(self, claim: Claim, wish: Wish | None, outer: Wait | None, position: int) -> Wait:
        tenant, alone = claim.lease.tenant, "has nodes of its own (isolation DEDICATED)"
        if wish is None:
            pools = [pool for pool in self._snapshot.pools if pool.suits(claim.wanted)]
            largest = max((pool.largest_node for pool in pools), default=0)
            if claim.slot_count > largest:
                text = (
                    f"no node has {claim.slot_count} slots of {describe(claim.wanted)} (the "
                    f"largest has {largest}); ask for fewer, or add a larger node"
                )
                return Wait(NO_POOL, text, position)
            text = (
                f"{tenant} {alone} and there is no other node that it could have alone: they are "
                "others', or pods that are not ours work there; it goes on when one is free"
            )
            return Wait(POOL_FULL, text, position)
        if outer is not None and outer.reason != POOL_FULL:
            return replace(outer, position=position)
        text = (
            f"{tenant} {alone} and needs one more with {wish.claim.slot_count} slots; "
            f"{wish.place.node} is next, and goes to it once nobody is on it any more"
        )
        return Wait(POOL_FULL, text, position)


class Guests:
    """Whose leases are on a node, by resource, while the resources are divided one by one."""

    def __init__(self, leases: Iterable[Lease]) -> None:
        self._on: dict[str, dict[str, set[TenantName]]] = {}
        self._resource = ""
        for lease in leases:
            if lease.place is not None:
                self._note(lease.wanted.resource, lease.tenant, lease.place)

    def _note(self, resource: str, tenant: TenantName, place: Place) -> None:
        self._on.setdefault(resource, {}).setdefault(place.node, set()).add(tenant)

    def noted(self, snapshot: Snapshot) -> Snapshot:
        """With those who have leases of other resources on its nodes."""
        self._resource = next((pool.resource for pool in snapshot.pools), "")
        if not snapshot.dedicated:
            return snapshot
        neighbours: dict[str, set[TenantName]] = {}
        for resource, nodes in self._on.items():
            if resource != self._resource:
                for node, tenants in nodes.items():
                    neighbours.setdefault(node, set()).update(tenants)
        return replace(snapshot, neighbours=neighbours)

    def add(self, decision: Decision) -> None:
        """What was decided about the snapshot that was noted last."""
        for lease, place in (*decision.grants.items(), *decision.moves.items()):
            self._note(self._resource, lease.tenant, place)

"""Between the domain and the wire."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from allotment_allocator.domain.identity import PodTokenKeys
from allotment_allocator.domain.lease import Lease, LeaseState, Wait
from allotment_allocator.domain.pool import ANYWHERE, CPU, Node, NodeState, Pool, PoolKind, Wanted
from allotment_allocator.domain.ports import Used
from allotment_allocator.domain.tenant import Isolation, Tenant, Terms
from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.common.v1 import problem_pb2
from allotment_core.auth.principal import Role
from allotment_core.errors import FieldViolation, InvalidArgument
from allotment_core.names import NodeName, PoolName

STATES = {
    LeaseState.QUEUED: pb.LEASE_STATE_QUEUED,
    LeaseState.HELD: pb.LEASE_STATE_HELD,
    LeaseState.REVOKING: pb.LEASE_STATE_REVOKING,
    LeaseState.RELEASED: pb.LEASE_STATE_RELEASED,
    LeaseState.EXPIRED: pb.LEASE_STATE_EXPIRED,
}
_KINDS = {PoolKind.LOCAL: pb.POOL_KIND_LOCAL, PoolKind.NODES: pb.POOL_KIND_NODES}
_ISOLATIONS = {
    Isolation.SHARED: pb.ISOLATION_SHARED,
    Isolation.DEDICATED: pb.ISOLATION_DEDICATED,
}
_NODE_STATES = {
    NodeState.OPEN: pb.NODE_CONDITION_OPEN,
    NodeState.CORDONED: pb.NODE_CONDITION_CORDONED,
    NodeState.AWAY: pb.NODE_CONDITION_AWAY,
    NodeState.LOST: pb.NODE_CONDITION_LOST,
}
_ROLES = {
    pb.ROLE_VIEWER: Role.VIEWER,
    pb.ROLE_EDITOR: Role.EDITOR,
    pb.ROLE_ADMIN: Role.ADMIN,
}


def timestamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(instant.astimezone(UTC).replace(tzinfo=None))
    return stamp


def pool_message(pool: Pool, used_slots: int) -> pb.Pool:
    there = [node for node in pool.nodes if not node.expected]
    return pb.Pool(
        name=str(pool.name),
        kind=_KINDS[pool.kind],
        slot_count=sum(node.slot_count for node in there),
        used_slot_count=used_slots,
        threads_per_slot=pool.threads_per_slot,
        memory_bytes_per_slot=pool.memory_bytes_per_slot,
        resource=pool.resource,
        product=pool.product,
        node_count=len(there),
        open_node_count=sum(node.state is NodeState.OPEN for node in there),
        price_per_slot_hour=pool.price_per_slot_hour,
        expected_slot_count=pool.slot_count - sum(node.slot_count for node in there),
    )


def node_message(pool: Pool, node: Node, used_slots: int) -> pb.Node:
    open_now = node.state is NodeState.OPEN
    return pb.Node(
        name=node_name(pool, node),
        pool=str(pool.name),
        state=pb.NODE_CONDITION_EXPECTED if node.expected else _NODE_STATES[node.state],
        slot_count=node.slot_count,
        used_slot_count=used_slots,
        free_slot_count=max(0, node.slot_count - used_slots) if open_now else 0,
        resource=pool.resource,
        product=pool.product,
        price_per_slot_hour=pool.price_per_slot_hour,
    )


def node_name(pool: Pool, node: Node) -> str:
    """`pools/*/nodes/*`."""
    return str(NodeName(pool.name, node.name))


def wanted(shape: pb.Shape) -> Wanted:
    """Raises: InvalidArgument for a pool's name that is none."""
    pool = PoolName.parse(shape.pool).pool_id if shape.pool else ""
    return Wanted(resource=shape.resource or CPU, product=shape.product, pool=pool)


def tenant_message(tenant: Tenant) -> pb.Tenant:
    return pb.Tenant(
        name=str(tenant.name),
        weight=tenant.terms.weight,
        guaranteed_slots=tenant.terms.guaranteed_slots,
        quota_slots=tenant.terms.quota_slots,
        guaranteed_gpus=tenant.terms.guaranteed_gpus,
        quota_gpus=tenant.terms.quota_gpus,
        shares_experience=tenant.shares_experience,
        isolation=_ISOLATIONS[tenant.isolation],
        create_time=timestamp(tenant.create_time),
        update_time=timestamp(tenant.update_time),
        etag=tenant.etag,
    )


def terms(message: pb.Tenant) -> Terms:
    """Raises: InvalidArgument."""
    return Terms(
        weight=message.weight or 1.0,
        guaranteed_slots=message.guaranteed_slots,
        quota_slots=message.quota_slots,
        guaranteed_gpus=message.guaranteed_gpus,
        quota_gpus=message.quota_gpus,
    )


def isolation(message: pb.Tenant) -> Isolation:
    """SHARED unless it is said. Raises: InvalidArgument."""
    named = {number: isolation for isolation, number in _ISOLATIONS.items()}
    named[pb.ISOLATION_UNSPECIFIED] = Isolation.SHARED
    found = named.get(message.isolation)
    if found is None:
        raise InvalidArgument(
            f"isolation of a tenant is {message.isolation}; choose shared (1) or dedicated (2)",
            violations=(FieldViolation("tenant.isolation", "has to be shared or dedicated"),),
        )
    return found


def lease_message(lease: Lease, wait: Wait | None) -> pb.Lease:
    message = pb.Lease(
        name=str(lease.name),
        state=STATES[lease.state],
        epoch=lease.epoch,
        holder=str(lease.holder),
        pool=str(lease.place.pool) if lease.place else "",
        node=lease.place.node if lease.place and lease.place.node != ANYWHERE else "",
        shape=pb.Shape(
            resource=lease.wanted.resource,
            product=lease.wanted.product,
            pool=f"pools/{lease.wanted.pool}" if lease.wanted.pool else "",
        ),
        slot_count=lease.slot_count,
        trainer_end=lease.trainer_end,
        expire_time=timestamp(lease.expire_time),
        create_time=timestamp(lease.create_time),
        grant_time=timestamp(lease.grant_time),
        end_time=timestamp(lease.end_time),
        revoke_deadline=timestamp(lease.revoke_deadline),
    )
    if wait is not None:
        message.wait.CopyFrom(
            problem_pb2.Wait(reason=wait.reason, message=wait.message, position=wait.position)
        )
    if lease.problem is not None:
        message.problem.CopyFrom(
            problem_pb2.Problem(reason=lease.problem.reason, message=lease.problem.message)
        )
    return message


def usage_message(name: str, used: Used) -> pb.Usage:
    return pb.Usage(name=name, slot_seconds=used.slot_seconds, lease_count=used.lease_count)


def pod_tokens_message(keys: PodTokenKeys) -> pb.PodTokens:
    return pb.PodTokens(issuer=keys.issuer, jwks=keys.jwks, audience=keys.audience)


def role(value: int) -> Role:
    """Raises: InvalidArgument for a role that tokens are not issued for."""
    found = _ROLES.get(value)  # type: ignore[call-overload]
    if found is None:
        raise InvalidArgument(
            f"role {value} can't have a token; choose viewer (1), editor (2) or admin (3)",
            violations=(FieldViolation("role", "has to be viewer, editor or admin"),),
        )
    return found  # type: ignore[no-any-return]

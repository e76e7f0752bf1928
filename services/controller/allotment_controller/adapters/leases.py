"""The allocator, over gRPC."""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_controller import convert
from allotment_controller.domain.messages import LeaseView
from allotment_core.errors import InvalidArgument, Unavailable
from allotment_core.names import ExperimentName, LeaseName
from allotment_core.rpc.client import from_rpc_error

_TIMEOUT_S = 10.0
_LONGEST_WATCH_S = 3600.0


class GrpcLeases:
    """Implements the domain's Leases."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._leases = allocator_pb2_grpc.LeaseServiceStub(channel)
        self._pools = allocator_pb2_grpc.PoolServiceStub(channel)

    async def create(self, holder: ExperimentName, request_id: str) -> LeaseView:
        request = allocator_pb2.CreateLeaseRequest(
            request_id=request_id, parent=str(holder.tenant), holder=str(holder), slot_count=1
        )
        try:
            response = await self._leases.CreateLease(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        return _view(response.lease)

    async def renew(self, leases: Sequence[LeaseView]) -> list[LeaseView | None]:
        if not leases:
            return []
        request = allocator_pb2.RenewLeasesRequest(
            request_id=uuid.uuid4().hex,
            renewals=[
                allocator_pb2.LeaseRenewal(name=str(lease.name), epoch=lease.epoch)
                for lease in leases
            ],
        )
        try:
            response = await self._leases.RenewLeases(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        return [_view(r.lease) if r.HasField("lease") else None for r in response.leases]

    async def release(self, lease: LeaseName, epoch: int) -> LeaseView | None:
        request = allocator_pb2.ReleaseLeaseRequest(
            request_id=uuid.uuid4().hex, name=str(lease), epoch=epoch
        )
        try:
            response = await self._leases.ReleaseLease(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            if e.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise from_rpc_error(e) from None
        return _view(response.lease)

    async def slot_count(self) -> int:
        request = allocator_pb2.ListPoolsRequest(page_size=1000)
        try:
            response = await self._pools.ListPools(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        # Searches run on CPU slots; empty: an allocator that knows no other ones.
        pools = [pool for pool in response.pools if pool.resource in ("", "cpu")]
        return sum(pool.slot_count + pool.expected_slot_count for pool in pools)

    async def watch(self) -> AsyncIterator[LeaseView | None]:
        request = allocator_pb2.WatchLeasesRequest(parent="tenants/-")
        call = self._leases.WatchLeases(request, timeout=_LONGEST_WATCH_S)
        try:
            async for response in call:
                if response.HasField("lease") and response.lease.name:
                    try:
                        yield _view(response.lease)
                    except InvalidArgument:
                        continue  # Held by something that is no experiment: not ours.
                if response.snapshot_end:
                    yield None
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        finally:
            call.cancel()
        raise Unavailable("the allocator ended the watch of leases")


def _instant(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)


def _view(message: allocator_pb2.Lease) -> LeaseView:
    return LeaseView(
        name=LeaseName.parse(message.name),
        holder=ExperimentName.parse(message.holder),
        state=allocator_pb2.LeaseState.Name(message.state).removeprefix("LEASE_STATE_"),
        epoch=message.epoch,
        wait_reason=message.wait.reason,
        wait_message=message.wait.message,
        wait_position=message.wait.position,
        problem=convert.from_problem(message.problem) if message.problem.reason else None,
        trainer_end=message.trainer_end,
        grant_time=_instant(message.grant_time) if message.HasField("grant_time") else None,
    )

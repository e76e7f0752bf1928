"""What tenants consent to, as the allocator knows it."""

import logging

import grpc.aio

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_core.names import TenantName
from allotment_core.rpc.client import from_rpc_error

log = logging.getLogger(__name__)

_TIMEOUT_S = 0.5
"""Experiments are created and end without an answer too."""


class GrpcConsents:
    """Implements the domain's Consents."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._tenants = allocator_pb2_grpc.TenantServiceStub(channel)

    async def shares_experience(self, tenant: TenantName) -> bool | None:
        request = allocator_pb2.GetTenantRequest(name=str(tenant))
        try:
            response = await self._tenants.GetTenant(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            if e.code() is grpc.StatusCode.NOT_FOUND:
                return False
            error = from_rpc_error(e)
            log.info(
                "consent unknown",
                extra={"tenant": str(tenant), "reason": error.reason, "error": error.message},
            )
            return None
        return bool(response.tenant.shares_experience)

"""Tokens are verified with the allocator's keys, which are asked for and kept up to date."""

import asyncio
import contextlib
import logging
from typing import Any

import grpc.aio

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_core.auth.principal import Principal
from allotment_core.auth.tokens import TokenVerifier, key_id, key_id_of
from allotment_core.clock import Clock
from allotment_core.errors import FailedPrecondition, Unavailable
from allotment_core.rpc.client import from_rpc_error

log = logging.getLogger(__name__)

REFRESH_S = 300.0
SOONEST_S = 5.0
"""Between two fetches, whatever keys callers name."""
RETRY_S = 0.5
FETCH_S = 5.0


class FetchedKeys:
    """A verifier. A token of a key that it doesn't know has it ask again. Lives as long as the
    loop that it is made in; closes the channel then.
    """

    def __init__(self, allocator: grpc.aio.Channel, clock: Clock) -> None:
        self._channel = allocator
        self._clock = clock
        self._verifier: TokenVerifier | None = None
        self.ready = asyncio.Event()
        self._known: frozenset[str] = frozenset()
        self._fetched_s = -SOONEST_S
        self._wanted = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep(), name="token keys")

    def verify(self, token: str) -> Principal:
        """Raises: Unauthenticated, Unavailable (NO_TOKEN_KEYS) while keys are being fetched."""
        named = key_id_of(token)
        unknown = bool(named) and named not in self._known
        stale = self._clock.monotonic() - self._fetched_s >= SOONEST_S
        if self._verifier is None or (unknown and stale):
            self._wanted.set()
            raise Unavailable(
                "the keys that verify tokens are being fetched from the allocator; try again in a "
                "moment",
                reason="NO_TOKEN_KEYS",
                retry_after_s=RETRY_S,
            )
        return self._verifier.verify(token)

    async def _keep(self) -> None:
        try:
            while True:
                if not await self._fetch():
                    await asyncio.sleep(RETRY_S)
                    continue
                self._wanted.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), REFRESH_S)
        finally:
            await self._channel.close()

    async def _fetch(self) -> bool:
        stub: Any = allocator_pb2_grpc.TenantServiceStub(self._channel)
        try:
            request = allocator_pb2.FetchTokenKeysRequest()
            keys = tuple((await stub.FetchTokenKeys(request, timeout=FETCH_S)).public_keys)
            pems = tuple(key.encode("ascii", "replace") for key in keys)
            known = frozenset(key_id(pem) for pem in pems)
            if not known:
                raise FailedPrecondition("it has none")
            if known != self._known:
                self._verifier = TokenVerifier(pems[0], self._clock, *pems[1:])
                self._known = known
                self.ready.set()
                log.info("token keys fetched", extra={"keys": sorted(known)})
        except grpc.aio.AioRpcError as e:
            error = from_rpc_error(e)
            log.warning("token keys not fetched", extra={"error": error.message})
            return False
        except FailedPrecondition as e:
            log.error("the allocator's keys are none", extra={"error": e.message})
            return False
        except Exception:
            log.exception("token keys not fetched")
            return False
        self._fetched_s = self._clock.monotonic()
        return True

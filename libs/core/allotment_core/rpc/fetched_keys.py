"""Tokens are verified with the allocator's keys and those of its cluster, which are asked for and
kept up to date.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Any

import grpc.aio

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_core.auth.pod_identities import Held, PodIdentities
from allotment_core.auth.pod_tokens import Pod, PodTokenVerifier
from allotment_core.auth.principal import Principal
from allotment_core.auth.tokens import LONGEST_TOKEN, TokenVerifier, key_id, key_id_of
from allotment_core.clock import Clock
from allotment_core.errors import FailedPrecondition, Unavailable
from allotment_core.names import LeaseName
from allotment_core.rpc.client import from_rpc_error

log = logging.getLogger(__name__)

REFRESH_S = 300.0
SOON_S = 2.0
"""After so long again while the allocator doesn't have its cluster's keys yet."""
SOONEST_S = 5.0
"""Between two fetches, whatever keys callers name."""
RETRY_S = 0.5
FETCH_S = 5.0
IDENTIFY_S = 5.0


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
        self._pods: PodTokenVerifier | None = None
        self._has_pods = False
        """Trainers run in pods; their keys may not be known yet."""
        self._cluster: allocator_pb2.PodTokens | None = None
        self._identities = PodIdentities(self._identify, clock)
        self._fetched_s = -SOONEST_S
        self._wanted = asyncio.Event()
        self._unknown = ""
        """The key that has it ask again."""
        self._keeping = asyncio.create_task(self._keep(), name="token keys")

    def verify(self, token: str) -> Principal | Awaitable[Principal]:
        """A pod's holder may have to be asked for.

        Raises: Unauthenticated, Unavailable (NO_TOKEN_KEYS) while keys are being fetched.
        """
        named = key_id_of(token) if len(token) <= LONGEST_TOKEN else ""
        if self._pods is not None and named in self._pods.key_ids and named not in self._known:
            return self._identities.find(self._pods.check(token))
        unknown = bool(named) and named not in self._known
        stale = self._clock.monotonic() - self._fetched_s >= SOONEST_S
        waits = self._has_pods and self._pods is None
        if self._verifier is None or (unknown and (stale or waits)):
            if stale:
                self._unknown = named
                self._wanted.set()
            raise Unavailable(
                "the keys that verify tokens are being fetched from the allocator; try again in a "
                "moment",
                reason="NO_TOKEN_KEYS",
                retry_after_s=RETRY_S,
            )
        return self._verifier.verify(token)

    async def _identify(self, pod: Pod) -> Held:
        stub: Any = allocator_pb2_grpc.LeaseServiceStub(self._channel)
        request = allocator_pb2.IdentifyTrainerRequest(namespace=pod.namespace, pod_uid=pod.uid)
        try:
            found = await stub.IdentifyTrainer(request, timeout=IDENTIFY_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        return LeaseName.parse(found.lease), found.epoch

    async def _keep(self) -> None:
        try:
            while True:
                if not await self._fetch():
                    await asyncio.sleep(RETRY_S)
                    continue
                self._wanted.clear()
                with contextlib.suppress(TimeoutError):
                    waits = self._has_pods and self._pods is None
                    await asyncio.wait_for(self._wanted.wait(), SOON_S if waits else REFRESH_S)
        finally:
            await self._channel.close()

    async def _fetch(self) -> bool:
        stub: Any = allocator_pb2_grpc.TenantServiceStub(self._channel)
        try:
            request = allocator_pb2.FetchTokenKeysRequest(unknown_key_id=self._unknown)
            response = await stub.FetchTokenKeys(request, timeout=FETCH_S)
            self._take_keys(tuple(response.public_keys))
            self._take_cluster(response)
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
        self._unknown = ""
        self._fetched_s = self._clock.monotonic()
        return True

    def _take_keys(self, keys: tuple[str, ...]) -> None:
        """Raises: FailedPrecondition."""
        pems = tuple(key.encode("ascii", "replace") for key in keys)
        known = frozenset(key_id(pem) for pem in pems)
        if not known:
            raise FailedPrecondition("it has none")
        if known != self._known:
            self._verifier = TokenVerifier(pems[0], self._clock, *pems[1:])
            self._known = known
            self.ready.set()
            log.info("token keys fetched", extra={"keys": sorted(known)})

    def _take_cluster(self, response: allocator_pb2.FetchTokenKeysResponse) -> None:
        """Keeps the keys that it has while the allocator has none. Raises: FailedPrecondition."""
        self._has_pods = response.HasField("pod_tokens")
        told = response.pod_tokens
        if not told.jwks or told == self._cluster:
            return
        self._pods = PodTokenVerifier(
            issuer=told.issuer, audience=told.audience, jwks=told.jwks, clock=self._clock
        )
        self._cluster = told
        log.info("pods' keys fetched", extra={"keys": sorted(self._pods.key_ids)})

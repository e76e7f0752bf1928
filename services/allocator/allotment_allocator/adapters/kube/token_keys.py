"""What the cluster signs its pods' tokens with, from its own API server."""

import asyncio
import json
import logging

from allotment_allocator.adapters.kube.api import KubeApi
from allotment_allocator.domain.identity import PodTokenKeys
from allotment_core.auth.pod_tokens import AUDIENCE, read_key_set
from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError, FailedPrecondition

log = logging.getLogger(__name__)

ISSUER_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/openid/v1/jwks"
REFRESH_S = 300.0
SOONEST_S = 10.0
"""Between two fetches, whatever keys callers name."""
RETRY_S = 5.0
_WITHIN_S = 4.0
"""A caller waits no longer for new keys; it gets those that there are."""


class ClusterKeys:
    """Satisfies `domain.identity.PodKeys`. The last good keys count while the server is away."""

    def __init__(self, api: KubeApi, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._keys = PodTokenKeys(audience=AUDIENCE)
        self._known: frozenset[str] = frozenset()
        self._tried_s = -SOONEST_S
        self._fetching: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Keeps them up to date, until cancelled."""
        while True:
            got = await asyncio.shield(self._start())
            await asyncio.sleep(REFRESH_S if got else RETRY_S)

    async def fetch(self, unknown_key_id: str) -> PodTokenKeys:
        wanted = bool(unknown_key_id) and unknown_key_id not in self._known
        if wanted and self._clock.monotonic() - self._tried_s >= SOONEST_S:
            await asyncio.wait({self._start()}, timeout=_WITHIN_S)
        return self._keys

    def _start(self) -> asyncio.Task[bool]:
        if self._fetching is None or self._fetching.done():
            self._tried_s = self._clock.monotonic()
            self._fetching = asyncio.create_task(self._fetch(), name="cluster's token keys")
        return self._fetching

    async def _fetch(self) -> bool:
        try:
            described = await self._api.get(ISSUER_PATH)
            # Its jwks_uri is not followed: it may lead anywhere, and the API server has the keys.
            issuer, found = described.get("issuer"), await self._api.get(KEYS_PATH)
            if not isinstance(issuer, str) or not issuer:
                raise FailedPrecondition(f"{ISSUER_PATH} names no issuer", reason="NO_ISSUER")
            jwks = json.dumps({"keys": found.get("keys")}, sort_keys=True)
            known = frozenset(read_key_set(jwks))
        except AllotmentError as e:
            log.warning("cluster's token keys not fetched", extra={"error": e.message})
            return False
        except Exception:
            log.exception("cluster's token keys not fetched")
            return False
        if known != self._known:
            log.info("cluster's token keys fetched", extra={"issuer": issuer, "keys": len(known)})
        self._keys = PodTokenKeys(audience=AUDIENCE, issuer=issuer, jwks=jwks)
        self._known = known
        return True

"""The tokens of a local system: the user's, which lasts, and the services' own."""

from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import MAX_TTL_S, TokenSigner, TokenVerifier
from allotment_core.clock import Clock
from allotment_core.errors import Unauthenticated
from allotment_core.names import TenantName
from allotment_embedded.state import StateFolder

LOCAL = TenantName("local")
RENEW_TOKEN_S = 30 * 24 * 3600
"""A stored token that ends sooner is replaced at the next start."""


class InternalToken:
    """An admin's token for the services' own calls, renewed at half of its life."""

    TTL_S = 24 * 3600

    def __init__(self, signer: TokenSigner, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock
        self._token = ""
        self._renew_at = 0.0

    def __call__(self) -> str:
        if not self._token or self._clock.monotonic() >= self._renew_at:
            now = self._clock.now()
            self._token = self._signer.issue("embedded", LOCAL, Role.ADMIN, self.TTL_S, now)
            self._renew_at = self._clock.monotonic() + self.TTL_S / 2
        return self._token


def lasting_token(
    state: StateFolder, signer: TokenSigner, verifier: TokenVerifier, clock: Clock
) -> str:
    """The admin's token of this folder, the same after each start until it nears its end."""
    token = state.read_token()
    try:
        ends = verifier.verify(token).expires_at
    except Unauthenticated:
        ends = clock.now()
    if (ends - clock.now()).total_seconds() < RENEW_TOKEN_S:
        token = signer.issue("local-admin", LOCAL, Role.ADMIN, MAX_TTL_S, clock.now())
        state.write("token", token)
    return token

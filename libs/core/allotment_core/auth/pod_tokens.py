"""Tokens that a Kubernetes cluster gives to its pods, checked offline with the cluster's keys."""

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from allotment_core.auth.tokens import LONGEST_TOKEN, NOT_A_TOKEN, invalid_token, key_id_of
from allotment_core.clock import Clock
from allotment_core.errors import FailedPrecondition, Unauthenticated

TRAINER_ACCOUNT = "allotment-trainer"
"""The service account of trainers, in each tenant's namespace."""
AUDIENCE = "allotment"
ALGORITHMS = frozenset({"RS256", "ES256", "ES384", "ES512"})
"""What API servers sign with."""
_CACHE_LIMIT = 10_000
_CLAIMS = ["exp", "iss", "aud", "kubernetes.io"]


@dataclass(frozen=True, slots=True)
class Pod:
    """Which pod shows a token."""

    namespace: str
    uid: str


@dataclass(frozen=True, slots=True)
class PodClaims:
    """What a verified token says."""

    pod: Pod
    expires_at: datetime


class PodTokenVerifier:
    """Checks trainers' tokens of one cluster. Verified ones are remembered until they expire."""

    def __init__(self, *, issuer: str, audience: str, jwks: str, clock: Clock) -> None:
        """`jwks`: a JSON Web Key Set. Raises: FailedPrecondition (INVALID_KEY_SET)."""
        if not issuer or not audience:
            raise FailedPrecondition(
                "the cluster's tokens need an issuer and an audience", reason="INVALID_KEY_SET"
            )
        self._issuer = issuer
        self._audience = audience
        self._keys = read_key_set(jwks)
        self._clock = clock
        self._known: dict[str, PodClaims] = {}
        self._lock = threading.Lock()

    @property
    def key_ids(self) -> frozenset[str]:
        """What tokens call the keys."""
        return frozenset(self._keys)

    def check(self, token: str) -> PodClaims:
        """Raises: Unauthenticated (TOKEN_EXPIRED, INVALID_TOKEN); the text never repeats it."""
        claims = self._known.get(token)
        if claims is None:
            claims = self._check(token)
            with self._lock:
                if len(self._known) >= _CACHE_LIMIT:
                    self._known.clear()
                self._known[token] = claims
        if claims.expires_at <= self._clock.now():
            with self._lock:
                self._known.pop(token, None)
            raise Unauthenticated(
                f"the pod's token expired at {claims.expires_at:%Y-%m-%d %H:%M:%S} UTC; read its "
                "file again, which the kubelet renews",
                reason="TOKEN_EXPIRED",
            )
        return claims

    def _check(self, token: str) -> PodClaims:
        key = self._keys.get(key_id_of(token)) if len(token) <= LONGEST_TOKEN else None
        if key is None:
            raise invalid_token()
        try:
            claims = jwt.decode(
                token,
                key,
                # The key's own: a token can't choose how it is verified.
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                # Times are compared with our clock; a token is never refused as "too new".
                options={
                    "require": _CLAIMS,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            expires_at = datetime.fromtimestamp(0, UTC) + timedelta(seconds=int(claims["exp"]))
            return PodClaims(_pod(claims["kubernetes.io"]), expires_at)
        except (jwt.PyJWTError, KeyError, *NOT_A_TOKEN):
            raise invalid_token() from None


def _pod(bound: Any) -> Pod:
    """Raises: ValueError, TypeError, KeyError unless the token is a trainer pod's."""
    namespace, uid = bound["namespace"], bound["pod"]["uid"]
    if bound["serviceaccount"]["name"] != TRAINER_ACCOUNT:
        raise ValueError("another service account")
    if not (isinstance(namespace, str) and isinstance(uid, str) and namespace and uid):
        raise ValueError("no pod")
    return Pod(namespace, uid)


def read_key_set(text: str) -> dict[str, jwt.PyJWK]:
    """The keys in it that tokens are signed with, by their ids.

    Raises: FailedPrecondition (INVALID_KEY_SET) when there is none.
    """
    keys: dict[str, jwt.PyJWK] = {}
    try:
        for described in json.loads(text)["keys"]:
            key = _key(described)
            if key is not None and key.key_id:
                keys[str(key.key_id)] = key
    except (KeyError, *NOT_A_TOKEN):
        keys = {}
    if not keys:
        raise FailedPrecondition(
            f"the cluster's key set has no key of the kinds {', '.join(sorted(ALGORITHMS))}",
            reason="INVALID_KEY_SET",
        )
    return keys


def _key(described: Any) -> jwt.PyJWK | None:
    """None for a key that is not for tokens, or of a kind that isn't known here."""
    if not isinstance(described, dict):
        raise TypeError("a key is an object")
    if described.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(described)
    except jwt.PyJWTError:
        return None
    return key if key.algorithm_name in ALGORITHMS else None

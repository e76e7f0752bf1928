"""Tokens.

JWTs signed with ES256 by the allocator's key, checked by every server with the public one.
"""

import contextlib
import functools
import hashlib
import os
import secrets
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from allotment_core.auth.principal import Principal, Role
from allotment_core.clock import Clock
from allotment_core.durable import sync_folder
from allotment_core.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from allotment_core.names import LeaseName, TenantName

ISSUER = "allotment"
AUDIENCE = "allotment"
MIN_TTL_S = 60
MAX_TTL_S = 366 * 24 * 3600
LONGEST_TOKEN = 4096
_CACHE_LIMIT = 10_000
NOT_A_TOKEN = (ValueError, TypeError, OverflowError, RecursionError)
"""What reading one raises that is no token of anybody, besides jwt's own errors."""
_CLAIMS = ["exp", "iat", "iss", "aud", "sub", "tenant", "role"]


def key_id(public_key_pem: bytes) -> str:
    """What tokens call the key that verifies them. Raises: FailedPrecondition (INVALID_KEY)."""
    return _key_id(_public_key(public_key_pem))


@functools.lru_cache(maxsize=4096)
def key_id_of(token: str) -> str:
    """The id of the key that a token says it was signed with, unverified; "" for none."""
    try:
        named = jwt.get_unverified_header(token).get("kid", "")
    except (jwt.InvalidTokenError, *NOT_A_TOKEN):
        return ""
    return named if isinstance(named, str) else ""


class TokenSigner:
    """Issues tokens with a private key (PEM, ECDSA on P-256)."""

    def __init__(self, private_key_pem: bytes) -> None:
        self._key = _private_key(private_key_pem)
        self._key_id = _key_id(self._key.public_key())

    @property
    def public_key_pem(self) -> bytes:
        """What a TokenVerifier needs."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def issue(
        self,
        subject: str,
        tenant: TenantName,
        role: Role,
        ttl_s: int,
        now: datetime,
        lease: LeaseName | None = None,
        lease_epoch: int | None = None,
    ) -> str:
        """A token that ends `ttl_s` after `now`. Nothing is stored.

        Raises: InvalidArgument (INVALID_TTL; INVALID_TOKEN_REQUEST when a trainer's token lacks its
            lease, another has one, or the lease is another tenant's).
        """
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            raise InvalidArgument(
                f"a token can live {MIN_TTL_S} to {MAX_TTL_S} s, asked for {ttl_s}",
                reason="INVALID_TTL",
            )
        bound = lease is not None and lease_epoch is not None
        if bound != (role is Role.TRAINER) or (lease is not None and lease.tenant != tenant):
            raise InvalidArgument(
                "a trainer's token, and no other, is bound to a lease of its tenant and its epoch",
                reason="INVALID_TOKEN_REQUEST",
            )
        issued = int(now.timestamp())
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "tenant": str(tenant),
            "role": role.value,
            "iat": issued,
            "exp": issued + ttl_s,
            "jti": secrets.token_hex(8),
        }
        if lease is not None:
            claims |= {"lease": str(lease), "lease_epoch": lease_epoch}
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})


class TokenVerifier:
    """Checks tokens against public keys (PEM).

    Verified tokens are remembered until they expire.
    """

    def __init__(self, public_key_pem: bytes, clock: Clock, *older: bytes) -> None:
        """`older`: keys whose tokens count until they expire. Raises: FailedPrecondition."""
        keys = [_public_key(pem) for pem in (public_key_pem, *older)]
        self._keys = {_key_id(key): key for key in keys}
        self._clock = clock
        self._known: dict[str, Principal] = {}
        self._lock = threading.Lock()

    def verify(self, token: str) -> Principal:
        """The token's holder.

        Raises: Unauthenticated (TOKEN_EXPIRED, INVALID_TOKEN); the text never repeats the token.
        """
        now = self._clock.now()
        principal = self._known.get(token)
        if principal is None:
            principal = self._check(token)
            with self._lock:
                if len(self._known) >= _CACHE_LIMIT:
                    self._known.clear()
                self._known[token] = principal
        if principal.expires_at <= now:
            with self._lock:
                self._known.pop(token, None)
            raise Unauthenticated(
                f"the token expired at {principal.expires_at:%Y-%m-%d %H:%M:%S} UTC; get a new one "
                "(allotment token create)",
                reason="TOKEN_EXPIRED",
            )
        return principal

    def _check(self, token: str) -> Principal:
        if len(token) > LONGEST_TOKEN:
            raise invalid_token()
        named = key_id_of(token)
        key = self._keys.get(named) if named else next(iter(self._keys.values()))
        if key is None:
            raise invalid_token()
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=["ES256"],
                audience=AUDIENCE,
                issuer=ISSUER,
                # Times are compared with our clock, above; a token is never refused as "too new".
                options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
            )
            lease, epoch = claims.get("lease"), claims.get("lease_epoch")
            role = Role(claims["role"])
            principal = Principal(
                subject=str(claims["sub"]),
                tenant=TenantName.parse(str(claims["tenant"])),
                role=role,
                expires_at=datetime.fromtimestamp(0, UTC) + timedelta(seconds=int(claims["exp"])),
                lease=LeaseName.parse(str(lease)) if lease is not None else None,
                lease_epoch=int(epoch) if epoch is not None else None,
            )
        except (jwt.InvalidTokenError, InvalidArgument, *NOT_A_TOKEN):
            raise invalid_token() from None
        if role is Role.TRAINER and (principal.lease is None or principal.lease_epoch is None):
            raise invalid_token()
        return principal


def invalid_token() -> Unauthenticated:
    """What is said of a token that nobody here has issued."""
    return Unauthenticated(
        "the token is not one of this server's; send 'authorization: Bearer TOKEN' with a token "
        "that this server issued",
        reason="INVALID_TOKEN",
    )


def load_or_create_key(path: Path) -> bytes:
    """The private key in this file as PEM; made on the first call, readable by its owner alone.

    Raises: FailedPrecondition (INVALID_KEY) when the file holds something else.
    """
    with contextlib.suppress(FileNotFoundError):
        return _checked_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # Written aside and linked: nobody ever reads half a key, and two starts agree on one.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink()
    sync_folder(path.parent)
    return _checked_key(path)


def _checked_key(path: Path) -> bytes:
    pem = path.read_bytes()
    try:
        _private_key(pem)
    except FailedPrecondition:
        raise FailedPrecondition(
            f"{path} does not hold a key of this server; restore it, or remove it to get a new one "
            "(tokens that were issued stop working then)",
            reason="INVALID_KEY",
        ) from None
    return pem


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _bad_key() from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_key()
    return key


def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _bad_key() from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_key()
    return key


def _key_id(key: ec.EllipticCurvePublicKey) -> str:
    encoded = key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    return hashlib.sha256(encoded).hexdigest()[:16]


def _bad_key() -> FailedPrecondition:
    return FailedPrecondition("the key has to be PEM, ECDSA on P-256", reason="INVALID_KEY")

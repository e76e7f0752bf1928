"""What a release's secrets have to hold: a pure function of what they hold, the settings and the
time. What people have made beforehand is used and never changed.
"""

import base64
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from allotment_allocator.install import authority as x
from allotment_allocator.install.authority import Authorities, KeyPair
from allotment_allocator.install.config import InstallConfig
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner, TokenVerifier
from allotment_core.errors import FailedPrecondition, Unauthenticated
from allotment_core.names import TenantName

TLS = "kubernetes.io/tls"
OPAQUE = "Opaque"
ADMIN = "admin"
MINIO_USER = "allotment"
_DAY_S = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One of the release's."""

    data: Mapping[str, bytes] = field(repr=False)
    kind: str = OPAQUE
    ours: bool = True
    """Made by a run of this program, or of the chart; else by somebody beforehand."""
    version: str = ""
    """As it was read; empty: it is not there yet."""


Secrets = Mapping[str, Secret]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What has to be written, by name, and what people should know."""

    writes: Secrets
    notes: tuple[str, ...] = ()
    bundle: bytes = b""
    """The certificates of all authorities that count; empty: they are not ours to publish."""


def names(config: InstallConfig) -> list[str]:
    """Of all secrets that may be the release's."""
    kinds = ["ca", "ca-key", "signing-key", "admin", "postgresql", "minio"]
    kinds += [f"{service}-tls" for service in config.services]
    return [f"{config.release}-{kind}" for kind in kinds]


def claims(config: InstallConfig) -> dict[str, str]:
    """By a password's secret: the volume claim that the password belongs to."""
    stores = {"postgresql": config.postgresql, "minio": config.minio}
    return {
        f"{config.release}-{store}": f"data-{config.release}-{store}-0"
        for store, wanted in stores.items()
        if wanted
    }


def whole(config: InstallConfig, found: Secrets, kept: Collection[str], now: datetime) -> Plan:
    """For an install or an upgrade. `kept`: the volume claims that are there.

    Raises: FailedPrecondition for what doesn't fit together.
    """
    certificates = renewal(config, found, now)
    writes = {**_passwords(config, found, kept), **_tokens(config, found, now)}
    return replace(certificates, writes={**writes, **certificates.writes})


def renewal(config: InstallConfig, found: Secrets, now: datetime) -> Plan:
    """Of certificates alone. Raises: FailedPrecondition for what doesn't fit together."""
    if config.certificates == "none":
        return Plan(writes={})
    leaves = {service: f"{config.release}-{service}-tls" for service in config.services}
    if config.certificates == "cert-manager":
        leaves = {}
    given = [found[name] for name in (*leaves.values(), _ca(config)) if name in found]
    if leaves and len(given) == len(leaves) + 1 and not any(secret.ours for secret in given):
        # Somebody else's in all parts: there is nothing for an authority to sign.
        return Plan(writes={}, notes=_ends_soon(config, found, leaves.values(), now))
    authorities, writes, notes = _authorities(config, found, now)
    for service, name in leaves.items():
        written = _leaf(config, found.get(name), name, service, authorities, now)
        if written is not None:
            writes[name] = written
    theirs = [name for name in leaves.values() if name in found and not found[name].ours]
    notes += _ends_soon(config, found, theirs, now)
    return Plan(writes=writes, notes=notes, bundle=authorities.bundle)


def _passwords(config: InstallConfig, found: Secrets, kept: Collection[str]) -> dict[str, Secret]:
    made = {}
    for name, claim in claims(config).items():
        postgresql = name.endswith("-postgresql")
        keys = ("password",) if postgresql else ("access-key", "secret-key")
        if name in found:
            _needs(found[name], name, keys)
            continue
        if claim in kept:
            raise FailedPrecondition(
                f"the volume claim {claim} of an earlier release is there, but not the secret "
                f"{name} with its password; restore the secret (keys {', '.join(keys)}), or delete "
                "the claim to begin without its data",
                reason="KEPT_VOLUME_WITHOUT_PASSWORD",
            )
        password = secrets.token_urlsafe(32).encode()
        data = {"password": password}
        if not postgresql:
            data = {"access-key": MINIO_USER.encode(), "secret-key": password}
        made[name] = Secret(data=data)
    return made


def _tokens(config: InstallConfig, found: Secrets, now: datetime) -> dict[str, Secret]:
    key_name, admin_name = f"{config.release}-signing-key", f"{config.release}-admin"
    made: dict[str, Secret] = {}
    if key_name in found:
        key = _needs(found[key_name], key_name, ("key.pem",))["key.pem"]
    else:
        key = x.new_key()
        made[key_name] = Secret(data={"key.pem": key})
    try:
        signer = TokenSigner(key)
    except FailedPrecondition as e:
        raise FailedPrecondition(f"the secret {key_name}: {e.message}", reason=e.reason) from None
    admin = found.get(admin_name)
    ttl = timedelta(days=config.admin_token_days)
    if admin is not None and not admin.ours:
        _needs(admin, admin_name, ("token",))
    elif admin is None or _left(admin, signer, now) < ttl / 3:
        tenant, seconds = TenantName(config.admin_tenant), config.admin_token_days * _DAY_S
        token = signer.issue(ADMIN, tenant, Role.ADMIN, seconds, now)
        version = admin.version if admin else ""
        made[admin_name] = Secret(data={"token": token.encode()}, version=version)
    return made


class _At:
    """A clock that stands."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return 0.0


def _left(admin: Secret, signer: TokenSigner, now: datetime) -> timedelta:
    """How long its token is valid yet."""
    token = admin.data.get("token", b"").decode(errors="replace").strip()
    try:
        return TokenVerifier(signer.public_key_pem, _At(now)).verify(token).expires_at - now
    except Unauthenticated:
        return timedelta()


def _authorities(
    config: InstallConfig, found: Secrets, now: datetime
) -> tuple[Authorities, dict[str, Secret], tuple[str, ...]]:
    """Who signs and counts now, what has to be written for it, and what people should know."""
    name, ca_name = f"{config.release}-ca-key", _ca(config)
    stored, published = found.get(name), found.get(ca_name)
    # Each has a name of its own: of two with one name, gRPC would try one alone.
    title = f"{config.release} CA {secrets.token_hex(4)}"
    notes: tuple[str, ...] = ()
    if stored is None:
        _check_key_can_be_made(published, ca_name, name)
        known = Authorities(current=x.new_authority(title, now, config.ca_days))
    else:
        known = _read(stored, name)
    known = replace(known, former=_former(known, published))
    if stored is not None and stored.ours and config.certificates == "own":
        known = x.advance(known, title, now, config.ca_days)
    elif x.part_left(known.current.certificate, now) < x.PUBLISHED_AT:
        notes = (f"the authority in {name} ends at {x.ends_at(known.current.certificate)}",)
    writes: dict[str, Secret] = {}
    if stored is None or (stored.ours and _authority_data(known) != stored.data):
        version = stored.version if stored else ""
        writes[name] = Secret(data=_authority_data(known), kind=TLS, version=version)
    if published is None or published.ours:
        if published is None or published.data.get("ca.crt") != known.bundle:
            version = published.version if published else ""
            writes[ca_name] = Secret(data={"ca.crt": known.bundle}, version=version)
    else:
        bundle = _needs(published, ca_name, ("ca.crt",))["ca.crt"]
        if not set(x.certificates_of(known.current.certificate)) & set(x.certificates_of(bundle)):
            raise FailedPrecondition(
                f"the secret {ca_name}, made beforehand, lacks the certificate of {name}; put it "
                "there, or remove the one of the two that is wrong",
                reason="ANOTHER_AUTHORITY",
            )
    return known, writes, notes


def _check_key_can_be_made(published: Secret | None, ca_name: str, name: str) -> None:
    if published is not None and not published.ours:
        raise FailedPrecondition(
            f"the secret {ca_name} was made beforehand, but not {name} with its key, and some "
            "service has no certificate; make all of them, or none",
            reason="NO_AUTHORITY_KEY",
        )


def _read(stored: Secret, name: str) -> Authorities:
    data = _needs(stored, name, ("tls.crt", "tls.key"))
    current = KeyPair(certificate=data["tls.crt"], key=data["tls.key"])
    following = None
    if "next.crt" in data and "next.key" in data:
        following = KeyPair(certificate=data["next.crt"], key=data["next.key"])
    try:
        for pair in (current, following):
            if pair is not None:
                x.read(pair)
    except FailedPrecondition as e:
        raise FailedPrecondition(f"the secret {name}: {e.message}", reason=e.reason) from None
    return Authorities(current=current, following=following)


def _former(known: Authorities, published: Secret | None) -> tuple[bytes, ...]:
    """Those in the published bundle that are neither the current nor the following one."""
    bundle = published.data.get("ca.crt", b"") if published is not None and published.ours else b""
    others = x.certificates_of(known.bundle)
    return tuple(pem for pem in x.certificates_of(bundle) if pem not in others)


def _authority_data(known: Authorities) -> dict[str, bytes]:
    data = {"tls.crt": known.current.certificate, "tls.key": known.current.key}
    if known.following is not None:
        data |= {"next.crt": known.following.certificate, "next.key": known.following.key}
    return data


def _leaf(
    config: InstallConfig,
    stored: Secret | None,
    name: str,
    service: str,
    authorities: Authorities,
    now: datetime,
) -> Secret | None:
    """What has to be written; None: it is right as it is."""
    keys = ("tls.crt", "tls.key", "ca.crt")
    if stored is not None and not stored.ours:
        _needs(stored, name, keys)
        return None
    called = config.names_of(service)
    data = stored.data if stored is not None else {}
    pair = KeyPair(certificate=data.get("tls.crt", b""), key=data.get("tls.key", b""))
    before = timedelta(days=config.renew_days)
    if x.why_not(pair, authorities.current, service, called, now, before):
        pair = x.issue(authorities.current, service, called, now, config.certificate_days)
    wanted = dict(zip(keys, (pair.certificate, pair.key, authorities.bundle), strict=True))
    if wanted == data:
        return None
    return Secret(data=wanted, kind=TLS, version=stored.version if stored is not None else "")


def _ends_soon(
    config: InstallConfig, found: Secrets, given: Collection[str], now: datetime
) -> tuple[str, ...]:
    """About certificates that people made: they are theirs to renew."""
    before = now + timedelta(days=config.renew_days)
    ends = {name: x.ends_at(found[name].data.get("tls.crt", b"")) for name in given}
    return tuple(
        f"the certificate in {name}, made beforehand, ends at {at}"
        for name, at in ends.items()
        if at is not None and at < before
    )


def _needs(secret: Secret, name: str, keys: Collection[str]) -> Mapping[str, bytes]:
    missing = [key for key in keys if not secret.data.get(key)]
    if missing:
        raise FailedPrecondition(
            f"the secret {name} lacks {', '.join(missing)}; complete it, or remove it to have it "
            "made",
            reason="INCOMPLETE_SECRET",
        )
    return secret.data


def _ca(config: InstallConfig) -> str:
    return f"{config.release}-ca"


def encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    """As the API server has it."""
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


def decoded(data: Mapping[str, str]) -> dict[str, bytes]:
    """The other way."""
    return {key: base64.b64decode(value) for key, value in data.items()}

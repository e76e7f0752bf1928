"""Certificates of a release: an authority of its own, and services' certificates signed by it.

Pure but for the keys, which are drawn at random: what time it is, is an argument.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from allotment_core.auth.principal import SERVICE_ID
from allotment_core.errors import FailedPrecondition

EARLIER = timedelta(minutes=5)
"""Certificates begin so long before they are made: clocks differ."""
SETTLED = timedelta(hours=1)
"""A new authority signs nothing before it was published for so long: until then it has reached
every pod."""
PUBLISHED_AT, SIGNS_AT = 1 / 3, 1 / 6
"""Of its predecessor's life is left when a new authority is published, and when it signs."""
_LONGEST_COMMON_NAME = 64

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """Whose certificates count."""

    current: KeyPair
    """Signs."""
    following: KeyPair | None = None
    """Is published already, and signs next."""
    former: tuple[bytes, ...] = ()
    """Certificates (PEM) of those that signed what may still be in use."""

    @property
    def bundle(self) -> bytes:
        """What others trust."""
        pairs = (self.current, self.following) if self.following else (self.current,)
        return b"".join([pair.certificate for pair in pairs] + list(self.former))


def new_key() -> bytes:
    """A private key: PEM, ECDSA on P-256."""
    return _pem_of(ec.generate_private_key(ec.SECP256R1()))


def new_authority(title: str, now: datetime, days: int) -> KeyPair:
    """An authority that signs services' certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(title)
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate=_pem(certificate), key=_pem_of(key))


def issue(
    authority: KeyPair, service: str, names: Sequence[str], now: datetime, days: int
) -> KeyPair:
    """A service's certificate, for both ends of its calls; it never outlives the authority's."""
    signer, signing_key = read(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(now + timedelta(days=days), signer.not_valid_after_utc)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    certificate = (
        _builder(_name(service), signer.subject, key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_alternatives(service, names), critical=False)
        .add_extension(signed_by, critical=False)
        .sign(signing_key, hashes.SHA256())
    )
    return KeyPair(certificate=_pem(certificate), key=_pem_of(key))


def read(pair: KeyPair) -> tuple[x509.Certificate, SigningKey]:
    """Raises: FailedPrecondition (INVALID_AUTHORITY) where they are no pair that signs."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, password=None)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        raise _bad_authority("is no PEM certificate of an authority with its key") from None
    if not constraints.ca:
        raise _bad_authority("is not an authority's (its basic constraints don't say CA)")
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _bad_authority("has a key that is neither ECDSA nor RSA")
    if certificate.public_key() != key.public_key():
        raise _bad_authority("has the key of another certificate")
    return certificate, key


def part_left(pem: bytes, now: datetime) -> float:
    """Of a certificate's life: 1 is all of it, below 0 it has ended."""
    found = x509.load_pem_x509_certificate(pem)
    return (found.not_valid_after_utc - now) / (
        found.not_valid_after_utc - found.not_valid_before_utc
    )


def advance(known: Authorities, title: str, now: datetime, days: int) -> Authorities:
    """The authorities as they have to be now: the next one is published when a third of the
    current one's life is left, and signs when a sixth is.
    """
    left = part_left(known.current.certificate, now)
    former = tuple(pem for pem in known.former if _ends(pem) > now)
    following = known.following
    if following is None and left < PUBLISHED_AT:
        following = new_authority(title, now, days)
    if following is None or left >= SIGNS_AT:
        return Authorities(current=known.current, following=following, former=former)
    begun = x509.load_pem_x509_certificate(following.certificate).not_valid_before_utc + EARLIER
    if now - begun < SETTLED and left > 0:
        return Authorities(current=known.current, following=following, former=former)
    if left > 0:
        former = (known.current.certificate, *former)
    return Authorities(current=following, former=former)


def certificates_of(bundle: bytes) -> list[bytes]:
    """Each of a bundle's certificates, as PEM. Nothing where it can't be read."""
    try:
        return [_pem(found) for found in x509.load_pem_x509_certificates(bundle)]
    except ValueError:
        return []


def why_not(
    pair: KeyPair,
    authority: KeyPair,
    service: str,
    names: Sequence[str],
    now: datetime,
    renew_before: timedelta,
) -> str:
    """Why a service's certificate has to be made anew; empty: it is right as it is."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, password=None)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return "it can't be read"
    if certificate.public_key() != key.public_key():
        return "the key is another one's"
    if certificate.not_valid_after_utc - now < renew_before:
        return f"it ends at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if set(found) != set(_alternatives(service, names)):
        return "its names are others"
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    except (ValueError, TypeError, InvalidSignature):
        return "the authority is another one"
    return ""


def ends_at(pem: bytes) -> datetime | None:
    """When a certificate ends; None where it can't be read."""
    try:
        return _ends(pem)
    except ValueError:
        return None


def _ends(pem: bytes) -> datetime:
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def _name(title: str) -> x509.Name:
    short = title[:_LONGEST_COMMON_NAME]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, short)])


def _alternatives(service: str, names: Iterable[str]) -> x509.SubjectAlternativeName:
    ids = [x509.UniformResourceIdentifier(SERVICE_ID + service)]
    return x509.SubjectAlternativeName([*map(_general_name, names), *ids])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    serial = x509.random_serial_number()
    return x509.CertificateBuilder(issuer, subject, public, serial, now - EARLIER, ends)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _bad_authority(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the authority {what}; restore it, or remove it to get a new one",
        reason="INVALID_AUTHORITY",
    )

"""A certificate authority of one's own, for services on this machine."""

import ipaddress
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from allotment_core.auth.principal import SERVICE_ID
from allotment_core.rpc.tls import TlsFiles

LIFE = timedelta(days=30)
EARLIER = timedelta(minutes=5)


class Authority:
    """Signs certificates for 127.0.0.1 and localhost. Its own key is nowhere but in memory."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        # Two of one name in a bundle: gRPC would try one of them alone.
        title = f"allotment local CA {secrets.token_hex(4)}"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
        certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, folder: Path, service: str) -> TlsFiles:
        """Writes key, certificate and this authority's certificate into the folder; whole files
        at once, so that a reader never sees a half.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName(
            [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.UniformResourceIdentifier(SERVICE_ID + service),
            ]
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
        certificate = (
            _builder(subject, self._name, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(alternatives, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = TlsFiles(
            certificate=folder / "tls.crt", key=folder / "tls.key", ca=folder / "ca.crt"
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write(files.key, private)
        _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        _write(folder / "ca.crt", self.pem)
        return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + LIFE)
    )


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}")
    aside.touch(mode=0o600)
    aside.write_bytes(content)
    aside.replace(path)

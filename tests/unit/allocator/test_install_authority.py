"""A release's authority and certificates, as a TLS library sees them."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from allotment_allocator.install import authority as x
from allotment_allocator.install.authority import Authorities, KeyPair
from allotment_core.auth.tokens import TokenSigner
from allotment_core.errors import FailedPrecondition

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("a-dataset", "a-dataset.home.svc", "localhost", "127.0.0.1", "2001:db8::1")
DAY = timedelta(days=1)
RENEW = 30 * DAY


def leaf(signer: KeyPair, now: datetime = NOW, days: int = 90) -> KeyPair:
    return x.issue(signer, "dataset", NAMES, now, days)


def why_not(pair: KeyPair, signer: KeyPair, now: datetime = NOW) -> str:
    return x.why_not(pair, signer, "dataset", NAMES, now, RENEW)


def written(folder: Path, **contents: bytes) -> dict[str, str]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in contents}


def handshake(folder: Path, pair: KeyPair, bundle: bytes, host: str) -> None:
    """Both ends show the certificate and check the other's. Raises: ssl.SSLError."""
    files = written(folder, crt=pair.certificate, key=pair.key, ca=bundle)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files["ca"])
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=files["ca"])
    for context in (server, client):
        context.load_cert_chain(files["crt"], files["key"])
    near, far = socket.socketpair()
    with near, far:
        for end in (near, far):
            end.settimeout(5)
        answering = threading.Thread(target=_answer, args=(server, far))
        answering.start()
        try:
            with client.wrap_socket(near, server_hostname=host) as connected:
                connected.sendall(b"x")
                assert connected.recv(1) == b"x"
        finally:
            near.close()
            answering.join()


def _answer(context: ssl.SSLContext, end: socket.socket) -> None:
    try:
        with context.wrap_socket(end, server_side=True) as connected:
            connected.sendall(connected.recv(1))
    except OSError:
        pass


@pytest.mark.parametrize("host", NAMES)
def test_services_trust_each_other_by_each_name(tmp_path: Path, host: str) -> None:
    now = datetime.now(UTC)
    signer = x.new_authority("a CA", now, 3650)
    handshake(tmp_path, leaf(signer, now), signer.certificate, host)


def test_a_certificate_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    signer, other = (x.new_authority("a CA", now, 3650) for _ in range(2))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(tmp_path, leaf(other, now), signer.certificate, "localhost")


def test_both_authorities_count_while_one_follows_the_other(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old, new = (x.new_authority("a CA", now, 3650) for _ in range(2))
    bundle = Authorities(current=new, former=(old.certificate,)).bundle
    for signer in (old, new):
        handshake(tmp_path, leaf(signer, now), bundle, "localhost")


def test_a_certificate_says_whose_it_is_and_for_how_long() -> None:
    signer = x.new_authority("a CA", NOW, 3650)
    certificate = x509.load_pem_x509_certificate(leaf(signer).certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ids = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert ids == ["spiffe://allotment/service/dataset"]
    assert certificate.not_valid_after_utc == NOW + 90 * DAY
    assert certificate.not_valid_before_utc < NOW


def test_a_certificate_never_outlives_its_authority() -> None:
    signer = x.new_authority("a CA", NOW, 100)
    late = leaf(signer, NOW + 50 * DAY)
    assert x.ends_at(late.certificate) == NOW + 100 * DAY


def test_a_right_certificate_is_left_alone_until_its_renewal() -> None:
    signer = x.new_authority("a CA", NOW, 3650)
    pair = leaf(signer)
    assert why_not(pair, signer) == ""
    assert why_not(pair, signer, NOW + 59 * DAY) == ""
    assert "ends" in why_not(pair, signer, NOW + 61 * DAY)


def test_a_certificate_with_other_names_key_or_authority_is_made_anew() -> None:
    signer, other = (x.new_authority("a CA", NOW, 3650) for _ in range(2))
    pair = leaf(signer)
    more = (*NAMES, "models.example.com")
    assert "names" in x.why_not(pair, signer, "dataset", more, NOW, RENEW)
    assert "names" in x.why_not(pair, signer, "exporter", NAMES, NOW, RENEW)
    assert "authority" in why_not(pair, other)
    mixed = KeyPair(certificate=pair.certificate, key=leaf(signer).key)
    assert "key" in why_not(mixed, signer)
    assert "read" in why_not(KeyPair(certificate=b"", key=b""), signer)


def advanced(known: Authorities, days: float) -> Authorities:
    return x.advance(known, "a CA", NOW + days * DAY, 3600)


def test_an_authority_is_followed_by_one_that_was_published_long_before() -> None:
    first = Authorities(current=x.new_authority("a CA", NOW, 3600))
    assert advanced(first, 2399) == first
    published = advanced(first, 2401)
    assert published.current == first.current
    assert published.following is not None
    assert published.following.certificate in published.bundle
    assert advanced(published, 2999) == published
    follows = advanced(published, 3001)
    assert follows.current == published.following
    assert follows.following is None
    assert first.current.certificate in follows.bundle
    assert advanced(follows, 3599) == follows
    assert advanced(follows, 3601).bundle == follows.current.certificate


def test_a_new_authority_signs_nothing_in_the_hour_in_which_it_is_published() -> None:
    first = Authorities(current=x.new_authority("a CA", NOW, 3600))
    late = advanced(first, 3500)
    assert late.current == first.current
    assert advanced(late, 3500 + 0.5 / 24) == late
    assert advanced(late, 3500 + 1.5 / 24).current == late.following


def test_an_authority_that_has_ended_is_replaced_at_once_and_forgotten() -> None:
    first = Authorities(current=x.new_authority("a CA", NOW, 3600))
    after = advanced(first, 3700)
    assert after.current != first.current
    assert after.bundle == after.current.certificate


@pytest.mark.parametrize("part", ["certificate", "key"])
def test_what_can_sign_nothing_is_refused_in_words(part: str) -> None:
    signer = x.new_authority("a CA", NOW, 3650)
    broken = KeyPair(
        certificate=b"no" if part == "certificate" else signer.certificate,
        key=b"no" if part == "key" else signer.key,
    )
    for wrong in (broken, leaf(signer)):
        with pytest.raises(FailedPrecondition, match="authority"):
            x.read(wrong)


def test_a_new_key_signs_tokens() -> None:
    assert TokenSigner(x.new_key()).public_key_pem.startswith(b"-----BEGIN PUBLIC KEY")

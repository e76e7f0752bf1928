"""Tokens: who signed them, for whom, until when."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import (
    TokenSigner,
    TokenVerifier,
    key_id,
    key_id_of,
    load_or_create_key,
)
from allotment_core.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from allotment_core.names import LeaseName, TenantName
from allotment_testkit.clock import ManualClock
from allotment_testkit.rpc import new_signer

SIGNER = new_signer()
TENANT = TenantName("local")
LEASE = LeaseName(TENANT, "l1")
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def verifier(clock: ManualClock) -> TokenVerifier:
    return TokenVerifier(SIGNER.public_key_pem, clock)


def test_a_token_names_its_holder(verifier: TokenVerifier) -> None:
    principal = verifier.verify(SIGNER.issue("ann", TENANT, Role.EDITOR, 60, START))
    assert (principal.subject, principal.tenant, principal.role) == ("ann", TENANT, Role.EDITOR)
    assert principal.lease is None


def test_a_trainers_token_names_its_lease_and_epoch(verifier: TokenVerifier) -> None:
    token = SIGNER.issue("t", TENANT, Role.TRAINER, 60, START, LEASE, 3)
    principal = verifier.verify(token)
    assert (principal.lease, principal.lease_epoch) == (LEASE, 3)


@pytest.mark.parametrize(
    ("role", "lease", "epoch"),
    [
        (Role.TRAINER, None, None),
        (Role.TRAINER, LEASE, None),
        (Role.EDITOR, LEASE, 1),
        (Role.TRAINER, LeaseName(TenantName("other"), "l"), 1),
    ],
)
def test_only_a_trainer_is_bound_to_a_lease_of_its_tenant(
    role: Role, lease: LeaseName | None, epoch: int | None
) -> None:
    with pytest.raises(InvalidArgument):
        SIGNER.issue("t", TENANT, role, 60, START, lease, epoch)


@pytest.mark.parametrize("ttl_s", [0, 59, 31_622_401, -1])
def test_a_token_lives_neither_too_long_nor_too_short(ttl_s: int) -> None:
    with pytest.raises(InvalidArgument, match="31622400"):
        SIGNER.issue("t", TENANT, Role.EDITOR, ttl_s, START)


def test_a_token_ends_at_its_expiry_even_when_it_is_known(
    verifier: TokenVerifier, clock: ManualClock
) -> None:
    token = SIGNER.issue("ann", TENANT, Role.EDITOR, 60, START)
    verifier.verify(token)
    clock.advance(59)
    verifier.verify(token)
    clock.advance(1)
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(token)
    assert caught.value.reason == "TOKEN_EXPIRED"


def test_another_keys_token_is_refused(verifier: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated):
        verifier.verify(new_signer().issue("ann", TENANT, Role.ADMIN, 60, START))


def test_an_older_keys_tokens_count_where_it_is_named(clock: ManualClock) -> None:
    new = new_signer()
    verifier = TokenVerifier(new.public_key_pem, clock, SIGNER.public_key_pem)
    for signer in (new, SIGNER):
        token = signer.issue("ann", TENANT, Role.EDITOR, 60, START)
        assert key_id_of(token) == key_id(signer.public_key_pem)
        assert verifier.verify(token).subject == "ann"
    with pytest.raises(Unauthenticated):
        verifier.verify(new_signer().issue("ann", TENANT, Role.EDITOR, 60, START))


def test_a_verifier_takes_no_other_kind_of_key(clock: ManualClock) -> None:
    with pytest.raises(FailedPrecondition, match="P-256"):
        TokenVerifier(b"not a key", clock)


def test_unsigned_and_symmetric_tokens_are_refused(verifier: TokenVerifier) -> None:
    token = SIGNER.issue("ann", TENANT, Role.EDITOR, 60, START)
    claims = jwt.decode(token, options={"verify_signature": False})
    claims["role"] = "admin"
    unsigned = jwt.encode(claims, "", algorithm="none")
    symmetric = jwt.encode(claims, "x" * 32, algorithm="HS256")
    header, _, signature = token.split(".")
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    for forged in (unsigned, symmetric, f"{header}.{changed}.{signature}"):
        with pytest.raises(Unauthenticated) as caught:
            verifier.verify(forged)
        assert caught.value.reason == "INVALID_TOKEN"


@pytest.mark.parametrize("claim", ["exp", "aud", "iss", "tenant", "role", "sub"])
def test_every_claim_is_needed(verifier: TokenVerifier, claim: str, tmp_path: Path) -> None:
    pem = load_or_create_key(tmp_path / "key")
    signer = TokenSigner(pem)
    verifier = TokenVerifier(signer.public_key_pem, ManualClock(START))
    token = signer.issue("ann", TENANT, Role.EDITOR, 60, START)
    verifier.verify(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    del claims[claim]
    with pytest.raises(Unauthenticated):
        verifier.verify(jwt.encode(claims, pem.decode(), algorithm="ES256"))


@given(st.text())
def test_garbage_is_no_token(text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        TokenVerifier(SIGNER.public_key_pem, ManualClock(START)).verify(text)
    assert len(text) < 5 or text not in caught.value.message


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = load_or_create_key(path)
    assert load_or_create_key(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("not a key")
    with pytest.raises(FailedPrecondition, match=str(path)):
        load_or_create_key(path)
    assert path.read_text() == "not a key"

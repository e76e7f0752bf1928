"""Pods' tokens: the cluster's signature, our audience, trainers alone."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from allotment_core.auth.pod_tokens import Pod, PodClaims, PodTokenVerifier, read_key_set
from allotment_core.auth.tokens import key_id_of
from allotment_core.errors import FailedPrecondition, Unauthenticated
from allotment_testkit.clock import ManualClock
from allotment_testkit.pod_tokens import ISSUER, PretendCluster, ec_key, rsa_key

RSA, EC = PretendCluster(rsa_key()), PretendCluster(ec_key(), "cluster-key-2")
POD = Pod("allotment-acme", "7d1f3c52-0000-4000-8000-000000000001")
START = datetime(2026, 1, 1, tzinfo=UTC)
BOUND = {
    "namespace": POD.namespace,
    "pod": {"name": "p", "uid": POD.uid},
    "serviceaccount": {"name": "allotment-trainer", "uid": "a"},
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def verifier(clock: ManualClock) -> PodTokenVerifier:
    jwks = json.dumps({"keys": [RSA.jwk(), EC.jwk()]})
    return PodTokenVerifier(issuer=ISSUER, audience="allotment", jwks=jwks, clock=clock)


@pytest.mark.parametrize("cluster", [RSA, EC], ids=["RS256", "ES256"])
def test_a_token_names_its_pod_and_its_end(
    verifier: PodTokenVerifier, cluster: PretendCluster
) -> None:
    claims = verifier.check(cluster.token(POD, START))
    assert claims == PodClaims(POD, START + timedelta(hours=1))


def test_a_token_ends_by_our_clock_even_when_it_was_seen_before(
    verifier: PodTokenVerifier, clock: ManualClock
) -> None:
    token = RSA.token(POD, START, ttl_s=600)
    verifier.check(token)
    clock.advance(600)
    with pytest.raises(Unauthenticated, match="expired at 2026-01-01 00:10:00") as refused:
        verifier.check(token)
    assert refused.value.reason == "TOKEN_EXPIRED"


def test_a_token_of_a_faster_clock_is_taken(verifier: PodTokenVerifier) -> None:
    assert verifier.check(RSA.token(POD, START + timedelta(minutes=5))).pod == POD


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://another.cluster"},
        {"iss": None},
        {"aud": ["https://kubernetes.default.svc"]},
        {"aud": None},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": 10**30},
        {"kubernetes.io": None},
        {"kubernetes.io": "allotment-acme"},
        {"kubernetes.io": {**BOUND, "serviceaccount": {"name": "default"}}},
        {"kubernetes.io": {**BOUND, "pod": None}},
        {"kubernetes.io": {**BOUND, "pod": {"name": "p", "uid": ""}}},
        {"kubernetes.io": {**BOUND, "pod": {"name": "p", "uid": 7}}},
        {"kubernetes.io": {**BOUND, "namespace": None}},
        {"kubernetes.io": [BOUND]},
    ],
    ids=lambda claims: json.dumps(claims)[:60],
)
def test_a_token_that_is_not_a_trainer_pods_is_refused(
    verifier: PodTokenVerifier, claims: dict[str, Any]
) -> None:
    assert verifier.check(RSA.token(POD, START, changes={"kubernetes.io": BOUND})).pod == POD
    with pytest.raises(Unauthenticated) as refused:
        verifier.check(RSA.token(POD, START, changes=claims))
    assert refused.value.reason == "INVALID_TOKEN"


def test_another_key_of_the_same_name_is_refused(verifier: PodTokenVerifier) -> None:
    with pytest.raises(Unauthenticated):
        verifier.check(PretendCluster(ec_key(), RSA.key_id).token(POD, START))
    with pytest.raises(Unauthenticated):
        verifier.check(PretendCluster(ec_key(), EC.key_id).token(POD, START))


def test_a_key_that_is_not_in_the_set_is_refused(verifier: PodTokenVerifier) -> None:
    with pytest.raises(Unauthenticated):
        verifier.check(PretendCluster(RSA.key, "older").token(POD, START))


def test_the_token_does_not_choose_how_it_is_verified(verifier: PodTokenVerifier) -> None:
    payload = RSA.token(POD, START).split(".")[1]
    unsigned = f"{_part({'alg': 'none', 'kid': RSA.key_id})}.{payload}"
    by_secret = f"{_part({'alg': 'HS256', 'kid': RSA.key_id})}.{payload}"
    secret = RSA.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mark = hmac.digest(secret, by_secret.encode(), "sha256")
    for token in (f"{unsigned}.", f"{by_secret}.{_encoded(mark)}"):
        with pytest.raises(Unauthenticated):
            verifier.check(token)


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _part(values: object) -> str:
    return _encoded(json.dumps(values).encode())


def _header(text: str) -> str:
    return _encoded(text.encode())


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "a",
        "a.b.c",
        "..",
        _header('{"alg":"RS256","kid":"cluster-key-1"}') + ".e30.AAAA",
        _header('{"alg":"RS256","kid":["cluster-key-1"]}') + ".e30.AAAA",
        _header("[" * 2000) + ".e30.AAAA",
        _header("null") + ".e30.",
        "é.é.é",
        "x" * 5000,
    ],
    ids=range(10),
)
def test_garbage_is_refused_and_breaks_nothing(verifier: PodTokenVerifier, garbage: str) -> None:
    assert key_id_of(garbage) in ("", "cluster-key-1")
    with pytest.raises(Unauthenticated):
        verifier.check(garbage)


def test_keys_of_other_kinds_are_left_out() -> None:
    described = [
        RSA.jwk(),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"},
        {**EC.jwk(), "use": "enc"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "odd", "x": "AAAA"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "RSA"},
    ]
    assert set(read_key_set(json.dumps({"keys": described}))) == {RSA.key_id}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": []}', '{"keys": 7}', '{"keys": [7]}'])
def test_a_set_without_a_key_is_none(text: str) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        read_key_set(text)
    assert refused.value.reason == "INVALID_KEY_SET"

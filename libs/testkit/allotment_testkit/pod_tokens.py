"""A cluster that gives tokens to its pods, without the cluster."""

import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from allotment_core.auth.pod_tokens import AUDIENCE, TRAINER_ACCOUNT, Pod

ISSUER = "https://kubernetes.default.svc.cluster.local"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class PretendCluster:
    """Signs tokens as an API server does, with one key."""

    def __init__(self, key: PrivateKey, key_id: str = "cluster-key-1") -> None:
        self.key = key
        self.key_id = key_id
        self.algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"

    def jwk(self) -> dict[str, Any]:
        """As the API server shows its public key."""
        public: Any = self.key.public_key()
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        described: dict[str, Any] = json.loads(algorithm.to_jwk(public))
        return {**described, "use": "sig", "kid": self.key_id, "alg": self.algorithm}

    def jwks(self) -> str:
        return json.dumps({"keys": [self.jwk()]})

    def token(
        self,
        pod: Pod,
        now: datetime,
        *,
        ttl_s: int = 3600,
        account: str = TRAINER_ACCOUNT,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """A projected token; `changes` replace claims, None removes one."""
        issued = int(now.timestamp())
        claims: dict[str, Any] = {
            "aud": [AUDIENCE],
            "exp": issued + ttl_s,
            "iat": issued,
            "nbf": issued,
            "iss": ISSUER,
            "jti": "c0ffee",
            "kubernetes.io": {
                "namespace": pod.namespace,
                "node": {"name": "node-1", "uid": "n-1"},
                "pod": {"name": "trainer-1", "uid": pod.uid},
                "serviceaccount": {"name": account, "uid": "a-1"},
            },
            "sub": f"system:serviceaccount:{pod.namespace}:{account}",
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.key, algorithm=self.algorithm, headers={"kid": self.key_id})

"""Values that switch everything that can be switched, the other way than by default."""

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

PEER = {"namespaceSelector": {"matchLabels": {"team": "infra"}}}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

DEFAULT: Values = {}
EXTERNAL_POSTGRESQL: Values = {
    "postgresql": {
        "enabled": False,
        "external": {"host": "db.example.com", "secret": {"name": "database"}},
    }
}
EXTERNAL_S3: Values = {
    "minio": {"enabled": False},
    "s3": {"endpoint": "https://s3.example.com", "secret": {"name": "object-store"}},
}
KEYLESS_S3: Values = {
    "minio": {"enabled": False},
    "dataset": {"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:x"}}},
}
NO_GATEWAY: Values = {"gateway": {"enabled": False}}
GRPC_ROUTE: Values = {
    "route": {
        "kind": "GRPCRoute",
        "hostnames": ["ml.example.com"],
        "grpcRoute": {"parentRefs": [{"name": "public", "namespace": "infra"}]},
    }
}
INGRESS: Values = {
    "route": {
        "kind": "Ingress",
        "hostnames": ["ml.example.com"],
        "ingress": {"className": "nginx", "tlsSecret": "ml-tls"},
    }
}
CERT_MANAGER: Values = {"certificates": {"mode": "cert-manager"}}
GIVEN_ISSUER: Values = {
    "certificates": {
        "mode": "cert-manager",
        "certManager": {"issuerRef": {"name": "company"}, "caCertificate": CERTIFICATE},
    }
}
REPLICAS: Values = {
    "controller": {"replicas": 2},
    "allocator": {"replicas": 3},
    "gateway": {"replicas": 2},
}
TENANTS: Values = {
    "tenants": {"acme": {"namespace": "team-acme", "queue": "acme"}, "beta": {"queue": "beta"}}
}
KUEUE: Values = {"kueue": {"enabled": True, "queue": "all", "priorityClass": "trials"}}
PULL_SECRETS: Values = {"image": {"pullSecrets": ["registry", "mirror"]}}

FORMS: dict[str, Values] = {
    "default": DEFAULT,
    "external PostgreSQL": EXTERNAL_POSTGRESQL,
    "external S3": EXTERNAL_S3,
    "keyless S3": KEYLESS_S3,
    "no gateway": NO_GATEWAY,
    "GRPCRoute": GRPC_ROUTE,
    "GRPCRoute in the gateway's place": {**GRPC_ROUTE, **NO_GATEWAY},
    "Ingress": INGRESS,
    "Ingress in the gateway's place": {**INGRESS, **NO_GATEWAY},
    "cert-manager": CERT_MANAGER,
    "an issuer of one's own": GIVEN_ISSUER,
    "an issuer of one's own and a GRPCRoute": {**GIVEN_ISSUER, **GRPC_ROUTE},
    "replicas": REPLICAS,
    "replicas without budgets": {**REPLICAS, "podDisruptionBudget": {"enabled": False}},
    "autoscaler": {"hpa": {"enabled": True}},
    "ServiceMonitor": {"serviceMonitor": {"enabled": True}},
    "dedicated nodes": {"dedicatedNodes": {"enabled": True}},
    "tenants and Kueue": {**TENANTS, **KUEUE},
    "namespaces made beforehand and pull secrets": {**TENANTS, **PULL_SECRETS},
    "no network policies": {"networkPolicy": {"enabled": False}},
    "uploads kept": {"dataset": {"persistence": {"enabled": True}}},
    "stores go with it": {"persistence": {"deleteOnUninstall": True}},
    "the platform's own users": {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    },
    "always pulled": {"image": {"pullPolicy": "Always", "tag": "1.2.3"}},
}
"""By what they are for."""

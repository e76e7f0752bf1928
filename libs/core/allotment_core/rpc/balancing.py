"""Channels to a service of which several processes may run, where one of them or all of them serve.

A name is resolved to all its addresses, calls take turns over those that say SERVING of the
service, by gRPC's own health checks: processes that stand by, start or drain are passed over. The
name is resolved again whenever a connection ends; servers end theirs now and then
(`aging_options`), so that new processes are found.
"""

import json

RESOLVED_AGAIN_S = 1.0
"""A name is not resolved more often."""


def target(address: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What gRPC calls an address, and options of its channel.

    "name:port" is every address that the name has; "1.2.3.4:1,1.2.3.5:2" is each of them, with
    certificates that name the first one.
    """
    if "," not in address:
        return address, ()
    return f"ipv4:{address}", (("grpc.default_authority", address.partition(",")[0]),)


def balanced_options(service: str) -> tuple[tuple[str, str | int], ...]:
    """For a channel to the service, by its health name: "controller"."""
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": service},
    }
    return (
        ("grpc.service_config", json.dumps(config)),
        ("grpc.dns_min_time_between_resolutions_ms", int(RESOLVED_AGAIN_S * 1000)),
    )


def aging_options(age_s: float | None, grace_s: float) -> tuple[tuple[str, int], ...]:
    """For a server. A connection takes no new calls once it is so old, and what runs on it has so
    long to end; None: never.
    """
    if age_s is None:
        return ()
    return (
        ("grpc.max_connection_age_ms", int(age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(grace_s * 1000)),
    )

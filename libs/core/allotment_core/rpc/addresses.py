"""Addresses, "host:port"."""

import ipaddress


def is_loopback(address: str) -> bool:
    """Whether the address (or "unix:path") is this machine's own.

    Plaintext is good enough there.
    """
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

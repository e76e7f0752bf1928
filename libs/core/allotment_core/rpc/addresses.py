"""Addresses, "host:port"."""

import ipaddress


def is_loopback(address: str) -> bool:
    """Whether the address (or "unix:path", or each of several with commas between) is this
    machine's own.

    Plaintext is good enough there.
    """
    if "," in address:
        return all(is_loopback(each) for each in address.split(","))
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

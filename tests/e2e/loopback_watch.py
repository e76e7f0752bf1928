"""Runs a command where every address leads to loopback, and reports what it sends elsewhere.

    unshare --user --map-root-user --net python loopback_watch.py COMMAND [ARGUMENT ...]

Prints one JSON line at the end: {"status": exit status, "elsewhere": [other addresses]}.
"""

import ctypes
import fcntl
import ipaddress
import json
import socket
import struct
import subprocess
import sys
import threading

SIOCSIFFLAGS, SIOCADDRT, SO_ATTACH_FILTER = 0x8914, 0x890B, 26
IFF_UP, RTF_UP, ETH_P_ALL = 0x1, 0x1, 0x0003
ETHERNET_HEADER_BYTES = 14


class RouteEntry(ctypes.Structure):
    """`struct rtentry` of the kernel's interface."""

    _fields_ = (
        ("pad1", ctypes.c_ulong),
        ("destination", ctypes.c_ubyte * 16),
        ("gateway", ctypes.c_ubyte * 16),
        ("mask", ctypes.c_ubyte * 16),
        ("flags", ctypes.c_ushort),
        ("pad2", ctypes.c_short),
        ("pad3", ctypes.c_ulong),
        ("pad4", ctypes.c_void_p),
        ("metric", ctypes.c_short),
        ("device", ctypes.c_char_p),
        ("mtu", ctypes.c_ulong),
        ("window", ctypes.c_ulong),
        ("irtt", ctypes.c_ushort),
    )


def lead_everything_to_loopback() -> None:
    any_address = (ctypes.c_ubyte * 16)(*struct.pack("=HH12x", socket.AF_INET, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        route = RouteEntry(
            destination=any_address,
            gateway=any_address,
            mask=any_address,
            flags=RTF_UP,
            device=b"lo",
        )
        fcntl.ioctl(control, SIOCADDRT, bytearray(bytes(route)))


def open_sniffer() -> socket.socket:
    """Sees packets on loopback but those to 127.0.0.0/8, which a kernel filter drops."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    instructions = (
        (0x28, 0, 0, 12),  # load the half word at 12: the protocol
        (0x15, 0, 3, 0x0800),  # not IPv4: keep
        (0x30, 0, 0, 30),  # load the byte at 30: the destination's first
        (0x15, 0, 1, 127),  # not 127: keep
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFF),  # keep
    )
    code = b"".join(struct.pack("HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HL", len(instructions), ctypes.addressof(buffer))
    sniffer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    sniffer.bind(("lo", 0))
    sniffer.settimeout(0.2)
    return sniffer


def destination(packet: bytes) -> str:
    (protocol,) = struct.unpack_from("!H", packet, 12)
    if protocol == 0x0800:
        start = ETHERNET_HEADER_BYTES + 16
        return str(ipaddress.IPv4Address(packet[start : start + 4]))
    if protocol == 0x86DD:
        start = ETHERNET_HEADER_BYTES + 24
        return str(ipaddress.IPv6Address(packet[start : start + 16]))
    return f"protocol {protocol:#x}"


def watch(sniffer: socket.socket, seen: set[str], ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            address = destination(sniffer.recv(65_536))
        except TimeoutError:
            continue
        if address != "::1":
            seen.add(address)


def main() -> int:
    lead_everything_to_loopback()
    seen: set[str] = set()
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(open_sniffer(), seen, ended))
    watcher.start()
    status = subprocess.run(sys.argv[1:], stdout=sys.stderr, check=False).returncode
    ended.wait(0.5)
    ended.set()
    watcher.join()
    print(json.dumps({"status": status, "elsewhere": sorted(seen)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

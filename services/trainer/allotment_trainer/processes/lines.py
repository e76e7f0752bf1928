"""Messages between processes: one JSON object per line."""

import json
import os
import select
from typing import Any

LONGEST_LINE_BYTES = 4 << 20


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def write(descriptor: int, message: dict[str, Any]) -> None:
    """Writes the whole message, waiting for its reader where needed. Raises: OSError when nobody
    reads.
    """
    left = memoryview(encode(message))
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            select.select([], [descriptor], [], 1.0)


class LineReader:
    """Puts messages together from what arrives on a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = bytearray()
        self.at_end = False

    def read(self) -> list[dict[str, Any]]:
        """One read, and the messages that it completes. Lines that are no JSON objects are left
        out; at the end of the stream `at_end` is set.
        """
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.at_end = True
            return []
        self._rest += data
        if len(self._rest) > LONGEST_LINE_BYTES and b"\n" not in data:
            self.at_end = True
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return [message for line in lines if (message := decode(line)) is not None]


def decode(line: bytes) -> dict[str, Any] | None:
    """The message in a line; None when it is none."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


class Tail:
    """The last bytes of a log."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = bytearray()

    def add(self, data: bytes) -> None:
        self._bytes += data
        if len(self._bytes) > 4 * self._limit:
            del self._bytes[: -self._limit]

    def text(self) -> str:
        return bytes(self._bytes[-self._limit :]).decode(errors="replace")

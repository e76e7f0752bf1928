"""TLS out of PEM files, on both ends. A replaced file counts from the next connection on.

Needs the base install alone.
"""

import logging
import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from allotment_core.errors import FailedPrecondition

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What one end shows, and what it trusts."""

    certificate: Path
    """Its own, with the intermediate ones behind it."""
    key: Path
    ca: Path | None = None
    """The authority whose certificates it accepts from the other end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pems:
    """What the files held when they were read."""

    certificate: bytes
    key: bytes
    ca: bytes | None


class WatchedFiles:
    """Reads the files, and reads them again when one has changed. Safe in any thread."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises: FailedPrecondition (INVALID_TLS_FILES)."""
        self._files = files
        self._lock = threading.Lock()
        self._mark = self._stat()
        self.pems = self._read()

    def changed(self) -> Pems | None:
        """What the files hold now, when it is other than before; None while they are the same.

        Files that don't fit each other, as in the middle of a rotation, count as not changed.
        """
        with self._lock:
            mark = self._stat()
            if mark == self._mark:
                return None
            try:
                pems = self._read()
            except FailedPrecondition as e:
                log.warning("TLS files are not taken over", extra={"error": e.message})
                return None
            self._mark = mark
            if pems == self.pems:
                return None
            self.pems = pems
            log.info("TLS files taken over", extra={"certificate": str(self._files.certificate)})
            return pems

    def _stat(self) -> tuple[tuple[int, int, int], ...]:
        marks = []
        for path in (self._files.certificate, self._files.key, self._files.ca):
            try:
                found = path.stat() if path else None
            except OSError:
                found = None
            marks.append(_mark(found))
        return tuple(marks)

    def _read(self) -> Pems:
        files = self._files
        try:
            # Refuses a certificate that is not the key's.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
            if files.ca is not None:
                ssl.create_default_context(cafile=str(files.ca))
            return Pems(
                certificate=files.certificate.read_bytes(),
                key=files.key.read_bytes(),
                ca=files.ca.read_bytes() if files.ca else None,
            )
        except (OSError, ssl.SSLError) as e:
            names = ", ".join(str(p) for p in (files.certificate, files.key, files.ca) if p)
            raise FailedPrecondition(
                f"the TLS files {names} can't be used ({e}); they have to be PEM, a certificate, "
                "its key, and the authority's certificate",
                reason="INVALID_TLS_FILES",
            ) from e


class WatchedAuthority:
    """An authority's file, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError."""
        self._path = path
        self._seen = path.stat()
        self.pem = path.read_bytes()

    def changed(self) -> bytes | None:
        """What it holds now, when it is other than before and can be used; else None."""
        try:
            found = self._path.stat()
            if _mark(found) == _mark(self._seen):
                return None
            pem = self._path.read_bytes()
            ssl.create_default_context(cadata=pem.decode("ascii"))
        except (OSError, ValueError) as e:
            log.warning(
                "an authority is not taken over", extra={"file": str(self._path), "error": str(e)}
            )
            return None
        self._seen = found
        if pem == self.pem:
            return None
        self.pem = pem
        log.info("authority taken over", extra={"file": str(self._path)})
        return pem


def _mark(found: os.stat_result | None) -> tuple[int, int, int]:
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found else (0, 0, 0)


def listener_credentials(files: TlsFiles, *, mutual: bool) -> grpc.ServerCredentials:
    """Credentials of a listener; `mutual`: it takes nobody without a certificate of `files.ca`.

    Raises: FailedPrecondition (INVALID_TLS_FILES).
    """
    if mutual and files.ca is None:
        raise FailedPrecondition(
            "a listener that asks for client certificates needs the file of their authority",
            reason="INVALID_TLS_FILES",
        )
    watched = WatchedFiles(files)

    def configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(pems.key, pems.certificate)], pems.ca if mutual else None
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        pems = watched.changed()
        return None if pems is None else configuration(pems)

    return grpc.dynamic_ssl_server_credentials(
        configuration(watched.pems),
        renewed,  # type: ignore[arg-type]  # None is "no change"; the stubs lack it.
        require_client_authentication=mutual,
    )


def caller_credentials(pems: Pems) -> grpc.ChannelCredentials:
    """Credentials of a channel that shows a certificate of its own."""
    return grpc.ssl_channel_credentials(pems.ca, pems.key, pems.certificate)

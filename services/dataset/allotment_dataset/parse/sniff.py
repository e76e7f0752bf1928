"""Finds out what a file is, from its first bytes; refuses what is no table."""

from pathlib import Path

from allotment_core.errors import InvalidArgument
from allotment_dataset.domain.table import FileFormat

_HEAD_BYTES = 4096
_CONTROL_SHARE = 0.02
_TEXT_CONTROLS = frozenset(b"\t\n\r\x0c\x1b")

_ARCHIVES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (or an office document)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
)
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\xd0\xcf\x11\xe0", "an old office document"),
)
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")

READABLE = "CSV or TSV text, JSON lines, Parquet, or an Arrow IPC stream"


def find_format(path: Path, wanted: FileFormat) -> FileFormat:
    """The file's format; a wanted one is taken at its word unless the bytes rule it out.

    Raises: InvalidArgument EMPTY_FILE, ARCHIVE, NOT_A_TABLE, NOT_TEXT.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip(b"\xef\xbb\xbf\xff\xfe\r\n\t \x00"):
        raise InvalidArgument(
            f"the file has no content ({path.stat().st_size} bytes); it needs a header line and "
            "rows",
            reason="EMPTY_FILE",
        )
    _refuse_foreign(head)
    found = _by_magic(head)
    if found in (FileFormat.PARQUET, FileFormat.ARROW):
        return found
    if wanted in (FileFormat.PARQUET, FileFormat.ARROW):
        raise InvalidArgument(
            f"the file is not {wanted.value.title()}: it does not begin with that format's mark; "
            "leave the format out and it is found out",
            reason="WRONG_FORMAT",
        )
    _refuse_binary(head)
    return found if wanted is FileFormat.UNSPECIFIED else wanted


def _refuse_foreign(head: bytes) -> None:
    for magic, name in _ARCHIVES:
        if head.startswith(magic):
            raise InvalidArgument(
                f"the file is {name}; archives are not unpacked: upload the file inside "
                f"({READABLE})",
                reason="ARCHIVE",
            )
    for magic, name in _OTHERS:
        if head.startswith(magic):
            raise InvalidArgument(
                f"the file is {name}, not a table; upload {READABLE}", reason="NOT_A_TABLE"
            )


def _by_magic(head: bytes) -> FileFormat:
    if head.startswith(b"PAR1"):
        return FileFormat.PARQUET
    if head.startswith((b"\xff\xff\xff\xff", b"ARROW1")):
        return FileFormat.ARROW
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b'{"', b"{}", b"{ ", b"{\t", b"{\n")):
        return FileFormat.JSONL
    if text.startswith((b"[{", b"[\n", b"[ ")):
        raise InvalidArgument(
            "the file is one JSON array; write one JSON object a line instead (JSON lines)",
            reason="NOT_A_TABLE",
        )
    return FileFormat.DELIMITED


def _refuse_binary(head: bytes) -> None:
    if head.startswith(_WIDE_BOMS):
        return
    place = head.find(b"\x00")
    controls = sum(1 for byte in head if byte < 32 and byte not in _TEXT_CONTROLS)
    if place >= 0 or controls > _CONTROL_SHARE * len(head):
        where = f"a NUL byte at {place}" if place >= 0 else f"{controls} control characters"
        raise InvalidArgument(
            f"the file is not text: {where} in its first {len(head)} bytes; upload {READABLE}",
            reason="NOT_TEXT",
        )

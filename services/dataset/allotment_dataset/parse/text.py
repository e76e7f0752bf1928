"""Text files as UTF-8 without a byte order mark, whatever they were written in.

The rule: a byte order mark decides. Without one the file is UTF-8 if all of it is. Otherwise, if
no line of it is non-ASCII UTF-8, it is Windows-1252 (Latin-1 where it has bytes that Windows-1252
leaves undefined), with a warning. A file with lines of both kinds has mixed encodings, which
nobody can read rightly: it is refused.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allotment_core.errors import InvalidArgument
from allotment_dataset.domain.table import Notice

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 16 << 20
_UNDEFINED_IN_1252 = b"\x81\x8d\x8f\x90\x9d"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file as UTF-8: at `path`, after the first `skip_bytes` bytes."""

    path: Path
    skip_bytes: int
    encoding: str
    has_quotes: bool
    notices: tuple[Notice, ...] = ()


def open_text(path: Path, work_dir: Path) -> TextFile:
    """The file itself when it is UTF-8, else a UTF-8 copy in `work_dir`.

    Raises: InvalidArgument MIXED_ENCODINGS, NOT_TEXT, BAD_ENCODING.
    """
    with path.open("rb") as file:
        head = file.read(4)
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            if encoding == "utf-8":
                break
            return _transcoded(path, work_dir, encoding, len(bom), ())
    skip = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    is_utf8, has_quotes = _scan(path)
    if is_utf8:
        return TextFile(path=path, skip_bytes=skip, encoding="utf-8", has_quotes=has_quotes)
    encoding, notice = _single_byte(path)
    return _transcoded(path, work_dir, encoding, skip, (notice,))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _scan(path: Path) -> tuple[bool, bool]:
    """Whether all of the file is UTF-8, and whether it has quotes. Raises: NOT_TEXT."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    is_utf8, has_quotes, offset = True, False, 0
    for block in _blocks(path):
        if b"\x00" in block:
            raise InvalidArgument(
                f"the file is not text: byte {offset + block.index(0)} is NUL; "
                "write it again as UTF-8 text",
                reason="NOT_TEXT",
            )
        has_quotes = has_quotes or b'"' in block
        offset += len(block)
        if is_utf8:
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                is_utf8 = False
    if is_utf8:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            is_utf8 = False
    return is_utf8, has_quotes


def _single_byte(path: Path) -> tuple[str, Notice]:
    """The single-byte encoding of a file that is not UTF-8. Raises: MIXED_ENCODINGS."""
    first_utf8, first_other, example, undefined = 0, 0, b"", False
    for number, line in enumerate(_lines(path), start=1):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as e:
            if not first_other:
                first_other, example = number, line[e.start : e.start + 1]
            undefined = undefined or any(b in line for b in _UNDEFINED_IN_1252)
        else:
            first_utf8 = first_utf8 or number
        if first_utf8 and first_other:
            raise InvalidArgument(
                f"the file mixes encodings: line {first_utf8} is UTF-8, line {first_other} is not "
                f"(byte 0x{example.hex()}); write the whole file as UTF-8",
                reason="MIXED_ENCODINGS",
            )
    encoding = "latin-1" if undefined else "cp1252"
    message = (
        f"the file is not UTF-8 (byte 0x{example.hex()} in line {first_other}); it was read as "
        f"{encoding}: "
        "if letters look wrong, write it as UTF-8"
    )
    return encoding, Notice(reason="ENCODING", message=message)


def _lines(path: Path) -> Iterator[bytes]:
    """The file's lines; one that is much longer than a block comes in pieces."""
    rest = b""
    for block in _blocks(path):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
        if len(rest) > _LONGEST_LINE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def _transcoded(
    path: Path, work_dir: Path, encoding: str, skip: int, notices: tuple[Notice, ...]
) -> TextFile:
    target = work_dir / "utf8.txt"
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    has_quotes = False
    with target.open("wb") as out:
        pending = skip
        for block in _blocks(path):
            piece, pending = block[pending:], 0
            out.write(encoded := _decode(decoder, piece, False, encoding))
            has_quotes = has_quotes or b'"' in encoded
        out.write(_decode(decoder, b"", True, encoding))
    return TextFile(
        path=target, skip_bytes=0, encoding=encoding, has_quotes=has_quotes, notices=notices
    )


def _decode(decoder: codecs.IncrementalDecoder, piece: bytes, final: bool, encoding: str) -> bytes:
    try:
        text = decoder.decode(piece, final)
        return text.encode("utf-8")
    except UnicodeError as e:
        raise InvalidArgument(
            f"the file says that it is {encoding} but has bytes that are not; write it again as "
            "UTF-8",
            reason="BAD_ENCODING",
        ) from e

"""Reading a reference: rows, and what the source predicted of them.

The file is an .npz without pickled objects, as `allotment_learn/reference.py` documents it:
`columns` (str [inputs]), `input_0` ... (float64 or str [rows] each), `expected` (float64
[rows, classes] or [rows, 1]), `kind` (str [rows]). Further arrays are not read.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from allotment_core.errors import clip
from allotment_exporter.domain.exports import Task
from allotment_exporter.domain.signatures import Signature

MAX_UNPACKED_BYTES = 1 << 30
MAX_ROWS = 1_000_000
_KINDS = frozenset({"VALIDATION", "MISSING", "UNSEEN", "THRESHOLD", "EXTREME"})


class BadReference(Exception):
    """The reference can't be read, or is not one for this graph."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Rows in the form that a session takes them: [rows, 1] arrays of float64, or objects (str)."""

    inputs: dict[str, npt.NDArray[Any]]
    expected: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.str_]

    @property
    def row_count(self) -> int:
        return len(self.expected)


def joined(
    references: Sequence[Reference], limit: int
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.str_]]:
    """Inputs and kinds of at most about ``limit`` rows, evenly spread over references and kinds."""
    chosen = [spread(r.kinds, max(1, limit // len(references))) for r in references]
    inputs = {
        name: np.concatenate([r.inputs[name][c] for r, c in zip(references, chosen, strict=True)])
        for name in references[0].inputs
    }
    kinds = np.concatenate([r.kinds[c] for r, c in zip(references, chosen, strict=True)])
    return inputs, kinds


def spread(kinds: npt.NDArray[Any], count: int) -> list[int]:
    """Rows spread over each kind, the same ones every time."""
    names = sorted(set(kinds.tolist()))
    chosen: set[int] = set()
    for name in names:
        rows = np.flatnonzero(kinds == name)
        share = max(1, count // len(names))
        places = np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(int))
        chosen.update(int(row) for row in rows[places])
    return sorted(chosen)


def read_reference(path: Path, signature: Signature) -> Reference:
    """The rows for this signature's inputs. Raises: BadReference."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, signature)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadReference(
            f"the reference is not an .npz file, or it is cut off: {clip(error)}"
        ) from None


def _read(archive: zipfile.ZipFile, signature: Signature) -> Reference:
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise BadReference(
            f"the reference unpacks to {unpacked} bytes, at most {MAX_UNPACKED_BYTES} are read"
        )
    columns = [str(name) for name in _array(archive, "columns", "U", 1)]
    if columns != [port.column or port.name for port in signature.inputs]:
        raise BadReference("the reference's columns are not the inputs of the graph's signature")
    expected = _array(archive, "expected", "f", 2).astype(np.float64, copy=False)
    width = 1 if signature.task is Task.REGRESSION else len(signature.classes)
    if expected.shape[1] != width:
        raise BadReference(f"the reference expects {expected.shape[1]} outputs, not {width}")
    count = len(expected)
    if not 1 <= count <= MAX_ROWS:
        raise BadReference(f"the reference has {count} rows, 1 to {MAX_ROWS} are needed")
    kinds = _array(archive, "kind", "U", 1)
    if len(kinds) != count or not _KINDS.issuperset(np.unique(kinds).tolist()):
        raise BadReference("the reference's kinds are not one known kind for each row")
    inputs = {}
    for index, port in enumerate(signature.inputs):
        cells = _array(archive, f"input_{index}", "f" if port.type == "double" else "U", 1)
        if len(cells) != count:
            raise BadReference(f"input '{clip(port.name)}' has {len(cells)} cells, not {count}")
        cells = cells.astype(np.float64 if port.type == "double" else np.object_, copy=False)
        inputs[port.name] = cells.reshape(-1, 1)
    return Reference(inputs=inputs, expected=expected, kinds=kinds)


def _array(archive: zipfile.ZipFile, name: str, kind: str, rank: int) -> npt.NDArray[Any]:
    """One array, of which everything is known before memory is taken for it."""
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise BadReference(f"the reference has no array '{name}'") from None
    with archive.open(member) as file:
        head = file.read(min(member.file_size, 1 << 16))
        try:
            stream = io.BytesIO(head)
            shape, dtype = _header(stream)
        except (ValueError, OverflowError) as error:
            raise BadReference(f"array '{name}' can't be read: {clip(error)}") from None
        if dtype.kind != kind or dtype.hasobject or len(shape) != rank:
            raise BadReference(f"array '{name}' is {dtype} {list(shape)}, not of the kind '{kind}'")
        if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise BadReference(f"array '{name}' is not as long as its header says")
    with archive.open(member) as file:
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise BadReference(f"array '{name}' can't be read: {clip(error)}") from None


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format")
    shape, _fortran, dtype = read(stream)
    if any(size < 0 for size in shape):
        raise ValueError("a negative size")
    return shape, dtype

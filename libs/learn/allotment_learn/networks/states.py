"""Tensors and a text in one safetensors file: nothing in it is ever run when it is read."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from allotment_core.errors import clip
from allotment_learn.checkpoints import CheckpointDamaged

STATE_FILE = "network.safetensors"
_TEXT_KEY = "allotment.state"


def write_state(folder: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Puts the file in place of the one before in one move."""
    temporary = folder / f"{STATE_FILE}.tmp"
    save_file(dict(tensors), temporary, metadata={_TEXT_KEY: text})
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(folder / STATE_FILE)


def remove_state(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (folder / STATE_FILE).unlink()


def read_state(folder: Path) -> tuple[dict[str, Tensor], str] | None:
    """None when there is none. Raises: CheckpointDamaged."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_TEXT_KEY, "")
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names}, text
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointDamaged(
            f"{STATE_FILE} can't be read ({clip(str(error), 200)}); remove it and train again"
        ) from None

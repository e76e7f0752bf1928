"""A trained network without the library that trained it: an architecture and named arrays."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

VERSION = 1


class Embedding(StrEnum):
    """What becomes of a number before the first layer (Gorishniy et al. 2022, arXiv 2203.05556)."""

    NONE = "none"
    PIECEWISE = "piecewise"
    """How far the value has come through each quantile bin (their formula 1, cut at both ends)."""
    PERIODIC = "periodic"
    """Cosines of learnt frequencies, then a small layer, beside the value ("PLR lite")."""


class Norm(StrEnum):
    """What stands behind a hidden layer."""

    NONE = "none"
    BATCH = "batch"
    LAYER = "layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """The architecture. `columns` of the matrix come in; of them `embedded` are embedded, `plain`
    go in as they are, and the others, which had one value in training, are left out.

    `bins`: of all embedded columns together; `frequencies` and `embedding_size`: for each column.
    """

    columns: int
    plain: int
    embedded: int
    hidden: tuple[int, ...]
    outputs: int
    norm: Norm
    dropout: float
    embedding: Embedding
    bins: int = 0
    frequencies: int = 0
    embedding_size: int = 0

    def to_json(self) -> str:
        """Canonical text."""
        document = {"version": VERSION, "kind": "mlp", **asdict(self)}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises: ValueError when it is no spec of this version."""
        document: dict[str, Any] = json.loads(text)
        if document.pop("version", None) != VERSION or document.pop("kind", None) != "mlp":
            raise ValueError(f"not a network of version {VERSION}")
        try:
            return cls(
                **{
                    **document,
                    "hidden": tuple(document["hidden"]),
                    "norm": Norm(document["norm"]),
                    "embedding": Embedding(document["embedding"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the network's description is not complete ({error})") from None

    @property
    def first_width(self) -> int:
        """What the first layer takes."""
        if self.embedding is Embedding.PIECEWISE:
            return self.plain + self.bins
        if self.embedding is Embedding.PERIODIC:
            return self.plain + self.embedded * (1 + self.embedding_size)
        return self.plain + self.embedded


Arrays = Mapping[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]
"""A module's parameters and buffers by their names."""

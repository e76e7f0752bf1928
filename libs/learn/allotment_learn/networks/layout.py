"""Which columns of a matrix a network reads, and in which form: learnt from the training rows."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from allotment_learn.networks.settings import Settings
from allotment_learn.networks.spec import Embedding, NetworkSpec

Singles = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

EMBEDDED_LIMIT = 128
"""Tables with more columns of numbers than this get no embeddings: the first layer grows too
large."""
FREQUENCIES, EMBEDDING_SIZE = 24, 8


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Columns without spread are left out, so that nothing untrained speaks when a value that
    training never saw turns up in them. Columns with two values go in as they are; the others are
    embedded. `low` and `size`: of each bin, whose column is `bin_column`.
    """

    columns: int
    plain: Places
    embedded: Places
    bin_column: Places
    low: Singles
    size: Singles

    @classmethod
    def fit(cls, matrix: Singles, settings: Settings) -> Self:
        """`matrix`: the training rows."""
        least, most = matrix.min(axis=0), matrix.max(axis=0)
        varied = most > least
        between = ((matrix != least) & (matrix != most)).any(axis=0)
        numbers = np.flatnonzero(varied & between)
        wanted = settings.embedding is not Embedding.NONE and len(numbers) <= EMBEDDED_LIMIT
        embedded = numbers if wanted else numbers[:0]
        plain = np.setdiff1d(np.flatnonzero(varied), embedded)
        bins: list[tuple[Places, Singles, Singles]] = [
            (np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))
        ]
        if settings.embedding is Embedding.PIECEWISE:
            shares = np.linspace(0.0, 1.0, settings.bins + 1)
            for column in embedded:
                values = matrix[:, column].astype(np.float64)
                edges = np.unique(np.quantile(values, shares).astype(np.float32))
                count = len(edges) - 1
                bins.append((np.full(count, column), edges[:-1], np.diff(edges)))
        return cls(
            matrix.shape[1],
            plain,
            embedded,
            np.concatenate([column for column, _, _ in bins]),
            np.concatenate([low for _, low, _ in bins]),
            np.concatenate([size for _, _, size in bins]),
        )

    def spec(self, settings: Settings, outputs: int) -> NetworkSpec:
        """The network of this shape."""
        periodic = settings.embedding is Embedding.PERIODIC and len(self.embedded) > 0
        return NetworkSpec(
            columns=self.columns,
            plain=len(self.plain),
            embedded=len(self.embedded),
            hidden=(settings.width,) * settings.layers,
            outputs=outputs,
            norm=settings.norm,
            dropout=settings.dropout,
            embedding=settings.embedding if len(self.embedded) else Embedding.NONE,
            bins=len(self.low),
            frequencies=FREQUENCIES if periodic else 0,
            embedding_size=EMBEDDING_SIZE if periodic else 0,
        )

"""The multilayer perceptron as a torch module."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from allotment_learn.networks.spec import Arrays, Embedding, NetworkSpec, Norm

_SOFT_LIMIT = 4.0
_HARD_LIMIT = 1e4


class Piecewise(nn.Module):  # type: ignore[misc]
    """Each number as its way through quantile bins, 0 to 1 in each."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.register_buffer("column", torch.zeros(spec.bins, dtype=torch.int64))
        self.register_buffer("low", torch.zeros(spec.bins))
        self.register_buffer("size", torch.ones(spec.bins))

    def forward(self, matrix: Tensor) -> Tensor:
        way = (matrix.index_select(1, self.column) - self.low) / self.size
        return torch.clamp(way, 0.0, 1.0)


class Periodic(nn.Module):  # type: ignore[misc]
    """Each number beside a small layer of cosines of it; the layer is the same for all columns.

    Not a layer for each column: a product of stacked matrices without rows ends onnxruntime 1.31
    with a division by zero.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        columns, frequencies = spec.embedded, spec.frequencies
        self.register_buffer("column", torch.zeros(columns, dtype=torch.int64))
        self.frequency = nn.Parameter(torch.zeros(columns, frequencies))
        self.phase = nn.Parameter(torch.zeros(columns, frequencies))
        self.layer = nn.Linear(frequencies, spec.embedding_size)

    def draw(self, generator: torch.Generator, scale: float) -> None:
        """First frequencies and phases."""
        with torch.no_grad():
            self.frequency.normal_(0.0, 2.0 * math.pi * scale, generator=generator)
            self.phase.uniform_(0.0, 2.0 * math.pi, generator=generator)

    def forward(self, matrix: Tensor) -> Tensor:
        values = soften(matrix.index_select(1, self.column))
        waves = torch.cos(values.unsqueeze(2) * self.frequency + self.phase)
        return torch.cat([values, self.layer(waves).flatten(1)], dim=1)


class Plain(nn.Module):  # type: ignore[misc]
    """Columns as they are, large values softly cut."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("column", torch.zeros(count, dtype=torch.int64))

    def forward(self, matrix: Tensor) -> Tensor:
        return soften(matrix.index_select(1, self.column))


def soften(values: Tensor) -> Tensor:
    """Nearly the value while it is small, at most _SOFT_LIMIT away from 0."""
    cut = torch.clamp(values, -_HARD_LIMIT, _HARD_LIMIT)
    return cut / torch.sqrt(1.0 + (cut / _SOFT_LIMIT) ** 2)


class Network(nn.Module):  # type: ignore[misc]
    """matrix [rows, spec.columns] -> raw outputs [rows, spec.outputs]: log-odds, or numbers in the
    target's own unit."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        parts: list[nn.Module] = []
        if spec.plain:
            parts.append(Plain(spec.plain))
        if spec.embedded and spec.embedding is Embedding.PIECEWISE:
            parts.append(Piecewise(spec))
        elif spec.embedded and spec.embedding is Embedding.PERIODIC:
            parts.append(Periodic(spec))
        self.parts = nn.ModuleList(parts)
        layers: list[nn.Module] = []
        width = spec.first_width
        for size in spec.hidden:
            layers.append(nn.Linear(width, size, bias=spec.norm is not Norm.BATCH))
            if spec.norm is Norm.BATCH:
                layers.append(nn.BatchNorm1d(size))
            elif spec.norm is Norm.LAYER:
                layers.append(nn.LayerNorm(size))
            layers.append(nn.SiLU())
            if spec.dropout:
                layers.append(nn.Dropout(spec.dropout))
            width = size
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, spec.outputs)
        self.register_buffer("centre", torch.zeros(spec.outputs))
        self.register_buffer("scale", torch.ones(spec.outputs))

    def forward(self, matrix: Tensor) -> Tensor:
        """In the target's unit."""
        return self.standard(matrix) * self.scale + self.centre

    def standard(self, matrix: Tensor) -> Tensor:
        """In the unit of training: numbers are standardised there."""
        pieces = [part(matrix) for part in self.parts]
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        outputs: Tensor = self.head(self.layers(joined))
        return outputs


def draw_weights(network: Network, generator: torch.Generator, frequency_scale: float) -> None:
    """First weights, by the generator alone: uniform within 1 / sqrt(inputs) (He et al. 2015)."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                bound = 1.0 / math.sqrt(module.in_features)
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, Periodic):
                module.draw(generator, frequency_scale)


def arrays_of(network: Network) -> Arrays:
    """Parameters and buffers, copied; counters that only training reads are left out."""
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def rebuild(spec: NetworkSpec, arrays: Arrays, dtype: torch.dtype) -> Network:
    """The trained network, for predicting alone. Raises: ValueError when arrays don't fit."""
    network = Network(spec)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    try:
        wrong = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the arrays don't fit the network ({error})") from None
    lacking = [n for n in wrong.missing_keys if not n.endswith("num_batches_tracked")]
    if lacking or wrong.unexpected_keys:
        raise ValueError(f"the arrays don't fit the network: {[*lacking, *wrong.unexpected_keys]}")
    network.to(dtype).eval().requires_grad_(False)
    return network


def loss_of(outputs: Tensor, target: Tensor, weights: Tensor | None, *, absolute: bool) -> Tensor:
    """Mean loss: cross-entropy where the target is classes (int64), else squared or absolute
    error."""
    if target.dtype == torch.int64:
        if outputs.shape[1] == 1:
            each = functional.binary_cross_entropy_with_logits(
                outputs[:, 0], target.to(outputs.dtype), reduction="none"
            )
        else:
            each = functional.cross_entropy(outputs, target, reduction="none")
    else:
        away = outputs[:, 0] - target
        each = away.abs() if absolute else away.square()
    if weights is None:
        return each.mean()
    return (each * weights).sum() / weights.sum()

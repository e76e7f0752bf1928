"""A trained network's own predictions, in double precision: what its graph has to give."""

from collections.abc import Callable

import numpy as np
import torch

from allotment_learn.forms import Link, NetworkForm
from allotment_learn.networks.memory import memory_errors
from allotment_learn.networks.modules import rebuild
from allotment_learn.task import Floats

_ROWS_AT_ONCE = 4_096


def predictor(form: NetworkForm, threads: int) -> Callable[[Floats], Floats]:
    """[rows, classes] probabilities, or [rows, 1] numbers. Raises: ValueError when arrays and
    architecture don't agree."""
    network = rebuild(form.spec, form.arrays, torch.float64)

    def predict(matrix: Floats) -> Floats:
        torch.set_num_threads(threads)
        with torch.no_grad(), memory_errors():
            parts = [
                _linked(network(torch.from_numpy(rows)), form.link).numpy()
                for rows in np.array_split(matrix, -(-len(matrix) // _ROWS_AT_ONCE) or 1)
            ]
        return np.concatenate(parts)

    return predict


def _linked(raw: torch.Tensor, link: Link) -> torch.Tensor:
    if link is Link.SIGMOID:
        second = torch.sigmoid(raw)
        return torch.cat([1.0 - second, second], dim=1)
    return torch.softmax(raw, dim=1) if link is Link.SOFTMAX else raw

"""Training a network epoch by epoch: AdamW (Loshchilov & Hutter 2019) with a cosine schedule, and
the weights of the epoch that did best on rows kept aside.

Everything that chance decides in an epoch comes from the seed and the epoch's number, so a fit that
goes on from its checkpoint draws what it would have drawn.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from allotment_learn.checkpoints import CheckpointDamaged, drive
from allotment_learn.errors import DeadlineReached, NotANumber
from allotment_learn.families.training import Training
from allotment_learn.forms import Saved
from allotment_learn.networks.layout import Layout, Singles
from allotment_learn.networks.memory import memory_errors
from allotment_learn.networks.modules import Network, arrays_of, draw_weights, loss_of
from allotment_learn.networks.settings import Settings
from allotment_learn.networks.spec import Arrays, NetworkSpec, Norm
from allotment_learn.networks.states import read_state, remove_state, write_state

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.99, 1e-8
_ASIDE_SHARE = 0.15
_MOST_ASIDE = 20_000
_WARM_UP_EPOCHS = 1.0
_ROWS_AT_ONCE = 8_192
_CHECK_EVERY = 16
_FEWEST_FOR_BATCHES = 4
_LEAST_BATCH, _STEPS_PER_EPOCH = 16, 20
_TEXT = "state.json"


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    matrix: Tensor
    target: Tensor
    weights: Tensor | None

    def take(self, rows: Tensor) -> "_Rows":
        weights = None if self.weights is None else self.weights[rows]
        return _Rows(self.matrix[rows], self.target[rows], weights)


Glance = Callable[[int, int, NetworkSpec, Arrays, Saved], None]
"""(rung, epochs done, the best network so far, the fit's state)."""


def fit_network(
    training: Training, matrix: Singles, layout: Layout, glance: Glance
) -> tuple[NetworkSpec, Arrays]:
    """A whole fit, paced where the training says so, and glanced at where it has stages.

    Raises: InvalidArgument, NotANumber, DeadlineReached, FitPaused, CheckpointDamaged, MemoryError.
    """
    torch.set_num_threads(training.threads)
    # `use_deterministic_algorithms` would import a compiler first, for 4 s.
    torch.set_deterministic_debug_mode("error")
    with torch.random.fork_rng(devices=[]), memory_errors():
        fit = NetworkFit(training, matrix, layout)
        stages = training.stages
        if stages is None:
            drive(fit, training.pace)
            return fit.spec, fit.result()
        marks = stages.marks(fit.epochs)
        if stages.begun is not None:
            try:
                fit.take_up(stages.begun)
            except CheckpointDamaged:
                fit = NetworkFit(training, matrix, layout)
        while not fit.is_done:
            fit.advance()
            if fit.step in marks and not fit.is_done:
                glance(marks[fit.step], fit.step, fit.spec, fit.result_so_far(), fit.state())
    return fit.spec, fit.result()


class NetworkFit:
    """One network in training: a `Checkpointed`."""

    def __init__(self, training: Training, matrix: Singles, layout: Layout) -> None:
        self._settings = settings = Settings.of(training)
        self._absolute = training.metric == "mae" and not training.class_count
        self._seed = training.seed
        self._out_of_time: Callable[[], bool] = training.out_of_time
        target, self._centre, self._scale = _standardised(training, self._absolute)
        self._train, self._aside = _divided(training, matrix, target)
        if len(self._train.matrix) < _FEWEST_FOR_BATCHES:
            # A batch of one row has no spread to be normalised by.
            settings = replace(settings, norm=Norm.LAYER)
        self.spec: NetworkSpec = layout.spec(settings, training.output_count)
        self._network = _first_network(self.spec, layout, settings, training.seed)
        self._weights, self._gradient = _flattened(self._network)
        self._decays = _decay_mask(self._network)
        self._first = torch.zeros_like(self._weights)
        self._second = torch.zeros_like(self._weights)
        self._epoch = 0
        self._updates = 0
        self._best_epoch = 0
        self._best_loss = math.inf
        self._best = self._state()
        self._fingerprint = _fingerprint(training, matrix)

    @property
    def epochs(self) -> int:
        """The most that it takes."""
        return self._settings.epochs

    @property
    def step(self) -> int:
        return self._epoch

    @property
    def is_done(self) -> bool:
        waited = self._epoch - self._best_epoch
        return self._epoch >= self._settings.epochs or waited >= self._settings.patience

    def advance(self) -> float:
        """One epoch; the loss on the rows aside.

        Raises: DeadlineReached; NotANumber.
        """
        self._network.train()
        torch.manual_seed(_mixed(self._seed, self._epoch))
        rows = torch.randperm(len(self._train.matrix))
        # Small tables get smaller batches: an epoch of one or two steps teaches little.
        size = min(self._settings.batch_size, max(_LEAST_BATCH, len(rows) // _STEPS_PER_EPOCH))
        count = math.ceil(len(rows) / size)
        for place, batch in enumerate(torch.tensor_split(rows, count)):
            if place % _CHECK_EVERY == 0 and self._out_of_time():
                raise DeadlineReached(f"the deadline came in epoch {self._epoch + 1} of a network")
            self._update(self._train.take(batch), self._epoch + place / count)
        self._epoch += 1
        loss = self._loss_aside()
        if not math.isfinite(loss):
            raise NotANumber(
                f"the network's loss is {loss} after epoch {self._epoch}; lower its learning rate"
            )
        if loss < self._best_loss:
            self._best_loss, self._best_epoch, self._best = loss, self._epoch, self._state()
        return loss

    def result(self) -> Arrays:
        """The best epoch's arrays, with the target's unit put back."""
        self._network.load_state_dict(self._best)
        with torch.no_grad():
            self._network.centre.fill_(self._centre)
            self._network.scale.fill_(self._scale)
        return arrays_of(self._network)

    def result_so_far(self) -> Arrays:
        """What `result` would give now; the fit goes on as if nothing had been asked."""
        now = self._state()
        arrays = self.result()
        self._network.load_state_dict(now)
        return arrays

    def state(self) -> Saved:
        """All that `take_up` needs."""
        tensors, text = self._contents()
        arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        return {**arrays, _TEXT: np.frombuffer(text.encode(), dtype=np.uint8)}

    def take_up(self, state: Saved) -> None:
        """Goes on from there. Raises: CheckpointDamaged."""
        tensors = {n: torch.from_numpy(a.copy()) for n, a in state.items() if n != _TEXT}
        self._enter(tensors, state[_TEXT].tobytes().decode() if _TEXT in state else "")

    def save(self, folder: Path) -> None:
        write_state(folder, *self._contents())

    def load(self, folder: Path) -> bool:
        found = read_state(folder)
        if found is None:
            return False
        self._enter(*found)
        return True

    def discard(self, folder: Path) -> None:
        remove_state(folder)

    def _contents(self) -> tuple[dict[str, Tensor], str]:
        numbers = {
            "fingerprint": self._fingerprint,
            "epoch": self._epoch,
            "updates": self._updates,
            "best_epoch": self._best_epoch,
            "best_loss": self._best_loss.hex(),
            "spec": self.spec.to_json(),
        }
        tensors = {f"now.{name}": tensor for name, tensor in self._state().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        tensors |= {"adam.first": self._first, "adam.second": self._second}
        return tensors, json.dumps(numbers, sort_keys=True)

    def _enter(self, tensors: Mapping[str, Tensor], text: str) -> None:
        """Raises: CheckpointDamaged."""
        try:
            numbers = json.loads(text)
            if numbers["fingerprint"] != self._fingerprint:
                raise CheckpointDamaged("the checkpoint belongs to another fit; remove it")
            now = {n[4:]: t for n, t in tensors.items() if n.startswith("now.")}
            best = {n[5:]: t for n, t in tensors.items() if n.startswith("best.")}
            self._network.load_state_dict(now)
            self._first.copy_(tensors["adam.first"])
            self._second.copy_(tensors["adam.second"])
            self._epoch, self._updates = int(numbers["epoch"]), int(numbers["updates"])
            self._best_epoch = int(numbers["best_epoch"])
            self._best_loss = float.fromhex(numbers["best_loss"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointDamaged(f"the checkpoint is not complete ({error})") from None
        self._best = best

    def _update(self, batch: _Rows, epoch: float) -> None:
        """One step of AdamW on all weights at once: they are one vector."""
        self._gradient.zero_()
        outputs = self._network.standard(batch.matrix)
        loss = loss_of(outputs, batch.target, batch.weights, absolute=self._absolute)
        loss.backward()
        self._updates += 1
        rate = self._rate(epoch)
        with torch.no_grad():
            self._first.lerp_(self._gradient, 1.0 - _BETA_1)
            self._second.mul_(_BETA_2).addcmul_(self._gradient, self._gradient, value=1.0 - _BETA_2)
            divisor = self._second.sqrt().div_(math.sqrt(1.0 - _BETA_2**self._updates))
            self._weights.mul_(1.0 - rate * self._settings.weight_decay * self._decays)
            self._weights.addcdiv_(
                self._first,
                divisor.add_(_EPSILON),
                value=-rate / (1.0 - _BETA_1**self._updates),
            )

    def _rate(self, epoch: float) -> float:
        warm = min(1.0, (epoch + 0.1) / _WARM_UP_EPOCHS)
        way = epoch / self._settings.epochs
        return self._settings.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * way))

    def _loss_aside(self) -> float:
        self._network.eval()
        total, weight = 0.0, 0.0
        with torch.no_grad():
            for rows in torch.arange(len(self._aside.matrix)).split(_ROWS_AT_ONCE):
                part = self._aside.take(rows)
                counted = float(len(rows) if part.weights is None else part.weights.sum())
                outputs = self._network.standard(part.matrix)
                loss = loss_of(outputs, part.target, part.weights, absolute=self._absolute)
                total += float(loss) * counted
                weight += counted
        return total / weight

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._network.state_dict().items()}


def _first_network(spec: NetworkSpec, layout: Layout, settings: Settings, seed: int) -> Network:
    network = Network(spec)
    places: dict[str, dict[str, npt.NDArray[np.generic]]] = {
        "Plain": {"column": layout.plain},
        "Piecewise": {"column": layout.bin_column, "low": layout.low, "size": layout.size},
        "Periodic": {"column": layout.embedded},
    }
    for part in network.parts:
        for name, array in places[type(part).__name__].items():
            part.get_buffer(name).copy_(torch.from_numpy(array))
    generator = torch.Generator()
    generator.manual_seed(_mixed(seed, -1))
    draw_weights(network, generator, settings.frequency_scale)
    return network


def _flattened(network: Network) -> tuple[Tensor, Tensor]:
    """All weights, and their gradients, as two vectors that the network's own are views of."""
    parameters = list(network.parameters())
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    gradient = torch.zeros_like(weights)
    begin = 0
    for parameter in parameters:
        end = begin + parameter.numel()
        parameter.data = weights[begin:end].view_as(parameter)
        parameter.grad = gradient[begin:end].view_as(parameter)
        begin = end
    return weights, gradient


def _decay_mask(network: Network) -> Tensor:
    """1 for the weights of layers; biases, norms and frequencies are not pulled to 0."""
    pieces = []
    for name, parameter in network.named_parameters():
        decays = parameter.ndim > 1 and not name.endswith(("frequency", "phase", "bias"))
        pieces.append(torch.full((parameter.numel(),), 1.0 if decays else 0.0))
    return torch.cat(pieces)


def _standardised(
    training: Training, absolute: bool
) -> tuple[npt.NDArray[np.float32] | npt.NDArray[np.int64], float, float]:
    """The target in the unit of training, its centre and its scale."""
    if training.class_count:
        return training.target.astype(np.int64), 0.0, 1.0
    values = training.target.astype(np.float64)
    centre = (
        float(np.median(values))
        if absolute
        else float(np.average(values, weights=training.weights))
    )
    scale = float(values.std())
    if not (scale > 0 and math.isfinite(scale)):
        scale = 1.0
    return ((values - centre) / scale).astype(np.float32), centre, scale


def _divided(
    training: Training, matrix: Singles, target: npt.NDArray[np.generic]
) -> tuple[_Rows, _Rows]:
    """Rows to learn from and rows to stop by. Every class keeps a row to learn from; where too few
    are there for both, all rows do both."""
    counted = np.flatnonzero(training.weights > 0) if training.weights is not None else None
    rows = np.arange(len(matrix)) if counted is None else counted
    rng = np.random.default_rng([training.seed, 15])
    share = min(_ASIDE_SHARE, _MOST_ASIDE / len(rows))
    groups = (
        [rows[target[rows] == label] for label in range(training.class_count)]
        if training.class_count
        else [rows]
    )
    aside = [np.empty(0, dtype=np.int64)]
    for group in groups:
        count = min(math.floor(share * len(group) + rng.random()), max(0, len(group) - 1))
        aside.append(rng.permutation(group)[:count])
    held = np.sort(np.concatenate(aside))
    whole = _Rows(
        torch.from_numpy(matrix),
        torch.from_numpy(target),
        None if training.weights is None else torch.from_numpy(training.weights.astype(np.float32)),
    )
    learnt = np.setdiff1d(rows, held)
    if not len(held) or not len(learnt):
        held = learnt = rows
    return whole.take(torch.from_numpy(learnt)), whole.take(torch.from_numpy(held))


def _mixed(seed: int, number: int) -> int:
    """A seed for torch."""
    state = np.random.SeedSequence([seed % 2**64, number + 1]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _fingerprint(training: Training, matrix: Singles) -> str:
    """What the fit's result is a function of."""
    digest = hashlib.sha256(matrix.tobytes())
    digest.update(np.ascontiguousarray(training.target).tobytes())
    if training.weights is not None:
        digest.update(np.ascontiguousarray(training.weights).tobytes())
    rest = (sorted(training.params.items()), training.class_count, training.metric, training.seed)
    digest.update(repr(rest).encode())
    return digest.hexdigest()

"""What a network is trained with, read from a pipeline's parameters."""

from dataclasses import dataclass
from typing import Self

from allotment_core.errors import InvalidArgument
from allotment_learn.families.training import Training
from allotment_learn.networks.spec import Embedding, Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`epochs` is the most; a fit ends before when `patience` epochs brought nothing."""

    layers: int
    width: int
    dropout: float
    norm: Norm
    embedding: Embedding
    bins: int
    frequency_scale: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    patience: int

    @classmethod
    def of(cls, training: Training) -> Self:
        """Raises: InvalidArgument for a name that is not known here, or a size below 1."""
        try:
            embedding = Embedding(str(training.params.get("embedding", "piecewise")))
            norm = Norm(str(training.params.get("norm", "batch")))
        except ValueError as error:
            raise InvalidArgument(f"mlp: {error}", reason="BAD_PIPELINE") from None
        settings = cls(
            layers=training.integer("layers", 2),
            width=training.integer("width", 128),
            dropout=training.number("dropout", 0.1),
            norm=norm,
            embedding=embedding,
            bins=training.integer("bins", 24),
            frequency_scale=training.number("frequency_scale", 0.3),
            learning_rate=training.number("learning_rate", 0.003),
            weight_decay=training.number("weight_decay", 0.01),
            batch_size=training.integer("batch_size", 256),
            epochs=training.integer("epochs", 50),
            patience=training.integer("patience", 12),
        )
        sizes = (settings.layers, settings.width, settings.bins, settings.batch_size)
        if min(*sizes, settings.epochs, settings.patience) < 1 or not 0 <= settings.dropout < 1:
            raise InvalidArgument(
                "mlp: layers, width, bins, batch_size, epochs and patience have to be 1 or more, "
                "dropout 0 to less than 1",
                reason="BAD_PIPELINE",
            )
        return settings

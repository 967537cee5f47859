"""What surrounds a training loop: where checkpoints go and come from, who builds batches, who hears of evaluations."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from raydistill.batch import Batch
from raydistill.data.stream import FeedSpec
from raydistill.training.engine import Engine

SaveState = Callable[[Path], Any]
"""Writes the state of the training, as ``Engine.save`` does, into an empty folder."""

EvaluationCallback = Callable[[int, Mapping[str, float], SaveState], None]
"""Called with the step and the metrics of an evaluation after which training is to go on, and with what writes the
training's state, from which another can start; what it raises ends the training."""


class Session(ABC):
    """What one rank's loop asks of whatever started it."""

    @abstractmethod
    def restore(self, engine: Engine) -> dict[str, Any] | None:
        """Restore the state to continue from, if there is one, and return what was saved with it."""

    @abstractmethod
    def save(self, engine: Engine, metrics: Mapping[str, float], state: Mapping[str, Any]) -> None:
        """Keep a checkpoint of the step in ``state["position"]``."""

    @abstractmethod
    def feed(self, spec: FeedSpec, **options: Any) -> Generator[list[Batch], None, None]:
        """The micro-batches of each optimizer step, as ``raydistill.data.stream.feed`` gives them, whose options these
        are."""

    def evaluated(self, step: int, metrics: Mapping[str, float], save_state: SaveState) -> None:
        """Hear of an evaluation after which training is to go on; what it raises ends the training."""
        return

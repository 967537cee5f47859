"""What surrounds the training loop of a worker that Ray Train started."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from raydistill.batch import Batch
from raydistill.data.shared_reader import SharedReader
from raydistill.data.stream import FeedSpec, feed
from raydistill.training.checkpoint import report_checkpoint, restore
from raydistill.training.engine import Engine
from raydistill.training.session import Session


@dataclass(frozen=True)
class RayTrainSession(Session):
    """A worker of a group that Ray Train started."""

    reader: SharedReader | None = None
    """Reads for the data tasks of all workers, None where each reads for itself."""

    def restore(self, engine: Engine) -> dict[str, Any] | None:
        """As Ray Train knows it, or as it lies in the run's folder."""
        return restore(engine)

    def save(self, engine: Engine, metrics: Mapping[str, float], state: Mapping[str, Any]) -> None:
        """A checkpoint that Ray Train is told of, which deletes older ones."""
        report_checkpoint(engine, metrics, state)

    def feed(self, spec: FeedSpec, **options: Any) -> Generator[list[Batch], None, None]:
        """Batches that Ray Data's tasks build."""
        return feed(spec, reader=self.reader, **options)

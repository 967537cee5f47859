"""One process that reads for all data tasks of a training, wherever they run, so that a corpus is read once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart
from raydistill.data.row_reader import MicroBatchRequest, RowsRead
from raydistill.data.sealed_table import CACHE_BYTES
from raydistill.data.stored_outputs import StoredOutputs, open_set
from raydistill.data.stream import FeedSpec, read_steps
from raydistill.user_error import UserError

_RESTARTS = 3
"""A process that is lost, such as for want of memory, is started again so often; it has nothing that is missed."""


@dataclass(frozen=True)
class SharedReader:
    """Asks the process; it travels to any worker."""

    actor: Any

    def read_steps(
        self, spec: FeedSpec, start: int, stop: int, *, rank: int, world_size: int
    ) -> tuple[list[MicroBatchRequest], RowsRead]:
        """As ``raydistill.data.stream.read_steps``."""
        import ray

        found = ray.get(self.actor.read_steps.remote(spec, start, stop, rank, world_size))
        if isinstance(found, UserError):
            raise found
        requests, packed = found
        # What Ray hands over cannot be written, of which torch warns.
        return [one._replace(rows=one.rows.copy()) for one in requests], _unpacked(packed)


@contextmanager
def shared_reader() -> Iterator[SharedReader]:
    """A process on this node, so that others may be lost, which takes no logical CPU; it is ended with the block."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS, "scheduling_strategy": node}
    actor = ray.remote(num_cpus=0, **options)(_Reader).remote()
    try:
        yield SharedReader(actor)
    finally:
        ray.kill(actor)


def is_worth_sharing(corpus: Sequence[CorpusPart], stored: StoredOutputs | None = None, *, num_data_tasks: int) -> bool:
    """Whether several data tasks read what is more than each of them keeps in memory anyway."""
    if num_data_tasks == 1:
        return False
    sets = [one for parts in stored.sets for one in parts] if stored else []
    tables = [*(Corpus.open(part.uri) for part in corpus), *(open_set(one.uri, one.hash) for one in sets)]
    return sum(table.num_bytes for table in tables) > CACHE_BYTES


class _Reader:
    """Run as an actor."""

    def read_steps(self, spec: FeedSpec, start: int, stop: int, rank: int, world_size: int) -> Any:
        """What was asked for, or the mistake of a user's that was met, without Ray's traceback."""
        try:
            requests, found = read_steps(spec, start, stop, rank=rank, world_size=world_size, num_asking=world_size)
        except UserError as error:
            return error
        return requests, _packed(found)


class _EndToEnd(NamedTuple):
    """Arrays that differ in their first size, as two, which travel without a copy."""

    values: NDArray[Any]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, arrays: Sequence[NDArray[Any]] | NDArray[Any]) -> "_EndToEnd | None":
        if not len(arrays):
            return None
        return cls(np.concatenate(list(arrays)), np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays)))

    def apart(self) -> list[NDArray[Any]]:
        ends = np.cumsum(self.lengths).tolist()
        return [self.values[start:stop] for start, stop in pairwise([0, *ends])]


def _packed(found: RowsRead) -> dict[str, Any]:
    stored = {name: _EndToEnd.of(array) if array.dtype == object else array for name, array in found.stored.items()}
    lists = {"token_ids": _EndToEnd.of(found.token_ids), "partners": _EndToEnd.of(found.partners)}
    return {**found._asdict(), **lists, "stored": stored}


def _unpacked(packed: dict[str, Any]) -> RowsRead:
    lists = {name: [] if packed[name] is None else packed[name].apart() for name in ("token_ids", "partners")}
    stored = {name: _column(one) for name, one in packed["stored"].items()}
    partner_ids = None if packed["partner_ids"] is None else packed["partner_ids"].copy()
    return RowsRead(**{**packed, **lists, "stored": stored, "partner_ids": partner_ids})


def _column(packed: Any) -> NDArray[Any]:
    if not isinstance(packed, _EndToEnd):
        return np.asarray(packed)
    arrays = packed.apart()
    column = np.empty(len(arrays), dtype=object)
    column[:] = arrays
    return column

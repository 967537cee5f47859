"""Reads what is stored of the rows of steps: a row group once, although several ranks and many pieces of work ask."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.data.corpus import Corpus
from raydistill.data.mixture import Mixture
from raydistill.data.plan import Partners, Plan, Rows, micro_batches
from raydistill.data.sealed_table import Use
from raydistill.data.stored_outputs import StoredColumns

TokenIds = Sequence[NDArray[np.integer]]
"""The ids of each row."""
_FIRST: Use = (0, 0)


class MicroBatchRequest(NamedTuple):
    """One micro-batch to build: rows of the corpus and the keys of its draws."""

    rows: Rows
    epoch: int
    step: int
    micro_batch: int = 0


class RowsRead(NamedTuple):
    """What is stored of some rows, in their order."""

    token_ids: TokenIds
    partner_ids: Rows | None
    """The partner of each row; None for a method without partners."""
    partners: TokenIds
    """The ids of each partner, all of them; empty where there are none."""
    values: pa.Table | None
    """What the rows have beside their ids, None for a corpus without columns."""
    stored: dict[str, NDArray[Any]]
    """Teacher outputs by column; of places an array of one array (m, ...) a row."""


class RowReader:
    """Reads rows of a corpus, of their partners and of their stored teacher outputs.

    A row group that is read for a window of the plan is kept until all ranks who ask are two windows further, however
    far apart they are. So an epoch reads each once, and once more at most for partners.
    """

    def __init__(
        self, corpus: Corpus | Mixture, plan: Plan, *, partners: Partners | None, stored: StoredColumns | None
    ) -> None:
        self._corpus, self._plan = corpus, plan
        self._partners, self._stored = partners, stored
        self._world_size = 0
        self._last: dict[int, tuple[Use, ...]] = {}
        """Of each rank, the last two windows that it asked for."""

    def read(self, rows: Rows) -> RowsRead:
        """What is stored of these rows."""
        partner_ids = None if self._partners is None else self._partners.of(rows)
        return RowsRead(
            token_ids=self._corpus.read_rows(rows),
            partner_ids=partner_ids,
            partners=[] if partner_ids is None else self._corpus.read_rows(partner_ids),
            values=self._corpus.read_columns(rows) if self._corpus.columns else None,
            stored={} if self._stored is None else self._stored.read(*self._corpus.located(rows)),
        )

    def read_steps(
        self, steps: range, *, rank: int, world_size: int, num_micro_batches: int, num_asking: int = 1
    ) -> tuple[list[MicroBatchRequest], RowsRead]:
        """One rank's micro-batches of steps inside one window, and their rows, one micro-batch after another.

        ``num_asking`` ranks ask this reader.
        """
        self._begin(self._plan.window(steps[0]), rank, world_size, num_asking)
        requests = [
            MicroBatchRequest(part, self._plan.epoch_of(step), step, number)
            for step in steps
            for number, part in enumerate(
                micro_batches(
                    self._plan.rows(step), rank=rank, world_size=world_size, num_micro_batches=num_micro_batches
                )
            )
        ]
        return requests, self.read(np.concatenate([one.rows for one in requests]))

    def _begin(self, window: Use, rank: int, world_size: int, num_asking: int) -> None:
        """Let go of what no rank will ask for again."""
        if world_size != self._world_size:
            self._world_size, self._last = world_size, {}
        last = self._last.get(rank, ())
        self._last[rank] = last if window in last else (*last, window)[-2:]
        # Ranks that have not asked yet may start as far back as the first that did.
        is_complete = len(self._last) >= num_asking
        oldest = min(min(windows) for windows in self._last.values()) if is_complete else _FIRST
        self._corpus.begin(window, oldest=oldest)
        if self._stored is not None:
            self._stored.begin(window, oldest=oldest)

"""Reads what is stored of the rows of steps: a row group once, although several ranks and many pieces of work ask."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.data.corpus import Corpus
from raydistill.data.mixture import Mixture
from raydistill.data.plan import Partners, Plan, Rows, micro_batches
from raydistill.data.stored_outputs import StoredColumns

TokenIds = Sequence[NDArray[np.integer]]
"""The ids of each row."""


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

    What is read for one window of the plan is kept until the second window after it begins. So an epoch reads a row
    group once, or twice for partners of which the plan wants a shard again later, as long as those who ask are less
    than a window apart.
    """

    def __init__(
        self, corpus: Corpus | Mixture, plan: Plan, *, partners: Partners | None, stored: StoredColumns | None
    ) -> None:
        self._corpus, self._plan = corpus, plan
        self._partners, self._stored = partners, stored

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
        self, steps: range, *, rank: int, world_size: int, num_micro_batches: int
    ) -> tuple[list[MicroBatchRequest], RowsRead]:
        """One rank's micro-batches of steps inside one window, and their rows, one micro-batch after another."""
        window = self._plan.window(steps[0])
        self._corpus.begin(window)
        if self._stored is not None:
            self._stored.begin(window)
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

"""Micro-batches of a training run, in the order of the plan, built by Ray Data tasks ahead of the consumer.

The plan decides, Ray Data carries: a work item is a range of optimizer steps, and the task that gets it computes
which rows these are, reads their row groups, collates, and lets task and method prepare the batches.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.batch import Batch, add_partners, collate
from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.data.mixture import CorpusPart, open_cached, open_mixture, parts_of
from raydistill.data.packing import pack, unpack
from raydistill.data.plan import Partners, Plan, Rows, bucket_upper_edge, micro_batches
from raydistill.data.ray_tasks import run_tasks
from raydistill.data.row_columns import tensors_of
from raydistill.data.row_reader import MicroBatchRequest, RowReader, RowsRead
from raydistill.data.stored_outputs import StoredColumns, StoredOutputs
from raydistill.data.stored_outputs import tensors_of as stored_tensors_of
from raydistill.data.teacher_tokenizers import further_tensors, own_columns
from raydistill.draws import first_of_permutation
from raydistill.methods._base import Requirements
from raydistill.tasks._base import TaskBase
from raydistill.user_error import UserError

_ROWS_PER_ITEM = 4096
_ITEMS_AT_ONCE = 2_000
_AHEAD_BYTES = 128 * 2**20
_PIECE_BYTES = 2**20
"""Steps leave a task when they reach this size, so the first arrives before its whole item is done."""
_PACKED = pa.schema({"step": pa.int64(), "batches": pa.large_binary()})
_EVALUATION_EPOCH = 0


@dataclass(frozen=True)
class FeedSpec:
    """All that a data task needs to build batches; it travels to any worker."""

    corpus: tuple[CorpusPart, ...]
    """The corpora that are read as one."""
    task: TaskSpec
    method: MethodSpec | None
    """None for batches without a method's own columns and partners."""
    seed: int
    batch_size: int
    """Rows of an optimizer step, over all workers."""
    num_micro_batches: int
    """Forward passes of each worker in an optimizer step."""
    group_by_length: bool = True
    shuffle: bool = True
    corpus_hash: str = ""
    """Hash of the corpus, checked by every task; filled in by ``make``."""
    stored: StoredOutputs | None = None
    """Teacher outputs that are joined to the rows by their ids."""
    encodings: tuple[int, ...] = ()
    """Further encodings, from 1, that batches have beside the corpus's own."""

    @classmethod
    def make(
        cls,
        corpus: str | Sequence[CorpusPart],
        task: TaskSpec | Mapping[str, Any],
        method: MethodSpec | Mapping[str, Any] | None,
        *,
        seed: int,
        batch_size: int = 1,
        num_micro_batches: int = 1,
        group_by_length: bool = True,
        shuffle: bool = True,
        stored: StoredOutputs | None = None,
        encodings: Sequence[int] = (),
    ) -> "FeedSpec":
        """A spec of task and method, or of their sections; reads the manifest of each corpus for the hash.

        ``corpus``: the URI of one corpus, or parts with weights. ``encodings``: those that are read, in any order.
        Raises ValueError for parts that do not fit.
        """
        parts = parts_of(corpus)
        return cls(
            corpus=parts,
            task=TaskSpec.parse(task),
            method=None if method is None else MethodSpec.parse(method),
            seed=seed,
            batch_size=batch_size,
            num_micro_batches=num_micro_batches,
            group_by_length=group_by_length,
            shuffle=shuffle,
            corpus_hash=open_mixture(parts).hash,
            stored=stored,
            encodings=tuple(sorted({*encodings} - {0})),
        )

    def plan(self) -> Plan:
        """The plan of this feed's steps."""
        corpus = open_cached(self.corpus, self.corpus_hash)
        return Plan(
            corpus.lengths,
            corpus.shard_offsets,
            batch_size=self.batch_size,
            seed=self.seed,
            group_by_length=self.group_by_length,
            shuffle=self.shuffle,
        )

    def make_task(self) -> TaskBase:
        """The task of this feed, for the encoding of its corpus."""
        return self.task.build(open_cached(self.corpus, self.corpus_hash).encoding)

    @property
    def key(self) -> str:
        """Equal for specs that build equal batches of equal rows."""
        return repr(replace(self, num_micro_batches=1))


class StepReader(Protocol):
    """Whoever reads the rows of work items."""

    def read_steps(
        self, spec: FeedSpec, start: int, stop: int, *, rank: int, world_size: int
    ) -> tuple[list[MicroBatchRequest], RowsRead]:
        """As the function ``read_steps``."""


def feed(
    spec: FeedSpec,
    *,
    rank: int,
    world_size: int,
    start_step: int = 0,
    stop_step: int,
    num_data_tasks: int = 1,
    cpus_per_task: int = 1,
    reader: StepReader | None = None,
) -> Generator[list[Batch], None, None]:
    """The micro-batches of each optimizer step from ``start_step`` up to ``stop_step - 1``, one list a step.

    Steps count from 0 over all epochs; every rank gets the same number of them, each with
    ``spec.num_micro_batches`` batches. Needs a running Ray with ``cpus_per_task`` logical CPUs for each of
    ``num_data_tasks`` beside those that workers hold. Closing the iterator, or reading it to its
    end, ends the data tasks. ``reader`` reads for the data tasks of all ranks; without one each reads for itself.
    Raises ValueError if a micro-batch would have no row.
    """
    plan = spec.plan()
    check_batches(plan, spec, world_size=world_size)
    tables = _tables_of(
        work_items(plan, spec, world_size=world_size, start_step=start_step, stop_step=stop_step),
        partial(
            run_tasks,
            partial(_packed_steps, spec=spec, rank=rank, world_size=world_size, reader=reader),
            schema=_PACKED,
            num_tasks=num_data_tasks,
            cpus=cpus_per_task,
            piece_bytes=_PIECE_BYTES,
            ahead_bytes=_AHEAD_BYTES,
        ),
    )
    expected = start_step
    with closing(tables):
        for table in tables:
            for step, content in zip(table["step"].to_pylist(), _buffers(table["batches"]), strict=True):
                assert step == expected, f"step {step} arrived where step {expected} was due"
                expected += 1
                yield unpack(content)
    assert expected == max(start_step, stop_step), f"the feed ended at step {expected} of {stop_step}"


def _tables_of(
    items: Iterator[dict[str, int]], run: Callable[[list[dict[str, int]]], Generator[pa.Table, None, None]]
) -> Generator[pa.Table, None, None]:
    """What is made of the items, which are handed out in parts: Ray Data keeps something of each that it is given."""
    while some := list(islice(items, _ITEMS_AT_ONCE)):
        with closing(run(some)) as tables:
            yield from tables


def validation_batches(
    spec: FeedSpec,
    *,
    micro_batch_size: int,
    num_rows: int | None = None,
    skip_rows: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Batches of one rank's share of at most ``num_rows`` rows of a corpus, read without Ray.

    The rows are a seeded sample of all parts, after the ``skip_rows`` that such a sample begins with, sorted by length;
    they, their masks and their partners depend on the corpus, the seed, task and method alone, so that every model and
    every call sees the same; where task or method draw for a whole micro-batch, on ``micro_batch_size`` and
    ``world_size`` too. Ranks get equally many batches. ``spec.batch_size`` and ``spec.num_micro_batches`` are not used.
    Raises ValueError for fewer rows than ranks.
    """
    builder = builder_of(spec)
    size = len(builder.corpus)
    count = size if num_rows is None else min(size, skip_rows + num_rows)
    rows = first_of_permutation("held-out rows", spec.seed, size=size, count=count)[skip_rows:]
    if len(rows) < world_size:
        names = ", ".join(part.uri for part in spec.corpus)
        raise UserError(f"corpus {names!r} has {len(rows)} rows for {world_size} workers; hold out more text")
    rows = rows[np.argsort(builder.corpus.lengths[rows], kind="stable")]
    # As many parts as batches and ranks, none empty: a part never has more rows than micro_batch_size.
    num_batches = -(-len(rows) // (world_size * micro_batch_size))
    for part in micro_batches(rows, rank=rank, world_size=world_size, num_micro_batches=num_batches):
        yield builder.batch(part, epoch=_EVALUATION_EPOCH, step=0)


def check_batches(plan: Plan, spec: FeedSpec, *, world_size: int) -> None:
    """Refuse a division that would leave a micro-batch without rows; raises ValueError with a remedy."""
    parts = world_size * spec.num_micro_batches
    if plan.smallest_batch < parts:
        raise UserError(
            f"batch_size is {spec.batch_size}, and with {plan.num_rows} rows some batches have "
            f"{plan.smallest_batch} rows, too few for {world_size} workers with {spec.num_micro_batches} "
            "micro-batches each; raise micro_batch_size, use fewer workers or binarize more text"
        )


class BatchBuilder:
    """Builds batches of given rows: collate, add partners, then task and method prepare."""

    def __init__(self, spec: FeedSpec) -> None:
        self.corpus = open_cached(spec.corpus, spec.corpus_hash)
        self.plan = spec.plan()
        self._spec = spec
        tokenizers = self.corpus.tokenizers
        self._pad_ids = {encoding: tokenizers[encoding].pad_id for encoding in spec.encodings}
        self._columns = own_columns(self.corpus.columns, num_further=len(tokenizers) - 1)
        self.task = spec.task.build(self.corpus.encoding)
        self._requirements = Requirements() if spec.method is None else spec.method.requirements
        self._partner_width = self._requirements.execution.partner_width
        self._pad_to = self._requirements.execution.pad_to or 0
        self._prepare: Callable[[Batch], Batch] = lambda batch: batch
        self._teacher_of: NDArray[np.int64] | None = None
        if spec.method is not None:
            self._prepare = spec.method.prepare_batch
        if self._requirements.teacher_of:
            self._teacher_of = np.array([self._requirements.teacher_of[part.name] for part in spec.corpus])

    @cached_property
    def reader(self) -> RowReader:
        """Reads in this process."""
        partners = Partners(self.corpus.shard_offsets, seed=self._spec.seed) if self._requirements.partners else None
        stored = None if self._spec.stored is None else StoredColumns(self._spec.stored)
        return RowReader(self.corpus, self.plan, partners=partners, stored=stored)

    def batch(self, rows: Rows, *, epoch: int, step: int) -> Batch:
        """One micro-batch of these rows of the corpus, the first of its step."""
        return next(self.batches([MicroBatchRequest(rows, epoch, step)]))

    def batches(self, requests: Sequence[MicroBatchRequest]) -> Iterator[Batch]:
        """The requested micro-batches; the rows of all of them are read before the first is built.

        So a row group is read once for all, even when the corpus keeps fewer of them than a window has.
        """
        return self.built(requests, self.reader.read(np.concatenate([one.rows for one in requests])))

    def built(self, requests: Sequence[MicroBatchRequest], found: RowsRead) -> Iterator[Batch]:
        """The requested micro-batches of what was read of their rows, one micro-batch after another."""
        partners = [] if found.partner_ids is None else self._cut_partners(found, requests)
        start = 0
        pad_id = self.corpus.pad_id
        for part, epoch, step, micro_batch in requests:
            here = slice(start, start + len(part))
            start += len(part)
            keys = {"seed": self._spec.seed, "epoch": epoch, "step": step, "micro_batch": micro_batch}
            batch = collate(found.token_ids[here], part, pad_id=pad_id, min_width=self._pad_to, **keys)
            if found.values is not None:
                batch = batch.with_columns(**self._tensors(found.values.slice(here.start, len(part))))
            batch = batch.with_columns(**stored_tensors_of(found.stored, here.start, here.stop))
            if self._teacher_of is not None:
                taught = self._teacher_of[self.corpus.located(part)[0]]
                batch = batch.with_columns(teacher_number=torch.from_numpy(taught))
            if found.partner_ids is not None:
                # Published partners are padded to the width that they are cut to.
                min_width = batch["input_ids"].shape[1] if self._partner_width == "batch" else 0
                ids = found.partner_ids[here]
                batch = add_partners(batch, partners[here], ids, pad_id=pad_id, min_width=min_width)
            yield self._prepare(self.task.prepare_batch(batch))

    def _tensors(self, values: pa.Table) -> dict[str, Tensor]:
        """What a batch has of its rows beside their ids, and their ids in further encodings."""
        found = tensors_of(values, self._columns)
        for encoding, pad_id in self._pad_ids.items():
            found |= further_tensors(values, encoding, pad_id=pad_id)
        return found

    def _cut_partners(self, found: RowsRead, requests: Sequence[MicroBatchRequest]) -> list[NDArray[np.integer]]:
        lengths = np.fromiter(map(len, found.token_ids), dtype=np.int64, count=len(found.token_ids))
        if self._partner_width == "batch":
            sizes = [len(one.rows) for one in requests]
            edges = np.repeat(np.maximum.reduceat(lengths, np.cumsum([0, *sizes[:-1]])), sizes)
        else:
            # A row's partner does not depend on its neighbours.
            edges = bucket_upper_edge(lengths)
        return [partner[:edge] for partner, edge in zip(found.partners, edges.tolist(), strict=True)]


_BUILDERS: dict[str, BatchBuilder] = {}


def builder_of(spec: FeedSpec) -> BatchBuilder:
    """The builder of a spec, kept for the next work item: it holds row groups and a window of the plan."""
    key = spec.key
    if key not in _BUILDERS:
        while len(_BUILDERS) >= 2:
            _BUILDERS.pop(next(iter(_BUILDERS)))
        _BUILDERS[key] = BatchBuilder(spec)
    return _BUILDERS[key]


def read_steps(
    spec: FeedSpec, start: int, stop: int, *, rank: int, world_size: int, num_asking: int = 1
) -> tuple[list[MicroBatchRequest], RowsRead]:
    """One rank's micro-batches of one work item, and what is stored of their rows, read in this process.

    ``num_asking`` ranks ask this process.
    """
    return builder_of(spec).reader.read_steps(
        range(start, stop),
        rank=rank,
        world_size=world_size,
        num_micro_batches=spec.num_micro_batches,
        num_asking=num_asking,
    )


def _packed_steps(
    item: Mapping[str, int], *, spec: FeedSpec, rank: int, world_size: int, reader: StepReader | None = None
) -> Iterator[pa.Table]:
    """The data task: for each step of an item, this rank's micro-batches as one row of bytes."""
    for step, batches in steps_of(spec, item["start"], item["stop"], rank=rank, world_size=world_size, reader=reader):
        yield pa.table([pa.array([step]), _binary(pack(batches))], schema=_PACKED)


def steps_of(
    spec: FeedSpec, start: int, stop: int, *, rank: int, world_size: int, reader: StepReader | None = None
) -> Iterator[tuple[int, list[Batch]]]:
    """Each step of one work item with one rank's micro-batches, built here of rows that ``reader`` reads, or this."""
    read = read_steps if reader is None else reader.read_steps
    batches = builder_of(spec).built(*read(spec, start, stop, rank=rank, world_size=world_size))
    for step in range(start, stop):
        yield step, list(islice(batches, spec.num_micro_batches))


def work_items(
    plan: Plan, spec: FeedSpec, *, world_size: int, start_step: int, stop_step: int
) -> Iterator[dict[str, int]]:
    """Ranges of steps that are built in one go, in order: ``start`` and ``stop`` of each."""
    rows_per_step = -(-spec.batch_size // world_size)
    pieces = plan.pieces(start_step, stop_step, max_steps=max(1, _ROWS_PER_ITEM // rows_per_step))
    return ({"start": start, "stop": stop} for start, stop in pieces)


def _binary(content: bytes) -> pa.Array:
    """A column of one binary value, without a copy."""
    offsets = np.array([0, len(content)], dtype=np.int64)
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(content)])


def _buffers(column: pa.ChunkedArray) -> Iterator[Any]:
    for chunk in column.chunks:
        for scalar in chunk:
            yield scalar.as_buffer()

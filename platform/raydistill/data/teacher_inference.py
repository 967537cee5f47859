"""Teachers run over a corpus: Ray Data actors that compute outputs block by block, and one writer for each set."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydistill import discovery
from raydistill.batch import Batch, encoded_as
from raydistill.computing import compute_with
from raydistill.data.corpus import Corpus
from raydistill.data.published.score_files import OPTION, Block, ScoreColumn, replaced
from raydistill.data.ray_tasks import as_cell, cell, cell_type, run_actors
from raydistill.data.sealed_table import ROW_GROUP_ROWS
from raydistill.data.storages import storage_at
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.teacher_outputs import Header, OutputColumn, Values, record_batch, schema_of
from raydistill.data.teacher_outputs_writer import OutputSetWriter
from raydistill.data.top_k_file import TopKFile
from raydistill.losses.chunked_head import DEFAULT_CHUNK_ROWS, logits_of
from raydistill.losses.reduction import widen
from raydistill.losses.top_k import TopK, top_k_of
from raydistill.models.dropout_scores import dropout_scores, pass_seeds, single_pass_scores
from raydistill.models.heads import VOCABULARY_HEADS
from raydistill.models.load import DTYPES, load_model
from raydistill.models.predictions import at_labels, predict
from raydistill.models.vocabulary import limit_ids
from raydistill.plugins import Plugin
from raydistill.tasks._instructions import LOSS_SPANS
from raydistill.user_error import UserError


@dataclass(frozen=True)
class TeacherRun:
    """One teacher over some corpora, as plain data."""

    folder: str
    """Its checkpoint."""
    names: tuple[str | None, ...]
    """Names of its outputs, where its configuration does not have them; None for one that is left out."""
    corpora: tuple[str, ...]
    sets: tuple[str, ...]
    """Where the set of each corpus goes."""
    headers: tuple[Header, ...]
    num_threads: int = 1
    use_gpu: bool = False
    scores: ScoreColumn | None = None
    """Scores of a file, in place of those of passes with dropout."""
    top_k_file: TopKFile | None = None
    """Likeliest ids of a file; then the teacher does not run."""
    plugins: tuple[Plugin, ...] = ()
    """Those of the task."""


@dataclass(frozen=True)
class Share:
    """What of a machine or cluster a capture may use."""

    num_actors: int = 1
    cpus: int = 1
    """Logical CPUs of an actor."""
    use_gpu: bool = False


def capture(run: TeacherRun, share: Share) -> int:
    """Write the sets of a teacher and return how many rows it ran on; needs a running Ray.

    Sets that are finished are left alone, and finished shards of an interrupted call are kept. The outputs depend on
    the corpora and the headers alone, but for the rounding of another number of threads. Raises a ValueError that an
    actor met, with its message alone, and one for a file of scores that does not fit.
    """
    with ExitStack() as stack:
        writers, items = [], []
        for number, (uri, target, header) in enumerate(zip(run.corpora, run.sets, run.headers, strict=True)):
            offsets = Corpus.open(uri).shard_offsets
            writer = OutputSetWriter(target, header, shard_rows=np.diff(offsets).tolist())
            writers.append(stack.enter_context(writer))
            items += [{"corpus": number, "start": start, "stop": stop} for start, stop in _blocks(offsets, writer)]
        corpora = [Corpus.open(uri) for uri in run.corpora]
        found = _outputs(items, run, share) if run.top_k_file is None else run.top_k_file.blocks(items, corpora)
        blocks: Iterable[Block] = zip(items, found, strict=True)
        if run.scores is not None:
            of_file = run.scores.of_corpora(corpora)
            blocks = replaced(blocks, items, of_file, teacher=run.scores.teacher)
        for item, values in blocks:
            writers[item["corpus"]].add(np.arange(item["start"], item["stop"]), values)
        for writer in writers:
            writer.finish()
    return 0 if run.top_k_file is not None else sum(item["stop"] - item["start"] for item in items)


def _blocks(offsets: NDArray[np.int64], writer: OutputSetWriter) -> Iterator[tuple[int, int]]:
    """Ranges of rows that become record batches, from the first row that is missing."""
    for first, last in pairwise(offsets.tolist()):
        if first >= writer.first_row:
            yield from ((start, min(start + ROW_GROUP_ROWS, last)) for start in range(first, last, ROW_GROUP_ROWS))


def _outputs(items: list[dict[str, int]], run: TeacherRun, share: Share) -> Iterator[Values]:
    """What actors make of the items, in their order."""
    columns = run.headers[0].columns
    tables = run_actors(
        partial(_teacher_task, run),
        items,
        _cells(columns),
        num_actors=share.num_actors,
        cpus=share.cpus,
        use_gpu=share.use_gpu,
    )
    with closing(tables):
        for table in tables:
            yield from (_values(table, row, columns) for row in range(len(table)))


def _cells(columns: Mapping[str, OutputColumn]) -> pa.Schema:
    """Of what an actor hands over: a record batch is one row."""
    return pa.schema([pa.field(field.name, cell_type(field.type)) for field in schema_of(columns)])


def _teacher_task(run: TeacherRun) -> Callable[[Mapping[str, int]], list[pa.Table]]:
    """Load a teacher; the task runs it on a range of rows."""
    compute_with(run.num_threads)
    discovery.arrived(run.plugins)
    outputs = TeacherOutputs(run)

    def table_of(item: Mapping[str, int]) -> list[pa.Table]:
        rows, columns = np.arange(item["start"], item["stop"]), run.headers[item["corpus"]].columns
        batch = record_batch(rows, outputs.of(item["corpus"], rows), columns)
        return [pa.table([as_cell(array) for array in batch.columns], schema=_cells(columns))]

    return table_of


def _values(table: pa.Table, row: int, columns: Mapping[str, OutputColumn]) -> Values:
    found: Values = {}
    for name, column in columns.items():
        array = cell(table, name, row)
        flat = array.flatten().to_numpy()
        if column.per == "row":
            found[name] = flat.reshape(-1, *column.shape)
        else:
            found[name] = np.split(flat, np.cumsum(array.value_lengths().to_numpy())[:-1])
    return found


class TeacherOutputs:
    """A teacher and the corpora it is asked about; needs no Ray."""

    def __init__(self, run: TeacherRun) -> None:
        self._headers = run.headers
        header = run.headers[0]
        self._options = header.options
        self._device = torch.device("cuda" if run.use_gpu else "cpu")
        self._encodings = [
            _encoding_with(uri, one.tokenizer_hash) for uri, one in zip(run.corpora, run.headers, strict=True)
        ]
        self._builders = [
            BatchBuilder(FeedSpec.make(uri, header.task, None, seed=self._options["mask_seed"], encodings=[encoding]))
            for uri, encoding in zip(run.corpora, self._encodings, strict=True)
        ]
        self._head = self._builders[0].task.HEAD
        self._model: nn.Module = load_model(
            storage_at(run.folder).fetch(),
            head=self._head,
            labels=header.labels,
            names=run.names,
            dropout=self._options["dropout"],
            dtype=DTYPES[header.precision],
        ).to(self._device)
        if self._head in VOCABULARY_HEADS:
            limit_ids(self._model, self._builders[0].corpus.encoding.vocab_size)

    def of(self, corpus: int, rows: NDArray[np.int64]) -> Values:
        """Outputs of these rows in their order; they are run sorted by length, which wastes least."""
        builder, columns, encoding = self._builders[corpus], self._headers[corpus].columns, self._encodings[corpus]
        order = np.argsort(builder.corpus.lengths[rows], kind="stable")
        size = self._options["batch_size"]
        parts = [
            self._of_batch(encoded_as(batch, encoding).to(self._device), self._headers[corpus])
            for start in range(0, len(rows), size)
            for batch in [builder.batch(rows[order[start : start + size]], epoch=0, step=0)]
        ]
        back = np.argsort(order)
        found: Values = {}
        for name, column in columns.items():
            if column.per == "row":
                found[name] = np.concatenate([part[name] for part in parts])[back]
            else:
                values = [one for part in parts for one in part[name]]
                found[name] = [values[place] for place in back]
        return found

    def _of_batch(self, batch: Batch, header: Header) -> Values:
        kinds = header.kinds
        found: Values = {}
        if "top_k" in kinds:
            found |= self._top_k(batch, header.columns)
        if "logits" in kinds or "cls_states" in kinds:
            found |= self._said(batch, header.layers)
        if "dropout_scores" in kinds:
            found["dropout_scores"] = _array(self._scores(batch, header, found.get("logits")))
        return found

    @torch.no_grad()
    def _said(self, batch: Batch, layers: Sequence[int]) -> Values:
        said = predict(self._model, batch, head=self._head, with_states=bool(layers))
        found = {"logits": _array(said.logits)}
        if layers:
            found["cls_states"] = _array(torch.stack([said.pooled_states(layer) for layer in layers], dim=1))
        return found

    @torch.no_grad()
    def _scores(self, batch: Batch, header: Header, logits: NDArray[Any] | None) -> Tensor:
        """Of passes with dropout; of one pass without, whose logits may be there, where a file has the others."""
        if OPTION not in header.options:
            seeds = pass_seeds(batch, seed=self._options["dropout_seed"], passes=self._options["dropout_passes"])
            return dropout_scores(self._model, batch, head=self._head, seeds=seeds)
        if logits is not None:
            return single_pass_scores(torch.from_numpy(logits))
        return single_pass_scores(predict(self._model, batch, head=self._head).logits)

    @torch.no_grad()
    def _top_k(self, batch: Batch, columns: Mapping[str, OutputColumn]) -> Values:
        """The likeliest ids at the places of each row that are kept; logits of all places never exist at once."""
        of_labels = self._head == "masked_lm" or LOSS_SPANS in batch
        index = batch["label_index" if of_labels else "token_index"]
        states, projection = at_labels(self._model, batch, index)
        k, temperature = self._options["top_k"], self._options["temperature"]
        chunks = states.split(DEFAULT_CHUNK_ROWS)
        kept = [_named(top_k_of(widen(logits_of(chunk, projection)) / temperature, k)) for chunk in chunks]
        width = batch["attention_mask"].shape[1]
        found = {
            "top_k_places": [(index % width).cpu().numpy()],
            "top_k_inputs": [batch["input_ids"].flatten()[index].cpu().numpy()],
            **{name: [part[name] for part in kept] for name in kept[0]},
        }
        rows = (index // width).cpu().numpy()
        ends = np.cumsum(np.bincount(rows, minlength=batch.num_rows))[:-1]
        return {
            name: np.split(np.concatenate([part.astype(columns[name].dtype) for part in parts]), ends)
            for name, parts in found.items()
            if name in columns
        }


def _encoding_with(uri: str, tokenizer: str) -> int:
    """The number of a corpus's encoding by the tokenizer with a hash; raises ValueError where it has none."""
    hashes = [one.hash for one in Corpus.open(uri).tokenizers]
    if tokenizer not in hashes:
        raise UserError(f"corpus {uri!r} has no ids of the tokenizer with hash {tokenizer}; binarize it again")
    return hashes.index(tokenizer)


def _named(kept: TopK) -> dict[str, NDArray[Any]]:
    """What is kept, by columns; infinite in float16 is the tail alone, where it has no mass."""
    least = torch.finfo(torch.float16).min
    return {
        "top_k_ids": kept.ids.cpu().numpy(),
        "top_k_log_probs": _array(kept.log_probs.clamp(min=least)),
        "top_k_log_tails": _array(kept.log_tail.where(kept.log_tail.isinf(), kept.log_tail.clamp(min=least))),
    }


def _array(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = values.float().cpu().numpy()
    return found

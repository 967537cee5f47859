"""The data tasks of binarize: Ray Data reads and encodes input splits, and hands the rows over in their order."""

import dataclasses
import itertools
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.cluster import physical_cores
from raydistill.config.named import Named, parser
from raydistill.data.further_tokenizers import FurtherTokenizer, further_columns, further_values
from raydistill.data.input_splits import InputSplit, Place, entering, held_out, of_part
from raydistill.data.row_columns import table_of
from raydistill.data.sources._base import DROPPED, Example, Item
from raydistill.models.load import load_tokenizer

_MAX_TASKS = 2_000
_OF_SPLIT = ("number", "source", "share", "held_out", "drawn_as")
_OUTPUT_BYTES = 2**22
"""A task hands over its rows in pieces of about this size."""


@dataclass(frozen=True)
class Recipe:
    """What a data task needs to know besides its input splits, as plain data."""

    sources: Sequence[Mapping[str, Any]]
    """Section of each source."""
    encoding: Mapping[str, Any]
    """Section of the task that encodes."""
    files: Mapping[str, bytes]
    """The tokenizer's files."""
    seed: int
    texts_per_block: int
    further: Sequence[FurtherTokenizer] = ()
    """Tokenizers that encode the examples too."""


@dataclass(frozen=True)
class Block:
    """The rows that one part of the corpus gets from a block of texts."""

    place: Place
    part: int
    """0 for training, 1 for what is held out."""
    ids: NDArray[np.int32]
    """The rows, end to end."""
    lengths: NDArray[np.int32]
    values: pa.Table | None
    """What the rows have beside their ids, None for a task without columns."""
    counts: Mapping[str, int]
    """Number of ``texts``, and of rows that were dropped by reason."""


def encoded_blocks(
    splits: Sequence[InputSplit], recipe: Recipe, *, starts: Mapping[int, Place], parallel: int = 1
) -> Iterator[Block]:
    """Run the data tasks and hand over what they make, in the order of the splits.

    ``starts`` is the first block of each part that is written; texts of earlier blocks are not encoded.
    ``parallel`` is the number of binarizes that share the machine. Raises a ValueError that a task met, with its
    message alone.
    """
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = _OUTPUT_BYTES
    wanted = [_as_row(split) for split in splits if _is_wanted(split, starts)]
    if not wanted:
        return
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(wanted, override_num_blocks=min(len(wanted), _MAX_TASKS))
        build = partial(_encode_splits, recipe=recipe, starts=dict(starts))
        dataset = dataset.map_batches(
            build, batch_size=None, batch_format="pyarrow", **_share_of_cores(len(wanted), parallel)
        )
        tables = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
    try:
        for table in tables:
            yield from _blocks(table)
    finally:
        tables.close()


def _is_wanted(split: InputSplit, starts: Mapping[int, Place]) -> bool:
    end = Place(split.number + 1, 0)
    return any(part in starts and end > starts[part] for part in split.parts)


def _share_of_cores(num_splits: int, parallel: int) -> dict[str, Any]:
    """As many tasks as this machine has cores for, whatever its logical CPUs; on a cluster one for each CPU."""
    if os.environ.get("RAY_ADDRESS"):
        return {"num_cpus": 1}
    import ray.data

    num_tasks = max(1, physical_cores() // parallel)
    cpus = min(1.0, ray.cluster_resources()["CPU"] / (num_tasks * parallel))
    return {"compute": ray.data.TaskPoolStrategy(size=min(num_tasks, num_splits)), "num_cpus": cpus}


def _as_row(split: InputSplit) -> dict[str, Any]:
    own = {name: getattr(split, name) for name in _OF_SPLIT}
    return {**own, **dataclasses.asdict(split.item)}


def _as_split(row: Mapping[str, Any]) -> InputSplit:
    item = Item(**{field.name: row[field.name] for field in dataclasses.fields(Item)})
    return InputSplit(item=item, **{name: row[name] for name in _OF_SPLIT})


def _blocks(table: pa.Table) -> Iterator[Block]:
    columns = {name: table.column(name) for name in table.column_names}
    for place in range(len(table)):
        row = {name: column[place] for name, column in columns.items()}
        if error := row["error"].as_py():
            raise ValueError(error)
        ids, lengths = (np.frombuffer(row[name].as_buffer(), dtype=np.int32) for name in ("ids", "lengths"))
        where = Place(row["split"].as_py(), row["block"].as_py())
        content = row["values"].as_buffer()
        values = pa.ipc.open_stream(content).read_all() if content else None
        yield Block(where, row["part"].as_py(), ids, lengths, values, json.loads(row["counts"].as_py()))


def _encode_splits(table: pa.Table, *, recipe: Recipe, starts: Mapping[int, Place]) -> Iterator[pa.Table]:
    """The data task; a ValueError, which the user can mend, is handed over as data and so without Ray's traceback."""
    try:
        for row in table.to_pylist():
            for block in _encode_split(_as_split(row), recipe, starts):
                yield _as_table(block)
    except ValueError as error:
        yield _as_table(error=str(error))


def _encode_split(split: InputSplit, recipe: Recipe, starts: Mapping[int, Place]) -> Iterator[Block]:
    reader: Named = parser("raydistill.data.sources")(dict(recipe.sources[split.source]))
    encoders = {part: _Encoder(recipe, part) for part in split.parts}
    examples = iter(reader.module.read(reader.config, split.item))
    for number in itertools.count():
        block = list(itertools.islice(examples, recipe.texts_per_block))
        if not block:
            return
        numbers = np.arange(len(block)) + number * recipe.texts_per_block
        enters = entering(split, numbers, seed=recipe.seed)
        apart = held_out(split, numbers, seed=recipe.seed)
        place = Place(split.number, number)
        for part, chosen in enumerate((enters & ~apart, enters & apart)):
            if part in starts and place >= starts[part] and chosen.any():
                yield _encoded([block[index] for index in np.flatnonzero(chosen)], place, encoders[part])


class _Encoder:
    """The task that encodes the rows of a part, with its tokenizers."""

    def __init__(self, recipe: Recipe, part: int) -> None:
        section = of_part(parser("raydistill.tasks", attribute="EncodeConfig")(dict(recipe.encoding)), part)
        self.part = part
        self._task, self._config = section.module, section.config
        self._tokenizer = _load_files(tuple(sorted(recipe.files.items())))
        self._further = [
            (
                _load_files(tuple(sorted(one.files.items()))),
                dataclasses.replace(self._config, max_length=one.max_length),
                one.vocab_size,
            )
            for one in recipe.further
        ]
        own = self._task.columns(self._config)
        self.columns = {**own, **further_columns([one.vocab_size for one in recipe.further])}
        """What a row has beside its ids."""

    def cut(self, texts: Sequence[Example]) -> tuple[list[NDArray[Any]], list[dict[str, Any]]]:
        """The ids of each row, and its values, none for a task without columns."""
        found = self._task.cut(texts, self._tokenizer, self._config)
        if not self.columns:
            return found, []
        values = [dict(row.values) for row in found]
        for encoding, (tokenizer, config, vocab_size) in enumerate(self._further, start=1):
            for into, row in zip(values, self._task.cut(texts, tokenizer, config), strict=True):
                into.update(further_values(row, encoding, vocab_size=vocab_size))
        return [row.ids for row in found], values

    def drop_reasons(self, rows: Sequence[NDArray[Any]]) -> list[str | None]:
        """Why each row is left out, None for one that is kept."""
        reasons: list[str | None] = self._task.drop_reasons(rows, self._tokenizer, self._config)
        return reasons


def _encoded(examples: list[Example], place: Place, encoder: _Encoder) -> Block:
    texts = [example for example in examples if DROPPED not in example]
    rows, of_rows = encoder.cut(texts)
    reasons = encoder.drop_reasons(rows)
    kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    ids = np.concatenate([np.empty(0, dtype=np.int32), *kept]).astype(np.int32)
    lengths = np.fromiter(map(len, kept), dtype=np.int32, count=len(kept))
    values = None
    if encoder.columns:
        pairs = zip(of_rows, reasons, strict=True)
        values = table_of([one for one, reason in pairs if reason is None], encoder.columns)
    left_out = (example[DROPPED] for example in examples if DROPPED in example)
    return Block(
        place, encoder.part, ids, lengths, values, {"texts": len(texts), **Counter(filter(None, [*reasons, *left_out]))}
    )


def _as_table(block: Block | None = None, *, error: str = "") -> pa.Table:
    """One row, which is smaller and faster to hand over than one for each row of ids."""
    if block is None:
        nothing = np.empty(0, dtype=np.int32)
        block = Block(Place(0, 0), 0, nothing, nothing, None, {})
    return pa.table(
        {
            "split": [block.place.split],
            "block": [block.place.block],
            "part": [block.part],
            "ids": pa.array([block.ids.tobytes()], type=pa.large_binary()),
            "lengths": pa.array([block.lengths.tobytes()], type=pa.large_binary()),
            "values": pa.array([_ipc(block.values)], type=pa.large_binary()),
            "counts": [json.dumps(block.counts)],
            "error": [error],
        }
    )


def _ipc(table: pa.Table | None) -> bytes:
    """A table as bytes, none for no table."""
    if table is None:
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


@lru_cache(maxsize=8)
def _load_files(files: tuple[tuple[str, bytes], ...]) -> Any:
    """The tokenizer in these files, loaded once in a process; a task has one CPU, so one thread."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files:
            (Path(folder) / name).write_bytes(content)
        return load_tokenizer(folder)

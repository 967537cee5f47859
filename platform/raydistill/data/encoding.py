"""The data tasks of binarize: Ray Data reads and encodes input splits, and hands the rows over in their order."""

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.examples import examples_of, placed_in
from raydistill.data.findings import Met, characters, met_in
from raydistill.data.input_splits import InputSplit, Place, entering, is_validation, of_part
from raydistill.data.ray_tasks import as_cell, cell, cell_type, run_tasks
from raydistill.data.row_columns import one_array, schema_of, table_of
from raydistill.data.sources._base import DROPPED, Example, Item, Where
from raydistill.data.teacher_tokenizers import FurtherTokenizer, further_columns, further_values
from raydistill.machine import physical_cores
from raydistill.models.load import load_tokenizer
from raydistill.tasks._base import ROW_REASONS, Column

_MAX_CALLS = 2_000
_PIECE_BYTES = 2**22
"""A task hands over its rows in pieces of about this size."""
_BLOCK_CHARACTERS = 2**22
"""A block of texts is full at this size too."""
_IDS, _LENGTHS = "row.ids", "row.lengths"
_COUNTS = pa.map_(pa.string(), pa.int64())
_WHERE = pa.struct({"name": pa.string(), "unit": pa.string(), "number": pa.int64(), "before": pa.int64()})
_MET = pa.list_(pa.struct({"what": pa.string(), "where": _WHERE}))
_OF_BLOCK = pa.schema(
    {
        "block.split": pa.int64(),
        "block.number": pa.int64(),
        "block.part": pa.int64(),
        "block.counts": _COUNTS,
        "block.met": _MET,
    }
)
_ROWS = pa.schema({_IDS: pa.int32(), _LENGTHS: pa.int32()})


@dataclass(frozen=True)
class Recipe:
    """What a data task needs to know besides its input splits."""

    sources: Sequence[SourceSpec]
    encoding: EncodingSpec
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
    met: Sequence[Met] = ()
    """Long texts, and the first that was dropped for each reason."""


def encoded_blocks(
    splits: Sequence[InputSplit], recipe: Recipe, *, starts: Mapping[int, Place], parallel: int = 1
) -> Iterator[Block]:
    """Run the data tasks and hand over what they make, in the order of the splits.

    ``starts`` is the first block of each part that is written; texts of earlier blocks are not encoded.
    ``parallel`` is the number of binarizes that share the machine. Raises a ValueError that a task met, with its
    message alone.
    """
    tables = run_tasks(
        partial(_encode_item, recipe=recipe, starts=dict(starts)),
        [dataclasses.asdict(split) for split in splits if _is_wanted(split, starts)],
        _schema(recipe, starts),
        piece_bytes=_PIECE_BYTES,
        max_calls=_MAX_CALLS,
        **_share_of_cores(parallel),
    )
    columns = {part: schema_of(_columns(recipe, part)) for part in starts}
    with closing(tables):
        for table in tables:
            yield from (_as_block(table, row, columns) for row in range(len(table)))


def _is_wanted(split: InputSplit, starts: Mapping[int, Place]) -> bool:
    end = Place(split.number + 1, 0)
    return any(part in starts and end > starts[part] for part in split.parts)


def _share_of_cores(parallel: int) -> dict[str, Any]:
    """As many tasks as this machine has cores for, whatever its logical CPUs; on a cluster one for each CPU."""
    if os.environ.get("RAY_ADDRESS"):
        return {}
    import ray

    num_tasks = max(1, physical_cores() // parallel)
    return {"num_tasks": num_tasks, "cpus": min(1.0, ray.cluster_resources()["CPU"] / (num_tasks * parallel))}


def _schema(recipe: Recipe, parts: Iterable[int]) -> pa.Schema:
    """Of what a task hands over: a block is one row, which holds the block's own rows column by column.

    A row of the corpus each would lose the blocks without rows, whose texts are counted too.
    """
    every = {name: column for part in sorted(parts) for name, column in _columns(recipe, part).items()}
    of_rows = [pa.field(field.name, cell_type(field.type)) for field in (*_ROWS, *schema_of(every))]
    return pa.schema([*_OF_BLOCK, *of_rows])


def _encode_item(item: Mapping[str, Any], *, recipe: Recipe, starts: Mapping[int, Place]) -> Iterator[pa.Table]:
    """The data task."""
    schema = _schema(recipe, starts)
    split = InputSplit(**{**item, "item": Item(**item["item"])})
    for block in _encode_split(split, recipe, starts):
        yield _as_table(block, schema)


def _as_table(block: Block, schema: pa.Schema) -> pa.Table:
    counts = pa.array([list(block.counts.items())], type=_COUNTS)
    met = pa.array([[{"what": what, "where": where._asdict()} for what, where in block.met]], type=_MET)
    own = [block.place.split], [block.place.block], [block.part], counts, met
    of_block = dict(zip(_OF_BLOCK.names, own, strict=True))
    arrays = {_IDS: pa.array(block.ids), _LENGTHS: pa.array(block.lengths)}
    if block.values is not None:
        arrays |= {name: one_array(block.values.column(name)) for name in block.values.column_names}
    found = {**of_block, **{name: as_cell(array) for name, array in arrays.items()}}
    # Of two parts of a corpus one may have labels alone.
    return pa.table([found.get(field.name, pa.nulls(1, field.type)) for field in schema], schema=schema)


def _as_block(table: pa.Table, row: int, columns: Mapping[int, pa.Schema]) -> Block:
    split, block, part, counts, met = (table.column(name)[row].as_py() for name in _OF_BLOCK.names)
    ids, lengths = (cell(table, name, row).to_numpy() for name in _ROWS.names)
    own = columns[part]
    values = pa.table([cell(table, name, row) for name in own.names], schema=own) if own.names else None
    return Block(
        Place(split, block),
        part,
        ids,
        lengths,
        values,
        dict(counts),
        [(one["what"], Where(**one["where"])) for one in met],
    )


def _columns(recipe: Recipe, part: int) -> dict[str, Column]:
    """What a row of a part has beside its ids."""
    own = of_part(recipe.encoding, part).columns
    return {**own, **further_columns([one.vocab_size for one in recipe.further])}


def _encode_split(split: InputSplit, recipe: Recipe, starts: Mapping[int, Place]) -> Iterator[Block]:
    encoders = {part: _Encoder(recipe, part) for part in split.parts}
    examples = examples_of(recipe.sources[split.source], split.item)
    first = 0
    for number, block in enumerate(_in_blocks(examples, recipe.texts_per_block)):
        numbers = np.arange(len(block)) + first
        first += len(block)
        enters = entering(split, numbers, seed=recipe.seed)
        apart = is_validation(split, numbers, seed=recipe.seed)
        place = Place(split.number, number)
        for part, chosen in enumerate((enters & ~apart, enters & apart)):
            if part in starts and place >= starts[part] and chosen.any():
                entered = [block[index] for index in np.flatnonzero(chosen)]
                texts = [example for example in entered if DROPPED not in example]
                with placed_in(split.item, texts, encoders[part].cut):
                    made = _encoded(entered, texts, place, encoders[part])
                yield made


def _in_blocks(examples: Iterator[Example], most_texts: int) -> Iterator[list[Example]]:
    """Examples in blocks of so many, or of fewer that are long, so that memory does not depend on their lengths."""
    block, size = list[Example](), 0
    for example in examples:
        block.append(example)
        size += characters(example)
        if len(block) == most_texts or size > _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


class _Rows(NamedTuple):
    """Rows before any is dropped."""

    ids: list[NDArray[Any]]
    values: list[dict[str, Any]]
    """None for a task without columns."""
    fates: list[str | None]
    """See ``LabelledRow.fate``."""
    example_of: Sequence[int]
    """The number of each row's text, where it is known."""


class _Encoder:
    """The task that encodes the rows of a part, with its tokenizers."""

    def __init__(self, recipe: Recipe, part: int) -> None:
        self.part = part
        self._encoding = of_part(recipe.encoding, part)
        self._tokenizer = _load_files(tuple(sorted(recipe.files.items())))
        self._further = [
            (
                _load_files(tuple(sorted(one.files.items()))),
                self._encoding.with_max_length(one.max_length),
                one.vocab_size,
            )
            for one in recipe.further
        ]
        self.columns = _columns(recipe, part)
        """What a row has beside its ids."""

    def cut(self, texts: Sequence[Example]) -> "_Rows":
        """The rows of some texts."""
        found = self._encoding.cut(texts, self._tokenizer)
        if not self.columns:
            return _Rows(found, [], [None] * len(found), getattr(found, "example_of", ()))
        values = [dict(row.values) for row in found]
        for number, (tokenizer, encoding, vocab_size) in enumerate(self._further, start=1):
            for into, row in zip(values, encoding.cut(texts, tokenizer), strict=True):
                into.update(further_values(row, number, vocab_size=vocab_size))
        example_of = range(len(texts)) if len(found) == len(texts) else ()
        return _Rows([row.ids for row in found], values, [row.fate for row in found], example_of)

    def drop_reasons(self, rows: Sequence[NDArray[Any]]) -> list[str | None]:
        """Why each row is left out, None for one that is kept."""
        return self._encoding.drop_reasons(rows, self._tokenizer)


def _encoded(examples: list[Example], texts: list[Example], place: Place, encoder: _Encoder) -> Block:
    """A block of examples, of which ``texts`` are those that their source kept."""
    rows = encoder.cut(texts)
    pairs = zip(rows.fates, encoder.drop_reasons(rows.ids), strict=True)
    reasons = [fate if fate in ROW_REASONS else reason for fate, reason in pairs]
    kept = [row for row, reason in zip(rows.ids, reasons, strict=True) if reason is None]
    ids = np.concatenate([np.empty(0, dtype=np.int32), *kept], dtype=np.int32, casting="unsafe")
    lengths = np.fromiter(map(len, kept), dtype=np.int32, count=len(kept))
    values = None
    if encoder.columns:
        of_kept = [one for one, reason in zip(rows.values, reasons, strict=True) if reason is None]
        values = table_of(of_kept, encoder.columns)
    left_out = (example[DROPPED] for example in examples if DROPPED in example)
    # A row that is kept may have been cut.
    told = [reason or fate for reason, fate in zip(reasons, rows.fates, strict=True)]
    counts = {"texts": len(texts), **Counter(filter(None, [*told, *left_out]))}
    return Block(place, encoder.part, ids, lengths, values, counts, met_in(examples, told, rows.example_of))


@lru_cache(maxsize=8)
def _load_files(files: tuple[tuple[str, bytes], ...]) -> Any:
    """The tokenizer in these files, loaded once in a process; a task has one CPU, so one thread."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files:
            (Path(folder) / name).write_bytes(content)
        return load_tokenizer(folder)

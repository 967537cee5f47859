"""Files through a model into one file: here in one process, or by Ray Data actors that each load the model once."""

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raydistill.computing import compute_with
from raydistill.data.ray_tasks import run_actors
from raydistill.data.sources._base import Item
from raydistill.data.storages import storage_at
from raydistill.deploy.predictor import Predictor
from raydistill.prediction.files import BLOCK_ROWS, STANDARD, Part, blocks, num_blocks, rows_of
from raydistill.prediction.output import Output, Progress, Written, written
from raydistill.tracking.registration import content_hash
from raydistill.user_error import UserError

_SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("block", pa.int64()),
        ("rows", pa.int64()),
        ("data", pa.large_binary()),
        ("columns", pa.string()),
    ]
)
_ITEM_BLOCKS = 8
"""Blocks that an actor answers at a time."""


@dataclass(frozen=True)
class Model:
    """A checkpoint and how it is asked."""

    folder: str
    batch_size: int = 32
    max_length: int | None = None
    precision: str = "fp32"
    columns: tuple[tuple[str, str], ...] = ()
    """Pairs of what the model reads, such as ``text``, and the input's column that has it, where that has another
    name."""
    prefix: str = ""
    """Before the name of each column of answers."""
    probabilities: bool = True
    """Whether the probability of each class is written."""

    def load(self) -> Predictor:
        """The model, loaded."""
        folder = storage_at(self.folder).fetch()
        return Predictor(folder, batch_size=self.batch_size, max_length=self.max_length, precision=self.precision)


@dataclass(frozen=True)
class Summary:
    """What was done."""

    rows: int
    resumed_rows: int
    """Of these, those that an earlier run had written."""
    seconds: float
    """Of answering, without loading the model here."""

    @property
    def rows_per_second(self) -> float:
        """Of the rows that this run answered."""
        return (self.rows - self.resumed_rows) / max(self.seconds, 1e-9)


def predict_files(
    model: Model,
    parts: Sequence[Part],
    target: Path,
    to: str,
    *,
    workers: int = 1,
    told: Callable[[int, float], None] = lambda rows, seconds: None,
) -> Summary:
    """Write the rows of ``parts`` with a model's answers to ``target``, in their order, and go on where a run stopped.

    ``workers`` above 1 need a running Ray. ``told`` hears the rows that this run answered, and its seconds, after each
    block. Raises UserError for what cannot be read or answered.
    """
    if any(part.item.name == STANDARD for part in parts) and workers > 1:
        raise UserError("standard input is read by one process; leave out --workers, or give a file")
    job = {"model": {**asdict(model), "folder": content_hash(storage_at(model.folder).fetch())}, "to": to}
    output = Output(target, to, job={**job, "parts": [asdict(part) for part in parts]})
    try:
        left = output.progress
        if workers > 1:
            made = _by_actors(model, parts, to, left, workers)
        else:
            made = _here(model.load(), model, parts, to, left)
        begin = time.perf_counter()
        with closing(made):
            for part, block, one in made:
                output.add(part, block, one)
                told(output.progress.rows - left.rows, time.perf_counter() - begin)
        output.finish()
        return Summary(output.progress.rows, left.rows, time.perf_counter() - begin)
    finally:
        output.close()


def _here(
    predictor: Predictor, model: Model, parts: Sequence[Part], to: str, left: Progress
) -> Generator[tuple[int, int, Written], None, None]:
    for number in range(left.part, len(parts)):
        skip = left.blocks if number == left.part else 0
        for block, table in enumerate(blocks(parts[number], skip), skip):
            yield number, block, _answered(predictor, model, parts[number], block, table, to)


def _answered(predictor: Predictor, model: Model, part: Part, block: int, table: pa.Table, to: str) -> Written:
    rows = rows_of(table)
    named = dict(model.columns)
    examples = [example_of(row, predictor, named) for row in rows]
    answers = {
        f"{model.prefix}{name}": values
        for name, values in predictor.predict(examples, called=part.rows_from, start=block * BLOCK_ROWS + 1).items()
        if model.probabilities or not name.startswith("probability.")
    }
    return written(table, rows, answers, to)


def example_of(row: Mapping[str, Any], predictor: Predictor, named: Mapping[str, str]) -> dict[str, Any]:
    """What of a row the model reads, under the names that it has there."""
    for role, column in named.items():
        if column not in row:
            raise UserError(f"{role} is {column!r}, which the input does not have; choices: {', '.join(row)}")
    roles = (*predictor.reads, *predictor.may_read, "text")
    found = {role: row[named.get(role, role)] for role in roles if named.get(role, role) in row}
    if not any(role in found for role in (predictor.reads[0], "text")):
        raise UserError(
            f"the input has no column {predictor.reads[0]!r}, which the model reads; it has {', '.join(row)}: name one "
            f"with --column {predictor.reads[0]}=NAME"
        )
    return found


def _by_actors(
    model: Model, parts: Sequence[Part], to: str, left: Progress, workers: int
) -> Generator[tuple[int, int, Written], None, None]:
    import ray

    resources = ray.cluster_resources()
    cpus = max(1, int(resources.get("CPU", 1)) // workers)
    items = [
        {
            "part": number,
            "first_block": first,
            "stop_block": stop,
            "format": parts[number].format,
            **asdict(parts[number].item),
        }
        for number in range(left.part, len(parts))
        for first, stop in _ranges(parts[number], left.blocks if number == left.part else 0)
    ]
    make = partial(_task, model, to, cpus)
    tables = run_actors(make, items, _SCHEMA, num_actors=workers, cpus=cpus, use_gpu=bool(resources.get("GPU")))
    with closing(tables):
        for table in tables:
            for row in table.to_pylist():
                columns = tuple(json.loads(row["columns"]))
                yield row["part"], row["block"], Written(row["rows"], row["data"], columns)


def _ranges(part: Part, first: int) -> list[tuple[int, int]]:
    """Ranges of a part's blocks, so that several actors share a long file."""
    total = num_blocks(part)
    return [(start, min(start + _ITEM_BLOCKS, total)) for start in range(first, total, _ITEM_BLOCKS)]


def _task(model: Model, to: str, threads: int) -> Callable[[Mapping[str, Any]], Iterator[pa.Table]]:
    compute_with(threads)
    predictor = model.load()

    def answers_of(item: Mapping[str, Any]) -> Iterator[pa.Table]:
        part = Part(Item(**{field.name: item[field.name] for field in fields(Item)}), item["format"])
        for block, table in enumerate(blocks(part, item["first_block"], item["stop_block"]), item["first_block"]):
            made = _answered(predictor, model, part, block, table, to)
            row = (item["part"], block, made.rows, made.data, json.dumps(made.columns))
            yield pa.table([[value] for value in row], schema=_SCHEMA)

    return answers_of

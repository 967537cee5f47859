"""Files of texts and tables as blocks of rows, with every column as it is written."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.data.sources import _files, delimited
from raydistill.data.sources._base import Item
from raydistill.data.sources._lines import Lines, is_cuttable
from raydistill.data.sources._reading import json_value, reading
from raydistill.data.storage import Folder
from raydistill.user_error import UserError

STANDARD = "-"
"""Stands for standard input, and for standard output."""
FORMATS = {
    ".txt": "text",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
"""How a file is written, by its ending, ``.gz`` and the like left out."""
BLOCK_ROWS = 1024
"""Rows that are read, and answered, at a time."""
LINE = "line"
"""Column of JSON lines, as they are written."""
_CHARSET = "utf-8-sig"


@dataclass(frozen=True)
class Part:
    """A file, or a range of one."""

    item: Item
    format: str

    @property
    def rows_from(self) -> str:
        """What the numbers of its rows count."""
        return f"{self.item.name} row" if not self.item.start else f"{self.item.name} from byte {self.item.start} row"


def format_of(name: str, given: str | None = None) -> str:
    """How a file of this name is written; raises UserError where neither the name nor ``given`` tells it."""
    if given is not None:
        if given not in FORMATS.values():
            raise UserError(f"format is {given!r}; choices: {', '.join(dict.fromkeys(FORMATS.values()))}")
        return given
    path = PurePosixPath(name)
    ending = PurePosixPath(path.stem).suffix if _files.is_packed(name) else path.suffix
    if ending not in FORMATS and name == STANDARD:
        raise UserError("standard input does not say how it is written; give --format")
    if ending not in FORMATS:
        raise UserError(f"{name} ends with none of {', '.join(FORMATS)}; give --format")
    return FORMATS[ending]


def parts_of(paths: Sequence[str], given: str | None = None) -> list[Part]:
    """Files and globs in the order they are given, large ones in ranges; raises UserError for one that is not there."""
    found = []
    for path in paths:
        if path == STANDARD:
            found.append(Part(Item(STANDARD, fingerprint=""), format_of(STANDARD, given)))
            continue
        for file in _files.list_items(_files.FileSet(path=path)):
            written = format_of(file.name, given)
            # A record of CSV may have newlines in quotes.
            cuttable = written in ("text", "jsonl") and is_cuttable(_CHARSET)
            found += [Part(item, written) for item in (_files.in_ranges(file) if cuttable else [file])]
    return found


def blocks(part: Part, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
    """The rows of a part in blocks ``start`` to ``stop - 1``, at most ``BLOCK_ROWS`` at a time.

    Texts are the column ``text``, lines of JSON the column ``line``, columns of CSV and TSV strings; those of Parquet
    keep their types. Raises UserError, naming file and line, for what cannot be read.
    """
    if part.format == "parquet":
        yield from islice(_parquet_blocks(part.item.name), start, stop)
        return
    with _opened(part.item) as stream:
        lines = Lines(stream, part.item, charset=_CHARSET)
        rows = _delimited(part, lines) if part.format in ("csv", "tsv") else _lines(part, lines)
        header = next(rows)
        for block in islice(_cut(rows), start, stop):
            yield pa.table([pa.array(column, pa.large_string()) for column in zip(*block, strict=True)], names=header)


def num_blocks(part: Part) -> int:
    """How many blocks a part has; reads it, but for Parquet."""
    if part.format != "parquet":
        return sum(1 for _ in blocks(part))
    folder = Folder(part.item.name)
    with reading(part.item.name), folder.fs.open_input_file(folder.path) as stream:
        return -(-pq.ParquetFile(stream).metadata.num_rows // BLOCK_ROWS)


@contextmanager
def _opened(item: Item) -> Iterator[IO[bytes]]:
    if item.name != STANDARD:
        with _files.open_item(_files.FileSet(path=item.name), item) as stream:
            yield stream
        return
    with reading("standard input"):
        yield cast(IO[bytes], io.BufferedReader(cast(Any, sys.stdin.buffer)))


def _cut(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while block := list(islice(rows, BLOCK_ROWS)):
        yield block


def _lines(part: Part, lines: Lines) -> Iterator[Sequence[str]]:
    """The name of the only column, then each line that is not blank."""
    yield ("text",) if part.format == "text" else (LINE,)
    for line in lines:
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        if part.format == "jsonl":
            _checked_object(text, lines)
        yield (text,)


def _checked_object(text: str, lines: Lines) -> None:
    try:
        if not isinstance(json_value(text), dict):
            raise UserError("is not a JSON object; write one object per line")
    except UserError as error:
        raise UserError(f"{lines.place()} {error}") from None


def _delimited(part: Part, lines: Lines) -> Iterator[Sequence[str]]:
    """The header, then the fields of each row; a row with fewer or more fields is refused."""
    config = delimited.Config(path=part.item.name, format=cast(Any, part.format))
    records = delimited.read_records(config, part.item, lines)
    header = next(records, None)
    if not header or header == [""]:
        raise UserError(f"{part.item.name} is empty; its first line names the columns")
    if part.format == "csv" and len(header) == 1 and ";" in header[0]:
        raise UserError(f"{part.item.name} has one column, {header[0]!r}; separate its columns with commas")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{part.item.name} names the column {twice!r} more than once; rename one")
    yield header
    for fields in records:
        if fields in ([], [""]):
            continue
        if len(fields) != len(header):
            raise UserError(f"{lines.place()} has {len(fields)} fields, the header {len(header)}; fix the line")
        yield fields


def _parquet_blocks(name: str) -> Iterator[pa.Table]:
    folder = Folder(name)
    with reading(name), folder.fs.open_input_file(folder.path) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=BLOCK_ROWS):
            yield pa.Table.from_batches([batch])


def rows_of(block: pa.Table) -> list[dict[str, Any]]:
    """The rows of a block by their columns' names, JSON lines parsed."""
    if block.column_names == [LINE]:
        return [json_value(text) for text in block.column(LINE).to_pylist()]
    rows: list[dict[str, Any]] = block.to_pylist()
    return rows


def written_csv(rows: Sequence[Sequence[str]], *, tabs: bool) -> bytes:
    """Rows of fields as CSV with quotes where they are needed, or as TSV, which has none.

    Raises UserError for a tab or a newline in a field of TSV.
    """
    if tabs:
        bad = next((field for row in rows for field in row if any(sign in field for sign in "\t\n\r")), None)
        if bad is not None:
            raise UserError(f"{bad[:40]!r} has a tab or a newline, which TSV cannot hold; write CSV or JSON lines")
        return "".join("\t".join(row) + "\n" for row in rows).encode()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()

"""Rows of Parquet files on any storage: texts, pairs and labels, words with tags, questions, prompts or messages."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from raydistill.data.sources import _tables
from raydistill.data.sources._base import Example, Item
from raydistill.data.sources._reading import reading
from raydistill.data.storage import Folder, glob_files

_ROWS_PER_ITEM = 20_000
_ROWS_PER_READ = 1_000
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Config(_tables.Columns):
    """Which files, and which columns mean what.

    Class ids become names where a data set's features in the file tell them. A row without a text is dropped and
    counted, and one without a label, such as a hidden one with the id -1.
    """

    path: str
    """A file, or a glob over files, local or a URI."""


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """Ranges of row groups of about 20,000 rows; raises ValueError without a matching file or a column."""
    found: list[Item] = []
    for path, fingerprint in glob_files(config.path):
        with reading(path), Folder(path).open_input("") as stream:
            metadata = pq.read_metadata(stream)
            _tables.check_schema(config, metadata.schema.to_arrow_schema(), path)
        found.extend(_row_group_ranges(path, fingerprint, metadata))
    return found


def _row_group_ranges(path: str, fingerprint: str, metadata: pq.FileMetaData) -> Iterator[Item]:
    start = rows = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= _ROWS_PER_ITEM or group == metadata.num_row_groups - 1:
            yield Item(path, fingerprint, start, group + 1)
            start, rows = group + 1, 0


def read(config: Config, item: Item) -> Iterator[Example]:
    """The examples of one range of row groups; raises ValueError, naming the row, for a value that is wrong."""
    with Folder(item.name).open_input("") as stream:
        # A row group may be large: neither its bytes nor its rows are held as a whole.
        file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        names = _tables.class_names(file.schema_arrow)
        start = sum(file.metadata.row_group(group).num_rows for group in range(item.start))
        columns = list(dict.fromkeys(config.columns().values()))
        groups = range(item.start, item.stop)
        batches = file.iter_batches(_ROWS_PER_READ, row_groups=groups, columns=columns)
        rows = (row for batch in batches for row in _tables.rows_of(batch.to_pydict()))
        yield from _tables.examples(config, names, rows, place=item.name, start=start)

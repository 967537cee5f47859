"""A text column of Parquet files on any storage."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.data.sources._base import Example, Item
from raydistill.data.storage import Folder, glob_files

_ROWS_PER_ITEM = 20_000
_ROWS_PER_READ = 1_000
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Config:
    """Which files and which column."""

    path: str
    """A file, or a glob over files, local or a URI."""
    column: str = "text"
    """Column of strings, one text a row."""


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """Ranges of row groups of about 20,000 rows; raises ValueError without a matching file or the column."""
    found: list[Item] = []
    for path, fingerprint in glob_files(config.path):
        with Folder(path).open_input("") as stream:
            metadata = pq.read_metadata(stream)
        _check_column(metadata.schema.to_arrow_schema(), config.column, path)
        found.extend(_row_group_ranges(path, fingerprint, metadata))
    return found


def _check_column(schema: pa.Schema, column: str, path: str) -> None:
    if column not in schema.names:
        raise ValueError(f"column is {column!r}, which {path} does not have; choices: {', '.join(schema.names)}")
    kind = schema.field(column).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(values) or pa.types.is_large_string(values)):
        raise ValueError(f"column is {column!r}, which holds {kind} in {path}; give one of strings")


def _row_group_ranges(path: str, fingerprint: str, metadata: pq.FileMetaData) -> Iterator[Item]:
    start = rows = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= _ROWS_PER_ITEM or group == metadata.num_row_groups - 1:
            yield Item(path, fingerprint, start, group + 1)
            start, rows = group + 1, 0


def read(config: Config, item: Item) -> Iterator[Example]:
    """The texts of one range of row groups; rows without a text are left out."""
    with Folder(item.name).open_input("") as stream:
        groups = range(item.start, item.stop)
        # A row group may be large: neither its bytes nor its rows are held as a whole.
        file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        for batch in file.iter_batches(_ROWS_PER_READ, row_groups=groups, columns=[config.column]):
            yield from ({"text": text} for text in batch.column(0).to_pylist() if text)

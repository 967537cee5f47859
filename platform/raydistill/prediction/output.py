"""Rows with their answers as the bytes of a file, and a file that goes on where an interrupted run stopped."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.atomic import atomic_file, write_json
from raydistill.locks import HeldError, hold
from raydistill.prediction.files import LINE, written_csv
from raydistill.user_error import UserError

_LOST_TAG = "_"
_DIGITS = ".6g"
_WITH_HEADER = ("csv", "tsv")


@dataclass(frozen=True)
class Written:
    """A block of rows with their answers, as the bytes of a file's format."""

    rows: int
    data: bytes
    columns: tuple[str, ...]
    """Names of the columns; none of JSON lines, whose rows name their own."""


def written(
    block: pa.Table, rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[Any]], to: str
) -> Written:
    """A block and its answers in the format ``to``: ``csv``, ``tsv``, ``jsonl`` or ``parquet``.

    Raises UserError for a column that both have.
    """
    known = {name for row in rows for name in row} if block.column_names == [LINE] else {*block.column_names}
    both = sorted(known & {*answers})
    if both:
        raise UserError(f"the input has a column {both[0]!r}, which is also the name of an answer; give --prefix")
    if to == "jsonl":
        return Written(
            len(rows), b"".join(_json_line({**row, **_at(answers, place)}) for place, row in enumerate(rows)), ()
        )
    if to == "parquet":
        table = _table(block, rows, answers)
        return Written(len(rows), _as_stream(table), tuple(table.column_names))
    columns = [*dict.fromkeys(name for row in rows for name in row), *answers]
    fields = [[_field({**row, **_at(answers, place)}.get(name)) for name in columns] for place, row in enumerate(rows)]
    return Written(len(rows), written_csv(fields, tabs=to == "tsv"), tuple(columns))


def _at(answers: Mapping[str, Sequence[Any]], place: int) -> dict[str, Any]:
    return {name: _plain(values[place]) for name, values in answers.items()}


def _plain(value: Any) -> Any:
    """A value without NumPy's types; a number as short as its type is exact."""
    if hasattr(value, "dtype"):
        return float(str(value)) if value.dtype.kind == "f" else value.item()
    return value


def _json_line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode("utf-8", "surrogatepass")


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return format(value, _DIGITS)
    if isinstance(value, list):
        return " ".join(_LOST_TAG if one is None else str(one) for one in value)
    return str(value)


def _table(block: pa.Table, rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[Any]]) -> pa.Table:
    table = pa.Table.from_pylist(list(map(dict, rows))) if block.column_names == [LINE] else block
    for name, values in answers.items():
        table = table.append_column(name, pa.array([_plain(value) for value in values]))
    return table


def _as_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


@dataclass(frozen=True)
class Progress:
    """How far an output is: what of the inputs it holds, and how long it is."""

    job: str
    """Hash of all that the output depends on."""
    part: int = 0
    blocks: int = 0
    """Blocks of that part which are written."""
    rows: int = 0
    bytes: int = 0
    columns: tuple[str, ...] = ()


class Output:
    """A file that grows block by block beside its target, which it becomes at the end.

    What was left of a run of the same job is gone on with. Raises UserError while another process writes the target.
    """

    def __init__(self, target: Path, to: str, *, job: Any) -> None:
        self._target, self._format = target, to
        self._partial, self._journal, self._locked = (
            target.with_name(f".{target.name}.{ending}") for ending in ("partial", "progress", "lock")
        )
        try:
            self._lock = hold(self._locked)
        except HeldError as error:
            raise UserError(f"{target} is being written by {error.holder}; wait for it, or give another file") from None
        digest = hashlib.sha256(json.dumps(job, sort_keys=True, default=str).encode()).hexdigest()
        self.progress = self._left(digest)
        self._stream: IO[bytes] = self._partial.open("r+b" if self.progress.rows else "wb")
        self._stream.truncate(self.progress.bytes)
        self._stream.seek(self.progress.bytes)

    def _left(self, digest: str) -> Progress:
        """How far an earlier run came, if it was of the same job and all that it wrote is there."""
        try:
            found = json.loads(self._journal.read_text(encoding="utf-8"))
            left = Progress(**{**found, "columns": tuple(found["columns"])})
            whole = self._partial.stat().st_size >= left.bytes
        except (OSError, ValueError, TypeError, KeyError):
            return Progress(digest)
        return left if left.job == digest and whole else Progress(digest)

    def add(self, part: int, block: int, made: Written) -> None:
        """Append a block; raises UserError for other columns than the blocks before it have."""
        before = self.progress
        if before.rows and made.columns != before.columns:
            raise UserError(
                f"the files have different columns, {', '.join(made.columns)} after {', '.join(before.columns)}; "
                "give them one by one, or write JSON lines"
            )
        if not before.rows and self._format in _WITH_HEADER:
            self._stream.write(written_csv([made.columns], tabs=self._format == "tsv"))
        self._stream.write(made.data)
        self._stream.flush()
        rows, size = before.rows + made.rows, self._stream.tell()
        self.progress = Progress(before.job, part, block + 1, rows, size, made.columns)
        write_json(self._journal, asdict(self.progress))

    def finish(self) -> None:
        """Let the target appear."""
        self._stream.close()
        if self._format == "parquet":
            with atomic_file(self._target) as temporary:
                _to_parquet(self._partial, temporary)
            self._partial.unlink()
        else:
            self._partial.replace(self._target)
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others write the target; what was written stays for the next run."""
        self._stream.close()
        self._locked.unlink(missing_ok=True)
        self._lock.release()


def _to_parquet(streams: Path, target: Path) -> None:
    """Arrow's streams one after the other as one Parquet file of the first one's columns and types."""
    writer = None
    try:
        with pa.OSFile(str(streams)) as source:
            while source.tell() < source.size():
                table = pa.ipc.open_stream(source).read_all()
                if writer is None:
                    writer = pq.ParquetWriter(target, table.schema)
                writer.write_table(_cast(table, writer.schema))
        if writer is None:
            pq.write_table(pa.table({}), target)
    finally:
        if writer is not None:
            writer.close()


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, ValueError) as error:
        raise UserError(f"rows have different types of values ({error}); write JSON lines instead of Parquet") from None

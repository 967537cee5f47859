"""Rows of CSV, TSV and JSON-lines files, or of members of a package: texts, pairs, labels, prompts and messages."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from raydistill.data.sources import _files, _lines, _tables
from raydistill.data.sources._base import DROPPED, Example, Item, Placed
from raydistill.data.sources._labels import ClassName, Column, Label, RawLabel, Scores
from raydistill.data.sources._reading import json_value
from raydistill.options import LATER
from raydistill.user_error import UserError

_LONGEST_FIELD = 2**31 - 1
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_ARRAY = "starts a JSON array; write its objects one per line, as `jq -c '.[]' FILE` does"
_DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Config(_files.FileSet):
    """Which files, how they are written, and which columns mean what.

    Blank lines are left out; a row whose texts are all blank is dropped and counted.
    """

    text: Column | None = None
    """The column of the text: its name in the header (in JSON lines the key), or its number from 0, with -1 for the
    last; ``text`` if no other kind of column is named."""
    text_pair: Column | None = None
    """The column of the second text of a pair."""
    label: Label | None = None
    """The column of the label; or ``{column, threshold, names}``, which makes classes of a number."""
    labels: dict[RawLabel, ClassName | None] | None = None
    """The name of the class for each raw label; examples with a label whose name is null are dropped and counted."""
    format: Literal["csv", "tsv", "jsonl"] | None = None
    """The format of the files. None goes by their ending, without ``.gz`` and the like."""
    delimiter: str | None = None
    """What separates the fields. None: a comma, or a tab in TSV."""
    quoting: Literal["none", "minimal"] | None = None
    """Whether a field in double quotes may contain delimiters and newlines (``minimal``) or not (``none``). None: it
    may, but not in TSV."""
    header: bool = True
    """Whether the first line names the columns. Without one, columns are given by number."""
    skip_rows: int = 0
    """The number of rows after the header, or at the start, that hold no data."""
    short_lines: Literal["refuse", "skip"] = "refuse"
    """What happens to a row with fewer or more fields than it should have. Rows that are skipped are counted."""
    charset: str = "utf-8-sig"
    """The character encoding of the files."""
    prompt: Column | None = field(default=None, metadata=LATER)
    """Instead of ``text``: the column of prompts."""
    completion: Column | None = field(default=None, metadata=LATER)
    """The column of the completion of each prompt."""
    messages: str | None = field(default=None, metadata=LATER)
    """Instead of ``text``, in JSON lines: the key of a list of messages, each with ``role`` and ``content``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_kinds()
        _lines.check_charset(self.charset)
        if self.delimiter == "":
            raise UserError("delimiter is empty; give a character, or null for the format's own")
        if self.skip_rows < 0:
            raise UserError(f"skip_rows is {self.skip_rows}; it must not be negative")
        if self.labels is not None and (self.label is None or isinstance(self.label, Scores)):
            raise UserError("labels names the raw values of a label's column; give that column as label")
        roles: dict[Column, str] = {}
        for role, column in self.columns().items():
            if column in roles:
                raise UserError(f"{roles[column]} and {role} are both {column!r}; name two columns")
            roles[column] = role

    def _check_kinds(self) -> None:
        kinds = (("text", "text_pair", "label"), ("prompt", "completion"), ("messages",))
        given = [[role for role in kind if getattr(self, role) is not None] for kind in kinds]
        used = [roles[0] for roles in given if roles]
        if len(used) > 1:
            raise UserError(f"{' and '.join(used)} belong to different kinds of examples; name the columns of one kind")
        _tables.check_prompts(self.prompt, self.completion)
        if self.text is None and not any(given[1:]):
            object.__setattr__(self, "text", "text")

    def columns(self) -> dict[str, Column]:
        """The columns that are read, by what they mean."""
        label = self.label.column if isinstance(self.label, Scores) else self.label
        columns = {"text": self.text, "text_pair": self.text_pair, "label": label}
        columns |= {"prompt": self.prompt, "completion": self.completion, "messages": self.messages}
        return {role: column for role, column in columns.items() if column is not None}


def is_listed_early(config: Config) -> bool:
    """Files are listed, and their headers read, in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """The files, large ones without quoting in ranges, in the order of their names.

    Raises ValueError when there are none, for a file whose format is not known and for a column it does not have.
    """
    files = _files.list_items(config)
    for file in files:
        _check(config, file)
    return [item for file in files for item in (_files.in_ranges(file) if _is_cuttable(config, file) else [file])]


def read(config: Config, item: Item) -> Iterator[Example]:
    """The rows of one file, or of one range of it; raises ValueError, naming file and line, for one that is wrong."""
    with _files.open_item(config, item) as stream:
        lines = _lines.Lines(stream, item, charset=config.charset)
        is_json = _format(config, item.name) == "jsonl"
        for values in _json_rows(config, lines) if is_json else _delimited_rows(config, item, lines):
            try:
                example = values if DROPPED in values else _tables.text_example(values, config.label, config.labels)
            except UserError as error:
                raise UserError(f"{lines.place()} {error}") from None
            yield Placed(example, lines.where())


def _format(config: Config, name: str) -> str:
    path = PurePosixPath(name)
    ending = PurePosixPath(path.stem).suffix if _files.is_packed(name) else path.suffix
    if config.format is None and ending not in _FORMATS:
        raise UserError(f"format is missing and {name} ends with none of {', '.join(_FORMATS)}; give it")
    return config.format or _FORMATS[ending]


def _is_quoted(config: Config, name: str) -> bool:
    return (config.quoting or ("minimal" if _format(config, name) == "csv" else "none")) == "minimal"


def _is_cuttable(config: Config, file: Item) -> bool:
    is_one_line = _format(config, file.name) == "jsonl" or not _is_quoted(config, file.name)
    return is_one_line and config.skip_rows == 0 and _lines.is_cuttable(config.charset)


def _delimiter(config: Config, name: str) -> str:
    return config.delimiter or _DELIMITERS[_format(config, name)]


def _check(config: Config, file: Item) -> None:
    """Raise ValueError for options that do not fit a file's format, and for columns that it does not have."""
    if _format(config, file.name) == "jsonl":
        if config.delimiter or config.quoting or config.skip_rows:
            raise UserError(f"{file.name} is read as JSON lines, which have no delimiter, quoting or skip_rows")
        numbered = {role: column for role, column in config.columns().items() if not isinstance(column, str)}
        if numbered:
            raise UserError(f"{file.name} is read as JSON lines, whose keys are names, but columns are {numbered}")
        _check_keys(config, file)
        return
    if config.messages is not None:
        raise UserError(f"messages is {config.messages!r}, but {file.name} is not JSON lines; give those, or prompt")
    if _is_quoted(config, file.name) and len(_delimiter(config, file.name)) > 1:
        raise UserError(f"delimiter is {config.delimiter!r}; with quoting it is one character")
    _indices(config, file.name, _first_record(config, file) if config.header else None)


def _check_keys(config: Config, file: Item) -> None:
    """Raise ValueError for columns that the first object of JSON lines does not have, unless such are skipped."""
    whole = replace(file, start=0, stop=0)
    with _files.open_item(config, whole) as stream:
        lines = _lines.Lines(stream, whole, charset=config.charset)
        first = next((line for line in lines if line.strip()), None)
        if first is None or config.short_lines == "skip":
            return
        values = _json_object(first, lines)
        for role, column in config.columns().items():
            if column not in values:
                raise UserError(
                    f"{role} is {column!r}, which {lines.place()} does not have; choices: {', '.join(values)}"
                )


def _first_record(config: Config, file: Item) -> list[str]:
    """The fields of a file's header or, without one, of its first line that is not blank."""
    whole = replace(file, start=0, stop=0)
    with _files.open_item(config, whole) as stream:
        records = read_records(config, whole, _lines.Lines(stream, whole, charset=config.charset))
        return next((fields for fields in records if config.header or fields not in ([], [""])), [])


def _indices(config: Config, name: str, header: Sequence[str] | None) -> dict[str, int]:
    """The numbers of the columns, by what they mean."""
    indices = {}
    for role, column in config.columns().items():
        if isinstance(column, int):
            indices[role] = column
        elif header is None:
            raise UserError(f"{role} is {column!r}, but without a header columns are given by number; give it")
        elif header.count(column) != 1:
            problem = "names more than once" if column in header else "does not have"
            raise UserError(f"{role} is {column!r}, which {name} {problem}; choices: {', '.join(header)}")
        else:
            indices[role] = header.index(column)
    return indices


def read_records(config: Config, item: Item, lines: _lines.Lines) -> Iterator[list[str]]:
    """The fields of each record."""
    delimiter = _delimiter(config, item.name)
    if not _is_quoted(config, item.name):
        for line in lines:
            yield line.removesuffix("\n").removesuffix("\r").split(delimiter)
        return
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    while True:
        first = lines.number + 1
        # The limit is one of the whole process, so it is raised for the time of one record.
        limit = csv.field_size_limit(_LONGEST_FIELD)
        try:
            record = next(reader, None)
        except csv.Error as error:
            if "unexpected end" in str(error):
                place = f"{item.name} line {first}"
                raise UserError(f"{place} opens a quote that is never closed; close it, or set quoting: none") from None
            raise UserError(f"{lines.place()} is not CSV: {error}; fix it, or set quoting: none") from None
        finally:
            csv.field_size_limit(limit)
        if record is None:
            return
        yield record


def _delimited_rows(config: Config, item: Item, lines: _lines.Lines) -> Iterator[Mapping[str, Any]]:
    """The raw values of each row by what they mean."""
    records = read_records(config, item, lines)
    if item.start:
        first = _first_record(config, item)
    else:
        first = next(records, []) if config.header else []
        for _ in range(config.skip_rows):
            next(records, None)
    indices = _indices(config, item.name, first if config.header else None)
    width = len(first)
    # A column that is counted from the end is the wrong one when the last fields are missing.
    least = width if config.header and min(indices.values()) < 0 else 0
    for fields in records:
        if fields in ([], [""]):
            continue
        width = width or len(fields)
        while len(fields) > width and not fields[-1].strip():
            fields.pop()
        places = [index if index >= 0 else len(fields) + index for index in indices.values()]
        if len(fields) > width:
            yield _left_out(config, "long line", lines, f"{len(fields)} fields, {_widest(config, item.name, width)}")
        elif len(fields) < least or not 0 <= min(places) <= max(places) < len(fields) or len({*places}) < len(places):
            problem = f"{len(fields)} fields, too few for the columns {indices}; fix it"
            yield _left_out(config, "short line", lines, problem)
        else:
            yield dict(zip(indices, map(fields.__getitem__, places), strict=True))


def _widest(config: Config, name: str, width: int) -> str:
    whose = "header" if config.header else "first line"
    delimiter = _delimiter(config, name)
    mend = f"put a field with {delimiter!r} in it in double quotes" if _is_quoted(config, name) else "fix it"
    return f"but the {whose} has {width}; {mend}"


def _json_rows(config: Config, lines: _lines.Lines) -> Iterator[Mapping[str, Any]]:
    columns = config.columns()
    for line in lines:
        if not line.strip():
            continue
        values = _json_object(line, lines)
        missing = [column for column in columns.values() if column not in values]
        if missing:
            yield _left_out(config, "short line", lines, f"no {', '.join(map(str, missing))}; fix it")
        else:
            yield {role: values[column] for role, column in columns.items()}


def _json_object(line: str, lines: _lines.Lines) -> dict[Any, Any]:
    try:
        values, problem = json_value(line), f"is not a JSON object with keys, but {line.strip()[:40]!r}"
    except UserError as error:
        values, problem = None, f"{error}; each line is one JSON object"
    if not isinstance(values, dict):
        is_array = line.startswith("[") and lines.where()[2:] == (1, 0)
        raise UserError(f"{lines.place()} {_ARRAY if is_array else problem}")
    return values


def _left_out(config: Config, reason: str, lines: _lines.Lines, problem: str) -> Example:
    if config.short_lines == "refuse":
        raise UserError(f"{lines.place()} has {problem}, or set short_lines: skip")
    return {DROPPED: reason}

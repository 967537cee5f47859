"""A data set of the Hugging Face hub, or a folder that ``save_to_disk`` wrote; its code is never run."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from raydistill.data.sources import _tables
from raydistill.data.sources._base import Example, Item
from raydistill.user_error import UserError, said

_ROWS_PER_ITEM = 20_000
_ROWS_PER_READ = 1_000


@dataclass(frozen=True)
class Config(_tables.Columns):
    """Which data set and split, and which columns mean what.

    Class ids become names. A row without a text is dropped and counted, and one without a label, such as a hidden one
    of a test split, with the id -1.
    """

    path: str
    """The name of a data set on the Hub, such as ``Salesforce/wikitext``, or a folder that ``save_to_disk`` wrote."""
    subset: str | None = None
    """The configuration of a Hub data set, such as ``wikitext-103-v1``."""
    split: str = "train"
    """The split to read."""
    revision: str | None = None
    """The revision on the Hub."""
    max_rows: int | None = None
    """The maximum number of rows to read; None reads all."""


def is_listed_early(config: Config) -> bool:
    """A folder is listed in the preflight already; a hub data set would have to be downloaded for it."""
    return Path(config.path).is_dir()


def items(config: Config) -> list[Item]:
    """Ranges of 20,000 rows; raises ValueError for an unknown data set, split or column."""
    dataset = _open(config)
    _tables.check_schema(config, dataset.features.arrow_schema, config.path)
    rows = len(dataset) if config.max_rows is None else min(len(dataset), config.max_rows)
    return [
        Item(f"{config.path}:{config.split}", str(dataset._fingerprint), start, min(start + _ROWS_PER_ITEM, rows))
        for start in range(0, rows, _ROWS_PER_ITEM)
    ]


def read(config: Config, item: Item) -> Iterator[Example]:
    """The examples of one range of rows; raises ValueError, naming the row, for a value that is wrong."""
    dataset = _open(config)
    names = _tables.class_names(dataset.features.arrow_schema)
    chosen = dataset.select_columns(list(dict.fromkeys(config.columns().values())))
    for start in range(item.start, item.stop, _ROWS_PER_READ):
        rows = _tables.rows_of(chosen[start : min(start + _ROWS_PER_READ, item.stop)])
        yield from _tables.examples(config, names, rows, place=item.name, start=start)


def _open(config: Config) -> Any:
    return _load(config.path, config.subset, config.split, config.revision)


@lru_cache(maxsize=2)
def _load(path: str, subset: str | None, split: str, revision: str | None) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        if not Path(path).is_dir():
            return datasets.load_dataset(path, subset, split=split, revision=revision)
        loaded = datasets.load_from_disk(path)
    except Exception as error:
        # Whatever the library raises over the files of a data set.
        raise UserError(f"path is {path!r}, which cannot be loaded as a data set ({said(error)}); correct it") from None
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if split not in loaded:
        raise UserError(f"split is {split!r}; choices: {', '.join(loaded)}")
    return loaded[split]

"""A data set of the Hugging Face hub, or a folder that ``save_to_disk`` wrote; its code is never run."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from raydistill.data.sources._base import Example, Item

_ROWS_PER_ITEM = 20_000
_ROWS_PER_READ = 1_000


@dataclass(frozen=True)
class Config:
    """Which data set, split and column."""

    path: str
    """Name on the hub, such as ``Salesforce/wikitext``, or a folder that ``save_to_disk`` wrote."""
    subset: str | None = None
    """Configuration of a hub data set, such as ``wikitext-103-v1``."""
    split: str = "train"
    """Split to read."""
    column: str = "text"
    """Column of strings, one text a row."""
    revision: str | None = None
    """Hub revision."""
    max_rows: int | None = None
    """Most rows that are read, None for all."""


def is_listed_early(config: Config) -> bool:
    """A folder is listed in the preflight already; a hub data set would have to be downloaded for it."""
    return Path(config.path).is_dir()


def items(config: Config) -> list[Item]:
    """Ranges of 20,000 rows; raises ValueError for an unknown data set, split or column."""
    dataset = _load(config)
    if config.column not in dataset.column_names:
        choices = ", ".join(dataset.column_names)
        raise ValueError(f"column is {config.column!r}, which {config.path} does not have; choices: {choices}")
    rows = len(dataset) if config.max_rows is None else min(len(dataset), config.max_rows)
    return [
        Item(f"{config.path}:{config.split}", str(dataset._fingerprint), start, min(start + _ROWS_PER_ITEM, rows))
        for start in range(0, rows, _ROWS_PER_ITEM)
    ]


def read(config: Config, item: Item) -> Iterator[Example]:
    """The texts of one range of rows; rows without a text are left out."""
    dataset = _load(config).select_columns([config.column])
    for start in range(item.start, item.stop, _ROWS_PER_READ):
        texts = dataset[start : min(start + _ROWS_PER_READ, item.stop)][config.column]
        yield from ({"text": text} for text in texts if text)


@lru_cache(maxsize=2)
def _load(config: Config) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        if not Path(config.path).is_dir():
            return datasets.load_dataset(config.path, config.subset, split=config.split, revision=config.revision)
        loaded = datasets.load_from_disk(config.path)
    except (FileNotFoundError, ValueError, ConnectionError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"path is {config.path!r}, which cannot be loaded as a data set: {reason}") from None
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if config.split not in loaded:
        raise ValueError(f"split is {config.split!r}; choices: {', '.join(loaded)}")
    return loaded[config.split]

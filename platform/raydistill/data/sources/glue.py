"""A task of GLUE: the hub's data set, its Parquet files, or the published folders of TSV files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from raydistill.data.sources import delimited, huggingface, parquet
from raydistill.data.sources._base import Example, Item
from raydistill.data.sources._labels import RawLabel
from raydistill.data.storage import Folder, escape_glob, join
from raydistill.discovery import unknown_choice
from raydistill.tasks.glue import TASKS, check_task
from raydistill.user_error import UserError

_HUB = "nyu-mll/glue"
_SPLITS = {"train": "train", "validation": "dev"}
_SPLITS_OF_MNLI = {
    "train": "train",
    "validation": "dev_matched",
    "validation_matched": "dev_matched",
    "validation_mismatched": "dev_mismatched",
}
"""Splits with labels and the published names of their files."""


class _Format(NamedTuple):
    """How a task is published."""

    folder: str
    """Its folder of TSV files."""
    text: int
    """Numbers of columns there."""
    text_pair: int | None
    label: int
    names: tuple[str, ...]
    """The names of columns on the hub."""


_FORMATS = {
    "cola": _Format("CoLA", 3, None, 1, ("sentence",)),
    "sst2": _Format("SST-2", 0, None, 1, ("sentence",)),
    "mrpc": _Format("MRPC", 3, 4, 0, ("sentence1", "sentence2")),
    "stsb": _Format("STS-B", 7, 8, -1, ("sentence1", "sentence2")),
    "qqp": _Format("QQP", 3, 4, 5, ("question1", "question2")),
    "mnli": _Format("MNLI", 8, 9, -1, ("premise", "hypothesis")),
    "qnli": _Format("QNLI", 1, 2, -1, ("question", "sentence")),
    "rte": _Format("RTE", 1, 2, -1, ("sentence1", "sentence2")),
    "wnli": _Format("WNLI", 1, 2, -1, ("sentence1", "sentence2")),
}

_NAMED = ("mnli", "qnli", "rte")
"""Tasks whose TSV files have names for labels, not ids."""


@dataclass(frozen=True)
class Config:
    """Which task and split, and where its data lies.

    Columns, headers, quoting and names of labels are known. Lines of QQP without all columns are dropped and counted,
    as published; those of other tasks are refused.
    """

    task: str
    """cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli."""
    path: str = _HUB
    """The name of a data set on the Hub, or a folder, local or a URI: with the published TSV files; with Parquet files
    named as on the Hub, in the folder itself or in a subfolder for each task; or one that ``save_to_disk`` wrote."""
    split: str = "train"
    """``train`` or ``validation``. For MNLI the latter is ``validation_matched``, and there is
    ``validation_mismatched`` too."""
    revision: str | None = None
    """The revision on the Hub."""

    def __post_init__(self) -> None:
        check_task(self.task)
        if self.split not in self.splits:
            raise UserError(unknown_choice("split", self.split, list(self.splits)))

    @property
    def splits(self) -> dict[str, str]:
        """The task's splits, each with the published name of its file."""
        return _SPLITS_OF_MNLI if self.task == "mnli" else _SPLITS


def is_listed_early(config: Config) -> bool:
    """A folder is listed in the preflight already; a hub data set would have to be downloaded for it."""
    return _is_folder(config.path)


def items(config: Config) -> list[Item]:
    """The items of the files or the data set; raises ValueError for a folder without the task or the split."""
    source, options = _resolved(config)
    found: list[Item] = source.items(options)
    return found


def read(config: Config, item: Item) -> Iterator[Example]:
    """The examples of one item, their labels by name; raises ValueError, naming file and line, for a wrong one."""
    source, options = _resolved(config)
    yield from source.read(options, item)


def _is_folder(path: str) -> bool:
    return "://" in path or Path(path).is_dir()


def _resolved(config: Config) -> tuple[Any, Any]:
    """The source that reads such data, and its options."""
    hub_split = "validation_matched" if (config.task, config.split) == ("mnli", "validation") else config.split
    if not _is_folder(config.path):
        return huggingface, _hub_options(config, hub_split, subset=config.task)
    names = [_FORMATS[config.task].folder, config.task, ""]
    folders = [join(config.path, name) if name else config.path for name in names]
    tsv = f"{config.splits[config.split]}.tsv"
    for folder in folders:
        files = Folder(folder).sizes()
        if tsv in files:
            return delimited, _tsv_options(config, join(folder, tsv))
        if any(name.startswith(f"{hub_split}-") and name.endswith(".parquet") for name in files):
            return parquet, _parquet_options(config, join(escape_glob(folder), f"{hub_split}-*.parquet"))
        if {"dataset_dict.json", "state.json"} & set(files):
            return huggingface, _hub_options(config, hub_split, path=folder)
    raise UserError(
        f"path is {config.path!r}, which has no split {config.split} of {config.task}; looked for {tsv} and "
        f"{hub_split}-*.parquet in it and in its folders {names[0]} and {names[1]}"
    )


def _tsv_options(config: Config, path: str) -> delimited.Config:
    form = _FORMATS[config.task]
    return delimited.Config(
        path=path,
        text=form.text,
        text_pair=form.text_pair,
        label=form.label,
        labels=_names(config.task, with_ids=config.task not in _NAMED),
        format="tsv",
        quoting="none",
        header=config.task != "cola",
        short_lines="skip" if config.task == "qqp" else "refuse",
    )


def _hub_options(
    config: Config, split: str, *, path: str | None = None, subset: str | None = None
) -> huggingface.Config:
    return huggingface.Config(
        path=path or config.path, subset=subset, split=split, revision=config.revision, **_columns(config.task)
    )


def _parquet_options(config: Config, path: str) -> parquet.Config:
    return parquet.Config(path=path, **_columns(config.task))


def _columns(task: str) -> dict[str, Any]:
    text, *pair = _FORMATS[task].names
    return {"text": text, "text_pair": pair[0] if pair else None, "label": "label", "labels": _names(task)}


def _names(task: str, *, with_ids: bool = True) -> dict[RawLabel, str | None] | None:
    """The names of raw labels, which are names or, with ids, those of the hub and -1 for a hidden label; None for
    scores.  In files of tasks whose labels are published as names, an id could follow any order."""
    labels = TASKS[task].labels
    if not labels:
        return None
    named: dict[RawLabel, str | None] = {name: name for name in labels}
    return {-1: None, **dict(enumerate(labels)), **named} if with_ids else named

"""What an interrupted binarize leaves of a corpus: its finished shards, and where the rows after them come from."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from raydistill.data.input_splits import Place
from raydistill.data.shards import ShardInfo, check_content
from raydistill.data.storage import Folder

JOURNAL = "journal"


START, END = Place(0, 0), Place(2**62, 0)


class Entry(BaseModel):
    """A finished shard, and the state of the corpus after its last row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    """Hash of all that the corpus's files depend on."""
    shard: ShardInfo
    place: Place
    """The block that the shard's last row belongs to."""
    rows_of_block: int
    """How many of the block's rows are in shards by now."""
    counts: dict[str, int]
    """Texts and dropped rows of the blocks before it."""


def write_entry(folder: Folder, number: int, entry: Entry) -> None:
    """Record that a shard is finished."""
    folder.write_at_once(_name(number), entry.model_dump_json().encode())


def whole_entries(folder: Folder, recipe: str) -> Iterator[Entry]:
    """The records of this recipe in order, up to the first that is missing, or whose shard is not as it was written."""
    number = 0
    while folder.exists(_name(number)):
        try:
            entry = Entry.model_validate_json(folder.read_bytes(_name(number)))
            check_content(folder, entry.shard.file, entry.shard.sha256)
        except (ValidationError, ValueError):
            return
        if entry.recipe != recipe:
            return
        yield entry
        number += 1


def _name(number: int) -> str:
    return str(PurePosixPath(JOURNAL) / f"part-{number:05d}.json")

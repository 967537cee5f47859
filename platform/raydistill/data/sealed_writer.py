"""What writers of sealed tables share: finished shards that outlive a kill, and a manifest that comes last."""

import logging
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from pydantic import BaseModel

from raydistill.data.sealed_table import MANIFEST, FileInfo, Record, SealedFolder, SealedTable, Shard
from raydistill.data.storage import HashingStream, sibling

_JOURNAL = "journal"
_logger = logging.getLogger(__name__)


class Entry(Record):
    """A finished shard of a table that is not finished; kinds of tables add what their next writer has to know."""

    shard: Shard

    @property
    def identity(self) -> str:
        """Hash of all that the table's files depend on."""
        raise NotImplementedError


TableT = TypeVar("TableT", bound=SealedTable)
EntryT = TypeVar("EntryT", bound=Entry)


class Sealer(Generic[TableT, EntryT]):
    """The folder of a table that is written: what an earlier writer left there, its journal, and its end.

    With an ``identity``, a finished table of the same is in ``finished`` and left as it is, and the finished shards of
    an interrupted writer are kept up to the first that is missing or not as it was written, their entries in
    ``entries``. Whatever else lies in ``folder`` is removed.
    """

    def __init__(
        self,
        uri: str,
        table: type[TableT],
        entry: type[EntryT],
        *,
        identity: str | None,
        is_renamed: bool = False,
    ) -> None:
        """``is_renamed``: local files are written to ``<uri>.writing``, which gets its name at the end."""
        self._target, self._entry = SealedFolder(uri, table.KIND), entry
        is_apart = is_renamed and self._target.is_local
        self.folder = SealedFolder(sibling(uri, ".writing"), table.KIND) if is_apart else self._target
        self.finished = None if identity is None else self._finished_before(table, identity)
        if self.finished is not None:
            self.entries: list[EntryT] = []
            self._target.delete(_JOURNAL)
            return
        if identity is not None and not is_apart and self._target.exists(MANIFEST):
            # A folder that is written to must not look finished.
            self._target.delete()
        self.entries = [] if identity is None else list(self._whole_entries(identity))
        if not self.entries:
            self.folder.delete()

    def write_entry(self, number: int, entry: EntryT) -> None:
        """Record that a shard is finished."""
        self.folder.write_at_once(_entry_name(number), entry.model_dump_json().encode())

    def read_entry(self, number: int) -> EntryT:
        """What was recorded of a finished shard."""
        return self._entry.model_validate_json(self.folder.read_bytes(_entry_name(number)))

    def seal(self, manifest: BaseModel) -> None:
        """Write the manifest and give the folder its name."""
        self.folder.write_at_once(MANIFEST, manifest.model_dump_json(indent=1).encode())
        if self.folder is not self._target:
            self.folder.replace(self._target)
        # Until here the shards could be taken over, whatever happened.
        self._target.delete(_JOURNAL)

    def _finished_before(self, table: type[TableT], identity: str) -> TableT | None:
        if not self._target.exists(MANIFEST):
            return None
        try:
            found = table.open(self._target.uri)
            if found.identity != identity:
                return None
            found.verify()
        except ValueError as error:
            _logger.warning("%s: %s", error, table.KIND.anew)
            return None
        return found

    def _whole_entries(self, identity: str) -> Iterator[EntryT]:
        number = 0
        while self.folder.exists(_entry_name(number)):
            try:
                entry = self.read_entry(number)
                self.folder.check_content(entry.shard.file, entry.shard.sha256)
            except ValueError:
                return
            if entry.identity != identity:
                return
            yield entry
            number += 1


def closed(stream: HashingStream) -> FileInfo:
    """Close a file that is written whole; what a manifest says of it."""
    stream.close()
    return FileInfo(bytes=stream.tell(), sha256=stream.hexdigest())


def _entry_name(number: int) -> str:
    return str(PurePosixPath(_JOURNAL) / f"part-{number:05d}.json")

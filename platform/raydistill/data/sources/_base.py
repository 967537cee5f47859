"""The contract of a source: a frozen ``Config``, ``items(config)`` and ``read(config, item)``, which yields examples.

``is_listed_early(config)`` tells whether ``items`` is cheap enough to be asked before a job runs: then a missing
source is refused early, and a changed one changes the stage's hash.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Example = Mapping[str, Any]
"""One example. Keys: ``text``; ``text_pair`` of a pair; ``label``, a class's name or a number; ``words`` with one name
in ``labels`` for each; ``prompt`` and ``completion``; ``messages``, a list of mappings with ``role`` and ``content``;
``question``, ``context`` and ``answers``, lists ``text`` and ``answer_start`` in a mapping, and
an ``id``; or ``input_ids``, a row that is encoded already. A task takes those it knows. An example with the key
``DROPPED`` stands for one that the source left out. Sources give them as ``Placed``."""

DROPPED = "dropped"
"""Key of why an example was left out, such as ``short line``: it is counted and not encoded."""


class Where(NamedTuple):
    """Where an example stands."""

    name: str
    """Of the file or data set."""
    unit: str
    """What is counted, such as ``line``; or the place itself, where ``number`` is 0."""
    number: int = 0
    """From 1, in the part of the file that was read."""
    before: int = 0
    """Bytes of the file before that part."""


class Placed(dict[str, Any]):
    """An example that knows where it stands."""

    def __init__(self, example: Example, where: Where) -> None:
        super().__init__(example)
        self.where = where


@dataclass(frozen=True)
class Item:
    """What one data task reads at a time: a file, an archive's member, or a range of rows of either.

    A source's ``items`` returns them in an order that depends on the source alone.
    """

    name: str
    """Identifies the item within its source."""
    fingerprint: str
    """Changes when the item's content does."""
    start: int = 0
    """First row, row group or byte, for a range."""
    stop: int = 0
    """The one after the last, for a range."""
    local_copy: str = ""
    """Path on the machine that listed the items; a data task elsewhere fetches its own."""

    @property
    def key(self) -> str:
        """The name, with the range where there is one."""
        return f"{self.name}[{self.start}:{self.stop}]" if self.stop else self.name

"""The contract of a source: a frozen ``Config``, ``items(config)`` and ``read(config, item)``, which yields examples.

``is_listed_early(config)`` tells whether ``items`` is cheap enough to be asked before a job runs: then a missing
source is refused early, and a changed one changes the stage's hash.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal

Unit = Literal["line", "paragraph", "file"]

Example = Mapping[str, Any]
"""One example. Keys: ``text``; ``text_pair`` of a pair; ``label``, a class's name or a number; ``words`` with one name
in ``labels`` for each; or ``input_ids``, a row that is encoded already. A task takes those it knows. An example with
the key ``DROPPED`` stands for one that the source left out."""

DROPPED = "dropped"
"""Key of why an example was left out, such as ``short line``: it is counted and not encoded."""


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
    """First row or row group, for a range."""
    stop: int = 0
    """The one after the last, for a range."""
    local_copy: str = ""
    """Path on the machine that listed the items; a data task elsewhere fetches its own."""

    @property
    def key(self) -> str:
        """The name, with the range where there is one."""
        return f"{self.name}[{self.start}:{self.stop}]" if self.stop else self.name


def split_texts(stream: IO[bytes], unit: Unit, *, charset: str, name: str) -> Iterator[str]:
    """Texts of a file: each line, each run of lines between blank lines joined with spaces, or the whole.

    Blank texts are left out. Raises ValueError, naming the file, for bytes that are not in ``charset``.
    """
    try:
        lines = stream.read().decode(charset).splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not {charset} at byte {error.start}; give its charset") from None
    except LookupError:
        raise ValueError(f"charset is {charset!r}, which Python does not know; try utf-8 or latin-1") from None
    if unit == "file":
        texts: Iterable[str] = ["\n".join(lines)]
    else:
        texts = lines if unit == "line" else _paragraphs(lines)
    return (text for text in texts if text.strip())


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line.strip())
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)

"""Names that users chose, made legal for each use and kept apart there.

A name that is legal stays as it is. Of the others signs are replaced, and a hash follows where two would meet or one is
too long. MLflow takes letters of any script, so they stay.
"""

import hashlib
import html
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from unicodedata import normalize

_CONTROL = r"\x00-\x1f\x7f\ud800-\udfff"
_DIGITS = (8, 16, 64)


@dataclass(frozen=True)
class Use:
    """What a place takes: every match of ``illegal`` becomes ``instead``, and no more than ``longest`` stays."""

    illegal: re.Pattern[str]
    instead: str
    longest: int
    """Most bytes of UTF-8, or characters where they do not count in bytes."""
    in_bytes: bool = False
    is_path: bool = False
    """Whether ``//``, ``.`` and ``..`` are steps of a path there, so that a name with them would mean another."""
    spelled: Mapping[str, str] = field(default_factory=dict)
    """Signs that become others than ``instead``."""


_MLFLOW = re.compile(r"[^\w.: /-]")
METRIC = Use(_MLFLOW, "", 250, is_path=True, spelled={"=": ":"})
"""A metric of MLflow: ``student (temperature=2)`` becomes ``student temperature:2``."""
KEY = Use(_MLFLOW, "_", 250, is_path=True)
"""A parameter's or a tag's name in MLflow."""
FIGURE = Use(re.compile(r"[^\w.-]"), "_", 200)
"""A part of a metric's name that is one word, such as an entity type."""
RUN = Use(re.compile(f"[{_CONTROL}]"), " ", 250)
"""The name of a run of MLflow, of which a database takes so many characters."""
SEARCHED = Use(re.compile(f"['{_CONTROL}]"), "_", 8000)
"""A tag's value that is searched for: between single quotes a filter string knows no way to write one."""
FILE = Use(re.compile(r"[^\w.,=\[\] -]"), "_", 255, in_bytes=True)
"""The name of a file."""
SHORT = Use(re.compile(r"(?!)"), "", 255, in_bytes=True)
"""The name of a folder that has no illegal sign, which may be too long alone."""
LABEL = Use(re.compile(r"[\[\],=\s]+"), "_", 10**9)
"""A value of a matrix inside a run's name, where brackets, commas and equal signs have a meaning."""
RESOURCE = Use(
    re.compile(r"[^a-z0-9-]+"), "-", 47, spelled=dict(zip(string.ascii_uppercase, string.ascii_lowercase, strict=True))
)
"""A resource of Kubernetes; KubeRay takes no longer names."""


def cleaned(name: str, use: Use) -> str:
    """The name without what is illegal; it may be too long, empty, or equal to another's."""
    text = "".join(use.spelled.get(sign, sign) for sign in name) if use.spelled else name
    if use.illegal.search(text):
        # Composed first, so that a letter with an accent of its own stays one letter.
        text = use.illegal.sub(use.instead, normalize("NFC", text))
    if use.is_path:
        text = "/".join(part for part in text.split("/") if part not in ("", ".", ".."))
        text = text.lstrip(".") if text.startswith("..") else text
    return text


def distinct(names: Iterable[str], use: Use, *, room: int = 0) -> dict[str, str]:
    """A legal name for each of ``names``, no two the same; ``room`` of the length is left for what follows."""
    wanted = {name: cleaned(name, use) for name in names}
    times, longest = Counter(wanted.values()), use.longest - room
    found = {
        name: text
        for name, text in wanted.items()
        if text and _size(text, use) <= longest and (text == name or times[text] == 1)
    }
    for name, text in wanted.items():
        if name not in found:
            found[name] = _marked(name, text, use, longest, {*found.values()})
    return {name: found[name] for name in wanted}


def legal(name: str, use: Use, *, room: int = 0) -> str:
    """A legal name where the others are not known: with a hash wherever it is not the name itself."""
    text = cleaned(name, use)
    longest = use.longest - room
    return name if text == name and text and _size(text, use) <= longest else _marked(name, text, use, longest, set())


def short(name: str, use: Use, *, room: int = 0) -> str:
    """A legal name with a hash only where it is too long or nothing is left: for places that have one name a folder."""
    return distinct([name], use, room=room)[name]


def quoted(text: str) -> str | None:
    """A text as a filter string of MLflow has it; None where it has both kinds of quotes, for which there is no way."""
    free = [quote for quote in ("'", '"') if quote not in text]
    return f"{free[0]}{text}{free[0]}" if free else None


class Markup(str):
    """A text that is Markdown already."""

    __slots__ = ()


def markdown(text: str) -> str:
    """A text inside a line or a cell of Markdown, where it is no markup, no HTML and no link; ``Markup`` as it is."""
    if isinstance(text, Markup):
        return text
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([|`])|\](?=\()", lambda sign: f"\\{sign.group()}", line)


def code(text: str) -> Markup:
    """A text as code inside a line or a cell of Markdown."""
    line = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return Markup(f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`")


def _marked(name: str, text: str, use: Use, longest: int, taken: set[str]) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    for digits in _DIGITS:
        stem = _cut(text, longest - digits - 1, use)
        found = f"{stem}-{digest[:digits]}" if stem else digest[:digits]
        if found not in taken:
            return found
    raise AssertionError(f"{name!r} has the hash of another name")


def _size(text: str, use: Use) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if use.in_bytes else len(text)


def _cut(text: str, size: int, use: Use) -> str:
    if use.in_bytes:
        text = text.encode("utf-8", "surrogatepass")[:size].decode("utf-8", "ignore")
    return text[:size].rstrip(" ./-")

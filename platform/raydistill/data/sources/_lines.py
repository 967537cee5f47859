"""Lines of a file, or of a range of its bytes, read a piece at a time; and the texts that lines make."""

import codecs
import io
from collections.abc import Iterable, Iterator
from typing import IO, Any, Literal, cast

from raydistill.data.sources._base import Item, Placed, Where
from raydistill.user_error import UserError

Unit = Literal["line", "paragraph", "file"]

_CUTTABLE = ("utf-8", "ascii", "iso8859-", "cp125", "koi8-")
_PIECE_BYTES = 1 << 18
HEAD_BYTES = 1 << 13
"""So much of a file's start tells how its lines end."""
LONGEST_TEXT = 1 << 24
"""A longer text is read as several, so that memory does not depend on its length; in bytes or characters."""


def check_charset(charset: str) -> None:
    """Raise ValueError for a character encoding that Python does not know."""
    try:
        "a".encode(charset)
    except LookupError:
        raise UserError(f"charset is {charset!r}, which Python does not know; try utf-8 or latin-1") from None


def is_cuttable(charset: str) -> bool:
    """Whether a newline's byte is part of no other character, so that a file may be cut after each."""
    return codecs.lookup(charset).name.startswith(_CUTTABLE)


class Lines:
    r"""The decoded lines of an item's stream, each with its end; a line ends at ``\n`` alone.

    In a whole file whose lines end with ``\r`` it stands for ``\n``.

    Of a range come the lines that begin in it. With ``paragraphs`` what no blank line parts stays together: the lines
    after the first blank one that begins in the range, up to the first that begins after it. So the ranges of a file
    give each line once and in order. With ``in_parts`` a line of over ``LONGEST_TEXT`` bytes comes in parts, each but
    the last up to a space; one without a space comes whole. Raises ValueError, naming the file and the byte, for bytes
    not in ``charset``.
    """

    def __init__(
        self, stream: IO[bytes], item: Item, *, charset: str, paragraphs: bool = False, in_parts: bool = False
    ) -> None:
        check_charset(charset)
        self._item, self._paragraphs, self._charset = item, paragraphs, charset
        self._stream, self._codec = stream, charset
        if not is_cuttable(charset):
            recoded = io.BufferedReader(_Recoded(stream, charset, item.name))
            self._stream, self._codec = cast(IO[bytes], recoded), "utf-8"
        # Ranges are of files whose lines end with a newline.
        if not item.stop:
            self._stream = _with_newlines(self._stream)
        self._begin, self._raw = 0, b""
        self._in_parts, self._rest = in_parts, b""
        self.number = 0
        """Of the line that came last, from 1, in the part that is read."""

    def __iter__(self) -> Iterator[str]:
        is_marked = codecs.lookup(self._codec).name == "utf-8-sig"
        for position, goes_on in self._raw_lines():
            self.number += not goes_on
            # Only a file's first bytes are a mark; later ones are a character of the text.
            codec = "utf-8" if is_marked and position else self._codec
            # Of a long line nothing is held here once it is handed over.
            yield self._decoded(position, codec)

    def _decoded(self, position: int, codec: str) -> str:
        raw, self._raw = self._raw, b""
        try:
            return raw.decode(codec)
        except UnicodeDecodeError as error:
            byte = position + len(raw) - len(error.object) + error.start
            raise _wrong_charset(self._item.name, self._charset, byte) from None

    def place(self) -> str:
        """The file and the number of the line that came last; for a range, the lines before it are counted now."""
        before = 0
        if self._begin:
            position = self._stream.tell()
            self._stream.seek(0)
            before = newlines(self._stream, self._begin)
            self._stream.seek(position)
        return f"{self._item.name} line {before + self.number}"

    def where(self, number: int = 0) -> Where:
        """Where the line of this number stands, by default the one that came last."""
        return Where(self._item.name, "line", number or self.number, self._begin)

    def _after_newline(self, position: int) -> int:
        """Go behind the next newline and return the place; not beyond the range, where a line may go on for long."""
        self._stream.seek(position)
        while position < self._item.stop and (piece := self._stream.read(_PIECE_BYTES)):
            place = piece.find(b"\n") + 1
            position += place or len(piece)
            if place:
                break
        self._stream.seek(position)
        return position

    def _raw_lines(self) -> Iterator[tuple[int, bool]]:
        """Take the item's lines as ``_raw``: where in the file each begins, and whether it goes on with the last."""
        stop = self._item.stop
        begin = self._seek()
        if begin is None:
            return
        position, goes_on = begin, False
        self._begin = begin
        while not stop or position < stop or self._paragraphs or goes_on:
            self._raw = self._next_part() if self._in_parts else self._stream.readline()
            if not self._raw:
                return
            is_last = stop > 0 and position >= stop and not goes_on and _is_blank(self._raw)
            size, ends = len(self._raw), self._raw.endswith(b"\n")
            yield position, goes_on
            if is_last:
                return
            position, goes_on = position + size, not ends

    def _next_part(self) -> bytes:
        """The next line, or of a long one what comes before the last space in what may be held."""
        raw = self._rest + self._stream.readline(LONGEST_TEXT - len(self._rest))
        self._rest = b""
        if len(raw) < LONGEST_TEXT or raw.endswith(b"\n"):
            return raw
        if stop := raw.rfind(b" ") + 1:
            self._rest = raw[stop:]
            return raw[:stop]
        return raw + self._stream.readline()

    def _seek(self) -> int | None:
        """Go to where the item's lines begin and return the place, None where there are none."""
        start, stop = self._item.start, self._item.stop
        if not start:
            return 0
        position = self._after_newline(start - 1)
        while self._paragraphs:
            raw = self._stream.readline()
            if not raw or position >= stop:
                return None
            position += len(raw)
            if _is_blank(raw):
                break
        return position


def newlines(stream: IO[bytes], num_bytes: int) -> int:
    """How many lines end in the next bytes of a stream."""
    found = 0
    while num_bytes > 0 and (piece := stream.read(min(num_bytes, _PIECE_BYTES))):
        found += piece.count(b"\n")
        num_bytes -= len(piece)
    return found


def _is_blank(raw: bytes) -> bool:
    return not raw.strip()


class _Recoded(io.RawIOBase):
    """A stream in any character encoding as one in UTF-8."""

    def __init__(self, stream: IO[bytes], charset: str, name: str) -> None:
        self._stream, self._charset, self._name = stream, charset, name
        self._decoder = codecs.getincrementaldecoder(charset)()
        self._left, self._position, self._is_done = b"", 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (self._left or self._is_done):
            piece = self._stream.read(_PIECE_BYTES)
            self._position += len(piece)
            self._is_done = not piece
            try:
                self._left = self._decoder.decode(piece, final=self._is_done).encode()
            except UnicodeDecodeError as error:
                byte = self._position - len(error.object) + error.start
                raise _wrong_charset(self._name, self._charset, byte) from None
        number = min(len(buffer), len(self._left))
        buffer[:number], self._left = self._left[:number], self._left[number:]
        return number


def ends_with_returns(head: bytes) -> bool:
    r"""Whether a file that starts so has lines that end with ``\r`` alone, as those of early Macintosh systems."""
    return b"\r" in head[:-1] and b"\n" not in head


def _with_newlines(stream: IO[bytes]) -> IO[bytes]:
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream))
    if ends_with_returns(buffered.peek(HEAD_BYTES)[:HEAD_BYTES]):
        buffered = io.BufferedReader(_Newlines(cast(IO[bytes], buffered)))
    return cast(IO[bytes], buffered)


class _Newlines(io.RawIOBase):
    r"""A stream with ``\n`` in place of each ``\r``, so that bytes keep their places."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(piece)] = piece
        return len(piece)


def _wrong_charset(name: str, charset: str, byte: int) -> UserError:
    return UserError(f"{name} is not {charset} at byte {byte}; give its charset")


def text_examples(lines: Lines, unit: Unit) -> Iterator[Placed]:
    """The texts of lines as examples, each at the line where it starts."""
    for number, text in numbered_texts(lines, unit):
        yield Placed({"text": text}, lines.where(number))


def numbered_texts(lines: Iterable[str], unit: Unit) -> Iterator[tuple[int, str]]:
    """Texts of lines: each line, each run of lines between blank lines joined with spaces, or the whole.

    Each comes with the number, from 1, of the line where it starts. Here a line ends at whatever ``str.splitlines``
    takes for an end. Blank texts are left out. What would be longer than ``LONGEST_TEXT`` becomes several texts.
    """
    texts: Iterable[tuple[int, str]] = _parts(lines)
    if unit != "line":
        texts = _whole(texts) if unit == "file" else _paragraphs(texts)
    return ((number, text) for number, text in texts if text and not text.isspace())


def _parts(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """What ``str.splitlines`` makes of each line, with the line's number; a long one is handed over, not held."""
    number, ends = 0, True
    # Not ``enumerate``, which keeps what it gave last.
    for line in lines:
        number, ends = number + ends, line.endswith("\n")
        parts = line.splitlines()[::-1]
        del line
        while parts:
            yield number, parts.pop()


def _paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    collected = _Collected(" ")
    for number, line in lines:
        if stripped := line.strip():
            yield from collected.add(number, stripped)
        else:
            yield from collected.take()
    yield from collected.take()


def _whole(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    collected = _Collected("\n")
    for number, line in lines:
        yield from collected.add(number, line)
    yield from collected.take()


class _Collected:
    """Lines of a text that is not longer than ``LONGEST_TEXT``."""

    def __init__(self, between: str) -> None:
        self._between, self._start, self._lines, self._size = between, 0, list[str](), 0

    def add(self, number: int, line: str) -> Iterator[tuple[int, str]]:
        """Add a line; gives the text of the lines before, with the number of its first, where it is full."""
        if self._size + len(line) > LONGEST_TEXT:
            yield from self.take()
        self._start = self._start if self._lines else number
        self._lines.append(line)
        self._size += len(line) + len(self._between)

    def take(self) -> Iterator[tuple[int, str]]:
        """The text of the lines so far, if there are any."""
        if self._lines:
            text, self._lines, self._size = self._between.join(self._lines), [], 0
            yield self._start, text

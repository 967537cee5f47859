"""The one error that stands for what a user can fix; anything else that is raised is a fault of ours."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

_LONGEST_WORD, _LONGEST_LINE = 400, 4000
_LONG_WORD = re.compile(
    "|".join(
        [
            *(rf"(?<![\w'\"]){quote}(?=[^\s;,.])[^{quote}]{{{_LONGEST_WORD},}}{quote}" for quote in "'\""),
            rf"\S{{{_LONGEST_WORD},}}",
        ]
    )
)
"""A quoted text, or signs without a space."""


class UserError(ValueError):
    """One or more mistakes that the user can fix, each a line that names key, value and remedy.

    ``place`` starts every line: a stage, a file, a line of it, a key. The error can be pickled, and Ray hands it over;
    ``user_error_of`` finds it in what Ray makes of it.
    """

    def __init__(self, lines: str | Iterable[str], *, place: str = "") -> None:
        # What others say, which stands in some, may go over several lines.
        each = [_within(" ".join(line.splitlines())) for line in ([lines] if isinstance(lines, str) else lines)]
        self.lines = [f"{place}: {line}" if place else line for line in each]
        super().__init__("\n".join(self.lines))

    def at(self, place: str) -> Self:
        """The same error at a place that is known further out."""
        return type(self)(self.lines, place=place)


def _within(line: str) -> str:
    """A line without most of a value that nobody would read: of a word or a quoted text, then of the whole line."""
    if len(line) > _LONGEST_WORD:
        line = _LONG_WORD.sub(lambda found: f"{found.group()[: _LONGEST_WORD // 4]}...", line)
    if len(line) > _LONGEST_LINE:
        # The remedy stands at the end.
        line = f"{line[: _LONGEST_LINE * 3 // 4]} ... {line[-_LONGEST_LINE // 4 :]}"
    return line


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Mistakes that are found in the block are told at this place."""
    try:
        yield
    except UserError as error:
        raise error.at(place) from None


def said(error: BaseException) -> str:
    """What an error says, on one line: its first line, with its type where that alone tells what is wrong."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, ValueError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def user_error_of(error: BaseException) -> UserError | None:
    """The UserError that an error is, or that Ray brings in it from a task, an actor or a training worker."""
    return next((each for each in brought(error) if isinstance(each, UserError)), None)


def brought(error: BaseException) -> Iterator[BaseException]:
    """What Ray brought with an error, the innermost first, and the error itself last.

    That is the cause of a task's error, and the failures of training workers by rank and of their controller.
    """
    failures = getattr(error, "worker_failures", None)
    inner = [
        getattr(error, "cause", None),
        # Wrapped there with the text of its traceback.
        getattr(error, "_base_exc", None),
        getattr(error, "controller_failure", None),
        *(failures.values() if isinstance(failures, dict) else []),
    ]
    for each in inner:
        if isinstance(each, BaseException) and each is not error:
            yield from brought(each)
    yield error

"""Examples on their way from a source to a task, and where one stands that a task does not take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from raydistill.config.named import SourceSpec
from raydistill.data.findings import written
from raydistill.data.sources._base import Example, Item, Placed
from raydistill.data.sources._reading import reading
from raydistill.user_error import UserError


def examples_of(source: SourceSpec, item: Item) -> Iterator[Example]:
    """The examples of an item; raises UserError, naming the file, for whatever cannot be read."""
    with reading(item.name):
        yield from source.read(item)


@contextmanager
def placed_in(item: Item, examples: Sequence[Example], cut: Callable[[list[Example]], Any]) -> Iterator[None]:
    """Tell of a mistake in an example, met while all of them are cut in the block, where the example stands.

    ``cut`` makes rows of some; it is called again for one example after the other.
    """
    try:
        yield
    except (UserError, TypeError, UnicodeError) as error:
        for number, example in enumerate(examples, 1):
            problem = _refusal(example, cut) if isinstance(error, UserError) else _half_character(example)
            if problem is not None:
                where = written(example.where) if isinstance(example, Placed) else f"{item.name} example {number}"
                raise UserError(problem, place=where) from None
        if isinstance(error, UserError):
            raise error.at(item.name) from None
        raise


def _refusal(example: Example, cut: Callable[[list[Example]], Any]) -> str | None:
    try:
        cut([example])
    except UserError as error:
        return str(error)
    return None


def _half_character(example: Mapping[str, Any]) -> str | None:
    """What is wrong with a text that has one half of a character, as JSON can write it and no tokenizer takes it."""
    for key, value in example.items():
        for text in _texts(value):
            if any("\ud800" <= character <= "\udfff" for character in text):
                return f"{key} is {ascii(text)[:60]}, which has half a character (a lone surrogate); fix it"
    return None


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, those in lists and mappings too."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(inner)

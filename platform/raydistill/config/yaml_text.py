"""YAML as version 1.2 defines it: ``1e-4`` is a number, ``on`` is a word, no key is written twice."""

import itertools
import re
from typing import Any

import yaml

from raydistill.user_error import UserError, placed

_MOST_VALUES = 100_000
"""More than any job has; a few lines of aliases of aliases would fill the memory."""
_MOST_BITS = 1023
"""Of a whole number: a larger one is no float, and what compares it with one would fail."""
_MERGE = "tag:yaml.org,2002:merge"
_RESOLVERS: list[tuple[str, str, str]] = [
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
]


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2 (its core schema) and unique keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._unique: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # A mapping that others merge is flattened once for each, and holds overridden keys after the first time.
        if id(node) not in self._unique:
            self._refuse_repeated_keys(node)
            self._unique.add(id(node))
        super().flatten_mapping(node)
        # What is merged is repeated here already, before the value is made.
        _check_number(len(node.value))

    @staticmethod
    def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                continue
            if key_node.value in seen:
                problem = f"the key {key_node.value!r} is written twice in one mapping"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    number = int(text, 16) if text.startswith("0x") else int(text)
    if number.bit_length() > _MOST_BITS:
        line = node.start_mark.line + 1
        raise UserError(f"line {line} has a whole number of {len(text)} characters; write a smaller one")
    return number


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in _RESOLVERS:
    _empty = [""] if _tag == "null" else []
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, *_empty])
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class Dumper(yaml.SafeDumper):
    """The safe dumper, which puts in quotes the words that YAML 1.1 or 1.2 takes for something else, with no alias."""

    yaml_implicit_resolvers = {
        first: [each for known in (yaml.SafeDumper, _Loader) for each in known.yaml_implicit_resolvers.get(first, [])]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }

    def ignore_aliases(self, data: Any) -> bool:
        """What stands in several places is written out in each."""
        return True


def dump(value: Any) -> str:
    """Text that ``parse`` reads as the value again: nested mappings and lists of words, numbers and truth values."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def plain_copy(value: Any) -> Any:
    """A copy of nested mappings and lists in which no two places share an object, unlike ``copy.deepcopy``.

    Raises UserError for a value that becomes too large so.
    """
    return _copy(value, itertools.count(1))


def _copy(value: Any, numbers: "itertools.count[int]") -> Any:
    if not isinstance(value, dict | list):
        return value
    for _ in value:
        _check_number(next(numbers))
    if isinstance(value, dict):
        return {key: _copy(item, numbers) for key, item in value.items()}
    return [_copy(item, numbers) for item in value]


def _check_number(num_values: int) -> None:
    if num_values > _MOST_VALUES:
        raise UserError(f"it has over {_MOST_VALUES:,} values, aliases written out; write fewer, or fewer aliases")


def parse(text: str, *, source: str) -> Any:
    """The value that ``text`` writes, an alias as a copy of its anchor; ``source`` names it in errors.

    Raises ValueError, one line with the line number, for a syntax error or a key that is written twice.
    """
    try:
        with placed(source):
            return plain_copy(yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        raise UserError(f"{place}: {error.problem or error.context}; correct the YAML there") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: {' '.join(str(error).split())}; correct the YAML there") from None
    except UserError:
        raise
    except ValueError as error:
        # A tag, or a number of very many digits.
        raise UserError(f"{source}: {error}; correct the YAML there") from None
    except RecursionError:
        raise UserError(f"{source}: it is nested too deeply, or contains itself; remove the alias") from None


def parse_mapping(text: str, *, source: str) -> dict[str, Any]:
    """Like ``parse``, for a file that must hold keys and values; raises ValueError for anything else."""
    value = parse(text, source=source)
    if not isinstance(value, dict):
        found = "empty" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{source} is {found}; write keys and values, such as 'name: my-job'")
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise UserError(f"{source}: the key {wrong[0]!r} is not a word; quote it")
    return value


def text_of(text: str, key: str) -> str:
    """The text of a key of a valid file's outer mapping, read no further than there; empty without such a text."""
    depth = place = 0
    is_wanted = False
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if depth == 1 and not isinstance(event, yaml.CollectionEndEvent):
            scalar = event.value if isinstance(event, yaml.ScalarEvent) else ""
            if is_wanted:
                return str(scalar)
            is_wanted = place % 2 == 0 and scalar == key
            place += 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
    return ""

"""Pickled lists of integers and of one-dimensional integer arrays, read as data: nothing in a pickle is ever called.

A pickle is a program; this one interprets the few instructions that such lists consist of, and builds the arrays
itself. Whatever else a pickle holds is refused before it has any effect.
"""

import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from raydistill.user_error import UserError

_PUSH = {
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMPY = {"_reconstruct": "multiarray", "scalar": "multiarray", "_frombuffer": "numeric"}
_NAMES = {
    **{f"numpy.{core}.{module} {name}": name for name, module in _NUMPY.items() for core in ("core", "_core")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}
_LONGEST_NAME = 64
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """Stands for a function or type that arrays are pickled with; the thing itself is not imported."""

    name: str


@dataclass
class _Dtype:
    kind: str
    order: str = "<"


class _Unfilled:
    """An array whose content comes with the next BUILD."""


def read_list(stream: IO[bytes]) -> Iterator[Any]:
    """The integers or arrays of the list pickled in a stream, a batch of the pickle at a time, in flat memory.

    Raises ValueError, saying what was found, for a pickle that holds anything else.
    """
    machine = _Machine()
    try:
        # Without tell, which would be asked for each instruction.
        for opcode, argument, _ in pickletools.genops(SimpleNamespace(read=stream.read, readline=stream.readline)):  # type: ignore[arg-type]
            machine.run(opcode.name, argument)
            yield from machine.finished()
        machine.check_end()
    except UserError:
        raise
    except (IndexError, TypeError, OverflowError, MemoryError, ValueError):
        raise UserError("is not a pickled list, or is damaged") from None


class _Machine:
    """The stack and the memo of the pickle's program."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._num_memoized = 0
        self._handlers: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "LIST": lambda _: self._stack.append(self._pop_to_mark()),
            "APPEND": lambda _: self._extend([self._stack.pop()]),
            "APPENDS": lambda _: self._extend(self._pop_to_mark()),
            "EMPTY_TUPLE": lambda _: self._stack.append(()),
            "TUPLE": lambda _: self._stack.append(tuple(self._pop_to_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "GLOBAL": lambda argument: self._stack.append(_named(argument)),
            "STACK_GLOBAL": lambda _: self._stack.append(_named(" ".join(map(str, self._pop(2))))),
            "REDUCE": lambda _: self._stack.append(_call(*self._pop(2))),
            "BUILD": lambda _: self._stack.append(_build(*self._pop(2))),
            "MEMOIZE": lambda _: self._memoize(self._num_memoized),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._memoize),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._recall),
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
        }

    def run(self, opcode: str, argument: Any) -> None:
        """Carry out one instruction."""
        if opcode in _PUSH:
            self._stack.append(_CONSTANTS.get(opcode, argument))
        elif opcode in self._handlers:
            self._handlers[opcode](argument)
        else:
            raise UserError(f"holds what the instruction {opcode} makes; only integers and arrays of them are read")

    def finished(self) -> list[Any]:
        """What the pickled list has gained, which is taken out of it."""
        if len(self._stack) != 1 or not isinstance(self._stack[0], list) or not self._stack[0]:
            return []
        found, self._stack[0] = self._stack[0], []
        return found

    def check_end(self) -> None:
        """Raise ValueError when the pickle held something else than a list."""
        if len(self._stack) != 1 or not isinstance(self._stack[0], list):
            raise UserError("holds something other than a list")

    def _pop(self, number: int) -> list[Any]:
        if len(self._stack) < number:
            raise IndexError
        values = self._stack[-number:]
        del self._stack[-number:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _tuple(self, number: int) -> None:
        self._stack.append(tuple(self._pop(number)))

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError
        self._stack[-1].extend(values)

    def _memoize(self, index: int) -> None:
        """Remember what later arrays refer back to: names and types; rows would fill the memory."""
        self._num_memoized += 1
        value = self._stack[-1]
        is_short = isinstance(value, str | bytes) and len(value) <= (_LONGEST_NAME if isinstance(value, str) else 1)
        if is_short or isinstance(value, _Name | _Dtype):
            self._memo[index] = value

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise UserError("holds the same object twice, which is not read; write it with a copy")
        self._stack.append(self._memo[index])


def _named(name: str) -> _Name:
    if name not in _NAMES:
        raise UserError(f"names {name.replace(' ', '.')!r}, which is not part of an array of integers; it is not read")
    return _Name(_NAMES[name])


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise TypeError
    match function.name, arguments:
        case "_reconstruct", (_Name("ndarray"), _, _):
            return _Unfilled()
        case "_frombuffer", (bytes() | bytearray() as data, _Dtype() as dtype, tuple() as shape, _):
            return _array(data, dtype, shape)
        case "scalar", (_Dtype() as dtype, bytes() as data):
            return int(_array(data, dtype, (1,))[0])
        case "dtype", (str() as kind, *_):
            return _Dtype(kind)
        case "encode", (str() as text, "latin1"):
            return text.encode("latin-1")
    raise TypeError


def _build(value: Any, state: Any) -> Any:
    match value, state:
        case _Unfilled(), (_, tuple() as shape, _Dtype() as dtype, _, bytes() as data):
            return _array(data, dtype, shape)
        case _Unfilled(), (_, tuple(), _Dtype(kind=kind), _, list()):
            raise UserError(f"holds an array of type {kind!r}; only integers and arrays of them are read")
        case _Dtype(), (_, "<" | ">" | "=" | "|" as order, *_):
            value.order = order
            return value
    raise TypeError


def _array(data: bytes | bytearray, dtype: _Dtype, shape: tuple[Any, ...]) -> np.ndarray[Any, np.dtype[np.integer]]:
    if not re.fullmatch("[iu][1248]", dtype.kind):
        raise UserError(f"holds an array of type {dtype.kind!r}; only integers and arrays of them are read")
    numbers = np.frombuffer(data, np.dtype(dtype.order + dtype.kind))
    if shape != numbers.shape:
        raise UserError(f"holds an array of shape {shape} with {len(numbers)} numbers; a row has one dimension")
    return numbers

"""Changes of a job's data, its text and the keys on a command line, drawn from a random generator."""

import random
from collections.abc import Sequence
from typing import Any

import yaml

ODD_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**64),
    10**23,
    10**400,
    1e-30,
    1e30,
    0.5,
    -0.0,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    " ",
    "\n",
    "x",
    "x" * 300,
    "x" * 100_000,
    "\x00",
    "a\x07b",
    "\ud83d",
    "Ученик",
    "учитель/ученик",
    "\u202e",
    "..",
    "../../x",
    "/",
    "/proc/self/mem",
    "/dev/null",
    "/dev/full",
    "~nouser/x",
    "~",
    "$HOME",
    "*",
    "[",
    "**/*",
    "a[1]",
    "{x}",
    "s3://",
    "s3:///x",
    "http://h:99999",
    "file:///etc/passwd",
    "models:/",
    "models:/a@b",
    "models:/a/99999999999999999999",
    "runs:/x",
    "1e5",
    "null",
    "yes",
    "1",
    "nan",
    "a==1",
    "a==1; python_version<'1'",
    "a @ http://h/x",
    "name: x",
    "'",
    '"',
    "a,b",
    "${x}",
    b"\xff\xfe",
    [],
    [None],
    [[]],
    [1, 1],
    [0, 99],
    [-1, 5],
    ["a", "a"],
    list(range(2000)),
    {},
    {"": 1},
    {"name": None},
    {"name": "kd"},
    {"name": {"name": "kd"}},
    {"a": {"b": {"c": {}}}},
    {"checkpoint": "x"},
    {"package": "a==1", "sha256": "0", "path": "x"},
]
"""What stands nowhere in a shipped job, or not there."""
_DEEP = 2000
_BAD_BYTES = [b"\x00", b"\xff", b"\xef\xbb\xbf", b"\t", b"\r", b"\xc2\x85", b"\x1b[31m"]
_BAD_LINES = [
    "&a [*a]",
    "? [a]\n: b",
    "!!python/object:os.system {}",
    "!!binary x",
    "--- x",
    "%TAG ! x",
    "{{",
    "]",
    "'",
    '"',
    "|",
    "- - - x",
    "<<: 5",
    "<<: [1]",
    "*none",
    "!!timestamp 2001-99-99",
    "2001-01-01: x",
    "stages: {}",
    "stages: [x]",
    "name: name",
]

Path = tuple[Any, ...]
"""Keys and places that lead to a value."""


def paths(value: Any, prefix: Path = ()) -> list[Path]:
    """Every place in nested mappings and lists but the outermost."""
    found: list[Path] = []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found.append((*prefix, key))
        found += paths(child, (*prefix, key))
    return found


def value_at(value: Any, path: Path) -> Any:
    """What stands at a place."""
    for key in path:
        value = value[key]
    return value


def changed_data(data: Any, rng: random.Random, *, others: Sequence[Any]) -> Any:
    """The data with one change, made in place; ``others`` are jobs whose values may come in."""
    every = paths(data)
    if not every:
        return rng.choice(ODD_VALUES)
    path = rng.choice(every)
    parent, key = value_at(data, path[:-1]), path[-1]
    change = rng.choice([_replaced, _replaced, _replaced, _bent, _bent, _removed, _renamed, _crossed, _moved, _added])
    change(parent, key, rng, others)
    return data


def _replaced(parent: Any, key: Any, rng: random.Random, others: Sequence[Any]) -> None:
    parent[key] = rng.choice(ODD_VALUES)


def _bent(parent: Any, key: Any, rng: random.Random, others: Sequence[Any]) -> None:
    """A value that is nearly the old one."""
    old = parent[key]
    forms: list[Any] = [str(old), [old], {"name": old}, {key: old}, [old, old]]
    if isinstance(old, bool):
        forms += [int(old), not old]
    elif isinstance(old, int | float):
        forms += [-old, old * 1000, old / 7, old + 1, old - 1, float(old), old * 10**9]
    elif isinstance(old, str):
        forms += [
            old[:-1],
            f"{old}x",
            old.upper(),
            f" {old}",
            old.replace("e", "\u0435"),
            f"{old}/",
            old[::-1],
            old * 50,
        ]
    elif isinstance(old, list):
        forms += [old[:-1], old[::-1], old * 3, dict.fromkeys(map(str, old))]
    elif isinstance(old, dict):
        forms += [list(old), list(old.values()), dict(reversed(old.items()))]
    parent[key] = rng.choice(forms)


def _removed(parent: Any, key: Any, rng: random.Random, others: Sequence[Any]) -> None:
    del parent[key]


def _renamed(parent: Any, key: Any, rng: random.Random, others: Sequence[Any]) -> None:
    if isinstance(parent, list):
        parent.insert(key, parent[key])
        return
    odd = [f"{key}s", str(key)[:-1], str(key).upper(), "", 5, None, True, "a.b", "a/b", "Ученик", "x" * 300, "model"]
    parent[rng.choice(odd)] = parent.pop(key)


def _crossed(parent: Any, key: Any, rng: random.Random, others: Sequence[Any]) -> None:
    """The value of the same key in another job, or of any other key."""
    other = rng.choice(others)
    every = paths(other)
    same = [path for path in every if path[-1] == key]
    parent[key] = value_at(other, rng.choice(same or every))


def _moved(parent: Any, key: Any, rng: random.Random, others: Sequence[Any]) -> None:
    """Another order of the same keys, or two values exchanged."""
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    other = rng.choice(keys)
    if isinstance(parent, dict) and rng.random() < 0.5:
        items = list(parent.items())
        rng.shuffle(items)
        parent.clear()
        parent.update(items)
    else:
        parent[key], parent[other] = parent[other], parent[key]


def _added(parent: Any, key: Any, rng: random.Random, others: Sequence[Any]) -> None:
    """A key that was not there, from another job."""
    path = rng.choice(paths(rng.choice(others)))
    other = next(other for other in others if path in paths(other))
    if isinstance(parent, dict):
        parent.setdefault(path[-1], value_at(other, path))
    else:
        parent.append(value_at(other, path))


def written(data: Any) -> str:
    """The data as YAML, in ASCII."""
    return yaml.dump(data, sort_keys=False, Dumper=_Dumper, allow_unicode=False)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def changed_text(text: str, rng: random.Random) -> bytes:
    """The text with one to three changes of its lines or bytes."""
    content = text.encode()
    for _ in range(rng.choice([1, 1, 2, 3])):
        content = rng.choice([_other_line, _other_byte, _cut, _nested, _aliases])(content, rng)
    return content


def _other_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    old = lines[place]
    indent = old[: len(old) - len(old.lstrip())]
    new = [
        [],
        [old, old],
        [b"  " + old],
        [old[1:]],
        [b"\t" + old],
        [old, indent + rng.choice(_BAD_LINES).encode()],
        [old.replace(b":", b"", 1)],
        [old.replace(b": ", b":", 1)],
        [old[: len(old) // 2]],
        [old + b" #"],
    ]
    lines[place : place + 1] = rng.choice(new)
    return b"\n".join(lines)


def _other_byte(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    new = rng.choice([*_BAD_BYTES, bytes([rng.randrange(256)])])
    return content[:place] + new + content[place + rng.choice([0, 1]) :]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _nested(content: bytes, rng: random.Random) -> bytes:
    opening, closing = rng.choice([(b"[", b"]"), (b"{a: ", b"}")])
    depth = rng.choice([50, _DEEP])
    return content + b"\ndescription2: " + opening * depth + b"x" + closing * depth + b"\n"


def _aliases(content: bytes, rng: random.Random) -> bytes:
    """Each line repeats the one before it many times."""
    width, depth = rng.choice([(2, 3), (9, 9), (50, 5)])
    lines = [b"more0: &m0 [x]"]
    lines += [
        b"more%d: &m%d [%s]" % (number, number, b", ".join([b"*m%d" % (number - 1)] * width))
        for number in range(1, depth)
    ]
    return content + b"\n" + b"\n".join(lines) + b"\n"


def an_override(data: Any, rng: random.Random) -> str:
    """``KEY=VALUE`` with a key of the job, or nearly one, and any value."""
    stages = data.get("stages") if isinstance(data, dict) else None
    path = rng.choice(paths(data))
    if isinstance(stages, dict) and path[0] == "stages" and rng.random() < 0.8:
        path = path[1:] or (rng.choice(list(stages)),)
    key = ".".join(map(str, path))
    key = rng.choice([key, key, key, key, f"{key}.x", key[:-1], f"{key}.0", f".{key}", key.replace(".", "..")])
    value = rng.choice([*ODD_VALUES, "[1", "{a: 1", "[*x]", "!!python/name:os.system", "{<<: 1}", "[" * _DEEP, "\\"])
    text = value if isinstance(value, str) else written(value).removesuffix("\n...\n").strip()
    return f"{key}={text}"

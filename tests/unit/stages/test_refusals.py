"""Where each refusal of a stage is raised: when the job is read, in its plan, or only while it runs, and why."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from raydistill import stages

FOLDER = Path(next(iter(stages.__path__)))
ONLY_WHEN_RUNNING: dict[str, str] = {
    "capture.Stage.check_room": "what of it other jobs have stored by then, and how much room the storage has left",
    "_stored_outputs._check_alike": "masks and sizes of sets that several captures left in one folder",
    "compare._scores": "whether an earlier release made the evaluation, and whether a model's loss is infinite",
    "export.Stage._checked": "how much worse the export is than its model",
    "register.Stage._chosen_run": "whether each run lacks a metric of the evaluation, as an infinite loss",
}
"""Functions whose refusals no plan can raise, and why."""


@dataclass
class Function:
    """A function of a stage's module: what it calls, and whether it refuses something."""

    name: str
    """Such as ``register.Stage._gate``."""
    is_validator: bool
    num_refusals: int
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Name of a module or nothing, and name of what is called there."""


def imported(tree: ast.Module) -> dict[str, str]:
    """What a module imports of its neighbours: the name that it uses, and where that is."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raydistill.stages"):
            module = (node.module or "").removeprefix("raydistill.stages").removeprefix(".")
            found |= {alias.asname or alias.name: module or alias.name for alias in node.names}
    return found


def calls_of(node: ast.AST, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Every function that is named: those that are handed on run too."""
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            # A local variable may be called as a method is.
            yield names.get(one.id, ""), f"{one.id}()"
        elif isinstance(one, ast.Attribute):
            module = names.get(one.value.id, "") if isinstance(one.value, ast.Name) else ""
            yield module, one.attr


def refuses(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) == "UserError"


@cache
def functions() -> dict[str, Function]:
    """All functions of all stages' modules, by their names."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = imported(tree)
        scopes = [
            (path.stem, tree),
            *((f"{path.stem}.{one.name}", one) for one in tree.body if isinstance(one, ast.ClassDef)),
        ]
        for scope, owner in scopes:
            for one in ast.iter_child_nodes(owner):
                if isinstance(one, ast.FunctionDef):
                    decorators = " ".join(map(ast.unparse, one.decorator_list))
                    found[f"{scope}.{one.name}"] = Function(
                        f"{scope}.{one.name}",
                        "_validator" in decorators,
                        sum(map(refuses, ast.walk(one))),
                        list(calls_of(one, names)),
                    )
    return found


def callees(function: Function) -> set[str]:
    """Functions that one names, in its own module unless it says in which; methods wherever they are."""
    own = function.name.partition(".")[0]
    found = set()
    for module, name in function.calls:
        if name.endswith("()"):
            found |= {f"{module or own}.{name.removesuffix('()')}"} & functions().keys()
            continue
        here = {one for one in functions() if one.partition(".")[0] == (module or own) and one.endswith(f".{name}")}
        anywhere = {one for one in functions() if one.count(".") == 2 and one.endswith(f".{name}")}
        found |= here or anywhere
    # No plan runs a stage, its own or another.
    return {one for one in found if not one.endswith(".Stage.run")}


def reached_from(*starts: str) -> set[str]:
    waiting, found = list(starts), set(starts)
    while waiting:
        new = callees(functions()[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


def planned() -> set[str]:
    return reached_from(*(name for name in functions() if name.endswith(".Stage.plan")))


def read() -> set[str]:
    """What runs where a job's file becomes its stages."""
    starts = [name for name, one in functions().items() if one.is_validator or name == "binarize._share_or_source"]
    return reached_from(*starts, *(name for name in functions() if name.endswith(".Stage.identity")))


REFUSING = sorted(name for name, one in functions().items() if one.num_refusals)


def test_the_reader_finds_plans_and_what_they_call() -> None:
    assert len(REFUSING) > 50
    assert {"register.Stage._gate", "_corpora.facts_of", "_loop.check_batches"} <= planned()
    assert "capture.Config._consistent" in read()
    assert "train.Stage.run" not in planned()


def test_a_function_that_only_a_run_names_is_not_taken_for_a_part_of_a_plan() -> None:
    assert "prune.Stage._write" not in planned() | read()


@pytest.mark.parametrize("name", REFUSING)
def test_a_refusal_is_raised_before_the_run_or_has_a_reason_not_to_be(name: str) -> None:
    assert (name in planned() | read()) != (name in ONLY_WHEN_RUNNING)


def test_reasons_are_of_refusals_that_there_are() -> None:
    assert set(ONLY_WHEN_RUNNING) <= set(REFUSING)

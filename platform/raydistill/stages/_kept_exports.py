"""Exports that are registered with the student that they are of: which ones, and their figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raydistill.registry.student import EXPORT, FiguresRow
from raydistill.stages import _lineage, _models
from raydistill.stages._base import Inputs, ModelFacts, Run, planned, stage_of
from raydistill.user_error import UserError

_FORMAT = "format"


def check(reference: str, model: str, made: Mapping[str, Mapping[str, Any]], inputs: Inputs) -> None:
    """Raise UserError for a stage whose exports cannot go with a student.

    ``reference`` names the stage, ``model`` the student, and ``made`` has the matrix keys of each of its runs, by name.
    """
    facts = planned(ModelFacts, reference, inputs)
    if facts is None or facts.exported_from is None:
        raise UserError(f"exports is {reference!r}, which exports no model; name an export stage")
    if _stage(facts.exported_from) != _stage(model):
        raise UserError(
            f"exports is {reference!r}, which exports {facts.exported_from!r} and not {model!r}; name a stage that "
            "exports what is registered"
        )
    runs = inputs[reference].runs
    for name, assignment in (made or {model: {}}).items():
        found = [keys for keys in runs.values() if _is_of(name, assignment, facts.exported_from, keys)]
        if not found:
            raise UserError(f"exports is {reference!r}, which has none of {name}; name the whole stage")
        most = Counter(str(keys.get(_FORMAT)) for keys in found).most_common(1)
        if most[0][1] > 1:
            raise UserError(
                f"exports is {reference!r}, which has several of one format of {name}; name one of its runs"
            )


def of_run(runs: Sequence[Run], student: Run | None) -> list[Run]:
    """Those of an export stage's runs that are of a run's student, or of a model outside the job."""
    return [
        run
        for run in runs
        if student is None
        or _is_of(student.name, student.assignment, run.summary["lineage"]["teacher"], run.assignment)
    ]


def folders(exports: Sequence[Run]) -> dict[str, str]:
    """The folder of each export by its format, fetched where it is not here."""
    return {run.summary[_FORMAT]: str(_models.model_folder(run.name, run.output)) for run in exports}


def rows(exports: Sequence[Run], reference: str, evaluation: Mapping[str, Any]) -> list[FiguresRow]:
    """A row for each export: what the evaluation has of it, else what its own stage found."""
    found = []
    for run in exports:
        entry = _lineage.student_entry(evaluation.get("entries", []), run, reference)
        own = {key: value for key, value in run.summary.items() if isinstance(value, int | float)}
        found.append(FiguresRow(EXPORT, run.summary[_FORMAT], own if entry is None else entry["figures"]))
    return found


def _stage(reference: str) -> str:
    return reference.partition("[")[0]


def _is_of(name: str, assignment: Mapping[str, Any], source: str, export: Mapping[str, Any]) -> bool:
    """Whether an export, made of ``source`` with these matrix keys, is of the run with a name and its keys."""
    if "[" in source:
        return stage_of(source) == name
    return all(export.get(key) == value for key, value in assignment.items())

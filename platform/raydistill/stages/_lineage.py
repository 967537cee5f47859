"""Whose figures go with a registered student, and how large it is."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from raydistill.config.matrix import run_name
from raydistill.models.load import weight_files
from raydistill.registry.student import (
    BASELINE,
    BYTES_TAG,
    NOTE_TAG,
    PARAMETERS_TAG,
    STUDENT,
    TEACHER,
    FiguresRow,
)
from raydistill.stages._base import Inputs, Run, suffix_of
from raydistill.user_error import UserError

Entry = Mapping[str, Any]


def student_entry(entries: Sequence[Entry], run: Run, model: str) -> Entry | None:
    """An evaluation's entry of a run's student, ``model`` being the reference to it; None when it has none."""
    suffix = suffix_of(model)
    references = {run.name.partition("[")[0] + suffix, run.name + suffix}
    found = (
        entry for entry in entries if entry["reference"] in references and entry["assignment"] == dict(run.assignment)
    )
    return next(found, None)


def check_one_evaluation(name: str, inputs: Inputs) -> None:
    """Raise ValueError for an evaluation that has several runs, none of which has all figures."""
    num_runs = inputs[name].num_runs
    if num_runs > 1:
        raise UserError(f"evaluation is {name!r}, which has {num_runs} runs; name one of them")


def rows(evaluation: Mapping[str, Any], run: Run, model: str, *, baseline: str | None) -> list[FiguresRow]:
    """Figures of a run's student, of its teachers, and of the model that the evaluation calls ``baseline``.

    Those of teachers and baseline are of the run with the student's seed and other matrix keys, else means of all.
    None when the student was not evaluated.
    """
    entries = evaluation.get("entries", [])
    student = student_entry(entries, run, model)
    if student is None:
        return []
    found = [FiguresRow(STUDENT, student["model"], student["figures"])]
    teachers = run.summary.get("lineage", {}).get("teacher", "none").split(", ")
    names = dict.fromkeys(entry["model"] for entry in entries if _is_one_of(entry, teachers))
    for role, name in [*((TEACHER, name) for name in names), (BASELINE, baseline)]:
        of_name = [entry for entry in entries if entry["model"] == name]
        if role == TEACHER:
            of_name = [entry for entry in of_name if _is_one_of(entry, teachers)]
        if of_name:
            same = [entry for entry in of_name if entry["assignment"] == dict(run.assignment)]
            found.append(_row(role, name or "", same or of_name))
    return found


def figures_note(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """What an evaluation says of how it measured, as a tag; none when it says nothing."""
    notes = [note for note in evaluation.get("notes", []) if note]
    return {NOTE_TAG: " ".join(notes)} if notes else {}


def weights_of(folder: Path) -> dict[str, str]:
    """Tags with the parameters and bytes of a checkpoint's weights; none for a folder without any."""
    if not any(folder.glob("*.safetensors")):
        return {}
    parameters = size = 0
    for path in weight_files(folder):
        size += path.stat().st_size
        with safe_open(path, framework="numpy") as weights:
            parameters += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return {PARAMETERS_TAG: str(parameters), BYTES_TAG: str(size)}


def compared_by(metric: str, *, greater_is_better: bool) -> str:
    """By which metric versions compare, as text for a tag."""
    return json.dumps({"metric": metric, "greater_is_better": greater_is_better})


def _is_one_of(entry: Entry, references: Sequence[str]) -> bool:
    return bool({entry["reference"], run_name(entry["reference"], entry["assignment"])} & set(references))


def _row(role: str, name: str, entries: Sequence[Entry]) -> FiguresRow:
    figures = [entry["figures"] for entry in entries]
    known = [key for key in figures[0] if all(key in one for one in figures)]
    means = {key: math.fsum(one[key] for one in figures) / len(figures) for key in known}
    return FiguresRow(role, name, means, runs=len(entries))

"""From the stages of a job file to the runs it makes: one for a plain stage, several for one with a matrix."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.matrix import Assignment, Choice, assigned, axes, combinations, joined, run_name
from raydistill.stages._base import Stage, StageConfig, stage_of
from raydistill.user_error import UserError, placed

StageTypeOf = Callable[[str], type[Stage]]


@dataclass(frozen=True)
class StageRun:
    """One run of a stage: the stage itself, or a child of its matrix or of its inputs' matrices."""

    name: str
    base: str
    """The stage's name in the job file."""
    assignment: Assignment
    stage: Stage
    inputs: Mapping[str, tuple[str, ...]]
    """Names of the runs that each reference to an earlier stage means, by the name that the reference uses."""


def expand(configs: Mapping[str, StageConfig], raw: Mapping[str, Any], stage_type: StageTypeOf) -> dict[str, StageRun]:
    """The runs of all stages by name, in order.

    A stage that reads a stage with several runs has a run for each of them, in which it reads that one, and so on
    down the job; axes of one name are joined by their values. A stage that aggregates reads all of them in one run.
    ``raw`` has the stages' plain data. Raises UserError with a line for each mistake.
    """
    runs: dict[str, StageRun] = {}
    for name, config in configs.items():
        for run in _runs_of(name, config, raw[name], stage_type(config.kind), runs):
            runs[run.name] = run
    return runs


def _runs_of(
    name: str, config: StageConfig, raw: Mapping[str, Any], kind: type[Stage], earlier: Mapping[str, StageRun]
) -> Iterator[StageRun]:
    for own in combinations(axes(config.matrix)):
        labels = {key: choice.label for key, choice in own.items()}
        child = _configured(run_name(name, labels), config, raw, own, kind) if own else config
        references = _earlier(kind(name, child), earlier)
        for assignment in _assignments(name, labels, {} if kind.aggregates else references):
            run = run_name(name, assignment)
            inputs = {
                reference: found if kind.aggregates else _agreeing(reference, found, assignment)
                for reference, found in references.items()
            }
            names = {reference: tuple(one.name for one in found) for reference, found in inputs.items()}
            yield StageRun(run, name, assignment, kind(run, child), names)


def _configured(
    name: str, config: StageConfig, raw: Mapping[str, Any], own: Mapping[str, Choice], kind: type[Stage]
) -> StageConfig:
    try:
        return kind.config_type.model_validate({**assigned(raw, own), "matrix": config.matrix})
    except ValidationError as error:
        raise UserError([f"stages.{name}.{line}" for line in error_lines(error)]) from None
    except UserError as error:
        raise error.at(f"stages.{name}: matrix") from None


def _earlier(stage: Stage, earlier: Mapping[str, StageRun]) -> dict[str, list[StageRun]]:
    """The runs that each of a stage's references means, those to the outside of the job left out."""
    found: dict[str, list[StageRun]] = {}
    for key, reference in stage.references().items():
        name = stage_of(reference)
        runs = [run for run in earlier.values() if name in (run.base, run.name)]
        base = name.partition("[")[0]
        choices = [run.name for run in earlier.values() if run.base == base]
        if not runs and choices:
            raise UserError([f"stages.{stage.name}.{key} is {reference!r}; runs of {base}: {', '.join(choices)}"])
        if runs:
            found[name] = runs
    return found


def _assignments(name: str, labels: Assignment, references: Mapping[str, Sequence[StageRun]]) -> list[Assignment]:
    """What the runs of one own combination are told apart by: it and the keys of the runs that they read."""
    found: list[Assignment] = [labels]
    for reference, runs in references.items():
        if _is_family(reference, runs):
            with placed(f"stages.{name}"):
                found = joined(found, [run.assignment for run in runs])
        if not found:
            choices = ", ".join(run.name for run in runs)
            raise UserError(
                [f"stages.{run_name(name, labels)} finds no run of {reference} with its values; there are: {choices}"]
            )
    return list({run_name(name, assignment): assignment for assignment in found}.values())


def _agreeing(reference: str, runs: Sequence[StageRun], assignment: Assignment) -> list[StageRun]:
    """The one run that a run with this assignment reads."""
    if not _is_family(reference, runs):
        return list(runs)
    return [run for run in runs if all(assignment[key] == label for key, label in run.assignment.items())]


def _is_family(reference: str, runs: Sequence[StageRun]) -> bool:
    """Whether a reference means a stage with a matrix as a whole, not a plain stage or one run by its name."""
    return reference == runs[0].base and bool(runs[0].assignment)

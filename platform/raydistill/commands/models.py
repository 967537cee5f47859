"""``raydistill models``: list, show, compare, promote and copy registered students."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydistill.commands.reporting import USER_CAN_FIX, DebugOption, JsonOption, emit, print_lines, reported

if TYPE_CHECKING:
    from raydistill.registry.client import Registry
    from raydistill.registry.promotion import Promotion
    from raydistill.registry.student import StudentVersion

app = typer.Typer(
    name="models",
    help="List, show, compare, promote and copy registered students.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="NAME, NAME@ALIAS or NAME/VERSION.")]
PulledArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME, NAME@ALIAS or NAME/VERSION; with :FORMAT an export of it.")
]
StorageOption = Annotated[
    Path | None, typer.Option("--storage", metavar="FOLDER", help="A job's storage folder, by default runs.")
]
UriOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", metavar="URI", help="The MLflow store, by default MLFLOW_TRACKING_URI if set."),
]


@app.command("list")
def list_students(
    storage: StorageOption = None, uri: UriOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """List registered students: versions, aliases, job, best metric.

    \b
    Example:
      raydistill models list --storage runs
      raydistill models list --tracking-uri http://mlflow.example:5000
    """
    with reported(debug=debug):
        students = _registry(storage, uri).students()
        from raydistill.registry.display import list_lines

        emit([student.as_data() for student in students], json_text=as_json, lines=list_lines(students))


@app.command("show")
def show(
    model: ModelArgument,
    storage: StorageOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a version was made from, its figures, size, license and gate.

    \b
    Example:
      raydistill models show sentiment-student@champion
      raydistill models show sentiment-student/3 --json
    """
    with reported(debug=debug):
        version = _find(_registry(storage, uri), model)
        from raydistill.registry.display import version_lines

        emit(version.as_data(), json_text=as_json, lines=version_lines(version))


@app.command("compare")
def compare(
    first: ModelArgument,
    second: ModelArgument,
    storage: StorageOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare two versions side by side, with their differences.

    \b
    Example:
      raydistill models compare sentiment-student@champion sentiment-student/4
    """
    with reported(debug=debug):
        registry = _registry(storage, uri)
        one, other = _find(registry, first), _find(registry, second)
        from raydistill.registry.display import comparison, comparison_lines

        models = [{"name": each.name, "version": each.number} for each in (one, other)]
        data = {"models": models, "rows": comparison(one, other)}
        emit(data, json_text=as_json, lines=comparison_lines(one, other))


@app.command("promote")
def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the registered student.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The number of the version.")],
    to: Annotated[str, typer.Option("--to", metavar="ALIAS", help="The alias to give it, such as champion.")],
    force: Annotated[bool, typer.Option("--force", help="Promote it even if a check fails; a tag keeps why.")] = False,
    storage: StorageOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Give a version an alias if it passes: the gate of its job, a reload with plain transformers, a license.

    \b
    Example:
      raydistill models promote sentiment-student 3 --to champion
    """
    with reported(debug=debug):
        registry = _registry(storage, uri)
        found = _find(registry, f"{name}/{version}")
        from raydistill.registry import promotion

        done = promotion.promote(registry, found, to, force=force)
        emit(asdict(done), json_text=as_json, lines=_promoted_lines(done))
        if not as_json:
            print_lines([f"{found.title} {_outcome(done)}: {line}" for line in done.failed], err=True)
        if not done.promoted:
            raise typer.Exit(USER_CAN_FIX)


@app.command("pull")
def pull(
    model: PulledArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write; it must not exist.")],
    storage: StorageOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Copy a version to a folder that transformers alone can read, with its card as README.md, or an export of it.

    \b
    Example:
      raydistill models pull sentiment-student@champion student
      raydistill models pull sentiment-student@champion:onnx-int8 student-int8
    """
    with reported(debug=debug):
        from raydistill.registry.reference import ModelReference

        registry, reference = _registry(storage, uri), ModelReference.parse(model)
        version = registry.find(reference)
        registry.pull(version, folder, export=reference.export)
        data = {"name": version.name, "version": version.number, "export": reference.export, "folder": str(folder)}
        what = f"{version.title} as {reference.export}" if reference.export else version.title
        emit(data, json_text=as_json, lines=[f"wrote {what} to {folder}"])


def _registry(storage: Path | None, uri: str | None) -> "Registry":
    from raydistill.registry.client import Registry, registry_uri

    return Registry(registry_uri(storage, uri))


def _find(registry: "Registry", model: str) -> "StudentVersion":
    from raydistill.registry.reference import ModelReference
    from raydistill.user_error import UserError

    reference = ModelReference.parse(model)
    if reference.export is not None:
        raise UserError(f"model is {model!r}, which names an export; name the version that it is kept with")
    return registry.find(reference)


def _outcome(done: "Promotion") -> str:
    return f"is {done.alias} by force" if done.promoted else "is not promoted"


def _promoted_lines(done: "Promotion") -> list[str]:
    if not done.promoted:
        return []
    before = f", version {done.previous} was" if done.previous not in (None, done.version) else ""
    return [f"{done.name} version {done.version} is {done.alias}{before}", *done.notes]

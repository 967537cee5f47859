"""``raydistill explain`` and ``schema``: what the keys of job files and search spaces are."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raydistill.commands.reporting import DebugOption, print_lines, reported
from raydistill.job import files
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.config.explain import Key

app = typer.Typer()


@app.command("explain")
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A dotted key.")],
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job file, or a shipped job's name.")] = None,
    debug: DebugOption = False,
) -> None:
    """Print what a key is: its type, limits, default and meaning, and the keys below it.

    With a JOB, write the key as for run; what the job has there is printed too. Without one, start with a key of jobs,
    a kind of stage, or a key inside stages. After method, task, encoding or source write which one.

    \b
    Example:
      raydistill explain distill.method.temperature my.yaml
      raydistill explain method.kd.temperature
      raydistill explain train.training.batch_size
      raydistill explain scaling.num_workers
    """
    with reported(debug=debug):
        print_lines(_lines(key) if job is None else _lines_of_job(key, job))


@app.command("schema")
def schema(
    kind: Annotated[
        Literal["job", "space"], typer.Argument(help="The schema of job files, or of search spaces.")
    ] = "job",
    debug: DebugOption = False,
) -> None:
    """Print a JSON schema, by which editors complete and check YAML files.

    \b
    Example:
      raydistill schema > job.schema.json
      raydistill schema space > space.schema.json
    """
    with reported(debug=debug):
        from raydistill.config import json_schema

        if kind == "space":
            from raydistill.search.config import SearchConfig

            found = json_schema.of_space(SearchConfig)
        else:
            from raydistill.job.load import JobConfig

            found = json_schema.of_job(JobConfig, _stages())
        typer.echo(json.dumps(found, indent=1))


def _stages() -> dict[str, Any]:
    """The configuration of each kind of stage."""
    from raydistill.discovery import names
    from raydistill.job.load import STAGES, stage_type

    return {kind: stage_type(kind).config_type for kind in names(STAGES)}


def _lines(key: str) -> list[str]:
    from raydistill.config.explain import explained
    from raydistill.job.load import JobConfig

    path, stages = key.split("."), _stages()
    if path[0] in JobConfig.model_fields and path[0] != "stages":
        return _told(key, explained(JobConfig, path))
    if path[0] in stages and len(path) > 1:
        return _told(key, explained(stages[path[0]], path[1:]))
    found = {kind: explained(config, path) for kind, config in stages.items()}
    takers: dict[tuple[str, ...], list[str]] = {}
    for kind, each in found.items():
        if each is not None:
            takers.setdefault(tuple(each.lines), []).append(kind)
    if not takers:
        raise UserError(
            f"{key} is not a key of jobs or stages; start it with one of them, or with a stage: {', '.join(stages)}"
        )
    return [line for lines, kinds in takers.items() for line in (f"in stages {', '.join(kinds)}:", *lines)]


def _lines_of_job(key: str, job: str) -> list[str]:
    from raydistill.config import overrides
    from raydistill.config.explain import explained
    from raydistill.job.load import JobConfig, accepts

    raw = files.read_job(job)
    path = overrides.locate(raw, key, top_level=JobConfig.model_fields, accepts=accepts(raw))
    if path[0] == "stages" and len(path) > 2:
        stage = raw["stages"][path[1]]
        kinds = _stages()
        kind = stage.get("kind") if isinstance(stage, Mapping) else None
        found = explained(kinds[kind], path[2:], stage) if kind in kinds else None
    else:
        found = explained(JobConfig, path, raw)
    value: Any = raw
    for part in path:
        if isinstance(value, list):
            value = value[int(part)] if part.isdecimal() and int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return [*_told(key, found), *([] if value is None else [f"  {job} has {json.dumps(value)}"])]


def _told(key: str, found: "Key | None") -> list[str]:
    if found is None:
        raise UserError(f"{key} is not a key there; leave out its end to see which keys there are")
    return found.lines

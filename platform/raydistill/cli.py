"""The ``raydistill`` command; each command imports what it needs when it runs, so that ``--help`` is quick."""

import logging
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydistill import __version__, discovery
from raydistill.commands import clean, cluster_jobs, convert, explain, export, models, new, predict, serve, submit, tune
from raydistill.commands.loading import load
from raydistill.commands.reporting import (
    DONE,
    FAILED,
    USER_CAN_FIX,
    DebugOption,
    JsonOption,
    emit,
    print_lines,
    reported,
    told_if_lost,
)
from raydistill.environment import keep_quiet
from raydistill.job import files
from raydistill.user_error import UserError, placed

if TYPE_CHECKING:
    from raydistill.job.load import Job

app = typer.Typer(
    name="raydistill",
    help="Knowledge distillation of transformer language models on Ray.",
    epilog="Start with: raydistill ls jobs",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(models.app)
app.command("tune")(tune.tune)
app.command("convert")(convert.convert)
app.command("clean")(clean.clean)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.add_typer(explain.app)
app.add_typer(new.app, name="new")
app.add_typer(submit.app)
app.add_typer(cluster_jobs.app)

_PACKAGES = {
    "methods": "raydistill.methods",
    "tasks": "raydistill.tasks",
    "sources": "raydistill.data.sources",
    "metrics": "raydistill.metrics",
    "stages": "raydistill.stages",
}
_FOLDERS = {"jobs": files.JOBS, "spaces": files.SPACES}
_KINDS = ["jobs", *_PACKAGES, "models", "spaces"]
_OVERRIDE = re.compile(r"[^\s=/\\]+=.*", re.DOTALL)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job file, or the name of a shipped job.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raydistill {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Before any library is imported that would look for them.
    keep_quiet()


@app.command("run")
def run(
    job: JobArgument,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, run nothing.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a job: check it, then run the stages that are not finished yet.

    \b
    Example:
      raydistill run demo
      raydistill run my.yaml scaling.num_workers=4 distill.method.temperature=4
    """
    with reported(debug=debug, resume="the same command again continues where it stopped") as failure:
        loaded = load(job, overrides or [])
        report = _check(job, loaded)
        if dry_run:
            emit(report, json_text=as_json, lines=_report_lines(job, report))
            return
        if not as_json:
            print_lines(_report_lines(job, report))
        from raydistill.job.record import job_folder
        from raydistill.job.run import run_job
        from raydistill.job.summary import as_data, summary_lines

        failure.folder = job_folder(loaded)
        result = run_job(loaded, echo=lambda line: typer.echo(line, err=as_json))
        emit(as_data(loaded, result), json_text=as_json, lines=summary_lines(loaded, result))
        told_if_lost(result.lost)


@app.command("validate")
def validate(
    arguments: Annotated[
        list[str], typer.Argument(metavar="FILE... [KEY=VALUE]...", help="Job files or names, then dotted keys.")
    ],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check jobs and search spaces without running them: keys, models, corpus, resources, disk.

    \b
    Example:
      raydistill validate my.yaml
      raydistill validate spaces/kd_temperature
      raydistill validate jobs/*.yaml scaling.num_workers=2
    """
    overrides = [text for text in arguments if _OVERRIDE.fullmatch(text) and not os.path.exists(text)]
    jobs = [text for text in arguments if text not in overrides]
    with reported(debug=debug):
        if not jobs:
            raise UserError(["no job is given; write a file or the name of a shipped job before the keys"])
        findings = [_validate_one(job, overrides) for job in jobs]
        if as_json:
            emit(findings, json_text=True, lines=[])
        else:
            for finding in findings:
                print_lines(_report_lines(finding["job"], finding["stages"]) if finding["ok"] else [])
        problems = [line for finding in findings for line in finding["errors"]]
        if problems:
            raise UserError([] if as_json else problems)


def _validate_one(job: str, overrides: list[str]) -> dict[str, Any]:
    try:
        if files.is_space(job):
            return {"job": job, "ok": True, "errors": [], "stages": tune.checked(job, overrides)[1]}
        return {"job": job, "ok": True, "errors": [], "stages": _check(job, load(job, overrides))}
    except UserError as error:
        return {"job": job, "ok": False, "errors": error.lines, "stages": {}}


@app.command("ls")
def ls(
    kind: Annotated[str, typer.Argument(metavar="|".join(_KINDS), help="What to list.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List what a job can be made of, each with one line about it.

    \b
    Example:
      raydistill ls methods
    """
    with reported(debug=debug):
        if kind not in _KINDS:
            typer.echo(discovery.unknown_choice("what to list", kind, _KINDS), err=True)
            raise typer.Exit(USER_CAN_FIX)
        if kind == "models":
            from raydistill.commands.families import model_lines, table

            families = model_lines()
            emit([line._asdict() for line in families], json_text=as_json, lines=table(families))
            return
        if kind in _FOLDERS:
            found = {name: files.description(_FOLDERS[kind], name) for name in files.names(_FOLDERS[kind])}
        else:
            package = _PACKAGES[kind]
            found = {name: discovery.summary(package, name) for name in discovery.names(package)}
        width = max((len(name) for name in found), default=0)
        lines = [f"{name:<{width}}  {text}".rstrip() for name, text in found.items()]
        emit([{"name": name, "summary": text} for name, text in found.items()], json_text=as_json, lines=lines)


@app.command("cp")
def cp(
    job: JobArgument,
    new: Annotated[Path, typer.Argument(metavar="NEW.YAML", help="The file to write; it must not exist.")],
    debug: DebugOption = False,
) -> None:
    """Copy a job or a search space, to change it.

    \b
    Example:
      raydistill cp demo my.yaml
      raydistill cp spaces/kd_temperature my_space.yaml
    """
    with reported(debug=debug):
        is_space = files.is_space(job)
        text = files.space_text(job) if is_space else files.job_text(job)
        if not new.parent.is_dir():
            raise UserError(f"{new} is in a folder that does not exist; make {new.parent} first")
        try:
            with new.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError:
            raise UserError(f"{new} exists; give another name or remove it") from None
        except OSError as error:
            raise UserError(f"{new} cannot be written ({error.strerror}); give another place") from None
    typer.echo(f"wrote {new}; next: raydistill {'tune' if is_space else 'run'} {new} --dry-run")


@app.command("track-sync")
def track_sync(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="By default runs.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="URI", help="The store's address, if it has moved.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Deliver records of runs that MLflow could not take while the jobs ran.

    A folder is a storage folder or a job's; every record is delivered once, in order. The exit status is 1 while
    records still wait.

    \b
    Example:
      raydistill track-sync runs
    """
    with reported(debug=debug, resume="the same command again delivers the rest"):
        from raydistill.tracking.sync import find_spools, sync_all

        spools = [spool for folder in folders or [Path("runs")] for spool in find_spools(folder)]
        results, refusals = sync_all(list(dict.fromkeys(spools)), to=to)
        emit([asdict(result) for result in results], json_text=as_json, lines=[result.line for result in results])
        print_lines([*refusals, *(result.problem for result in results if result.waiting)], err=True)
        if refusals or any(result.waiting for result in results):
            raise typer.Exit(USER_CAN_FIX if refusals else FAILED)


def _check(name: str, job: "Job") -> dict[str, list[str]]:
    """The preflight's lines by stage; raises UserError."""
    with placed(name):
        from raydistill.job.preflight import check_job, report_lines

        return dict(report_lines(check_job(job)))


def _report_lines(job: str, report: dict[str, list[str]]) -> list[str]:
    return [f"{job}: valid", *(f"  {stage}: {line}" for stage, lines in report.items() for line in lines)]

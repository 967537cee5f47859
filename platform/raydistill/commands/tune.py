"""``raydistill tune``: search values of a job's keys, and leave the best as a job."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydistill.commands.reporting import (
    FAILED,
    DebugOption,
    Failure,
    JsonOption,
    emit,
    print_lines,
    reported,
    told_if_lost,
)
from raydistill.user_error import placed

if TYPE_CHECKING:
    from raydistill.search.config import SearchConfig
    from raydistill.search.results import CampaignResult

SpaceArgument = Annotated[str, typer.Argument(metavar="SPACE", help="A space file, or the name of a shipped space.")]


def tune(
    space: SpaceArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the space file, or dotted keys of its job."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a campaign that was interrupted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, run nothing.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Search values of a job's keys: check them, run the trials, report, and write the best as a job.

    \b
    Example:
      raydistill ls spaces
      raydistill tune kd_temperature --dry-run
      raydistill tune kd_temperature budget.trials=4 storage=/data/runs
      raydistill tune my_space.yaml distill.training.max_steps=50
      raydistill tune my_space.yaml --resume
    """
    again = "the same command with --resume goes on, and keeps the trials that ended"
    with reported(debug=debug, resume=again) as failure:
        search, report = checked(space, overrides or [])
        lines = [f"{space}: valid", *report_lines(report)]
        if dry_run:
            emit(report, json_text=as_json, lines=lines)
            return
        if not as_json:
            print_lines(lines)
        result = _run(search, failure, resume=resume, to_stderr=as_json)
        from raydistill.search.report import summary_lines, write_report

        # A campaign that had finished before is not run again; its report may be of an older release, or removed.
        files = write_report(search, result)
        emit(_as_data(search, result, files), json_text=as_json, lines=summary_lines(search, result, files))
        if result.best is None:
            typer.echo("no trial finished, so there is no best configuration; see the reasons above", err=True)
            raise typer.Exit(FAILED)
        told_if_lost(result.lost)


def checked(space: str, assignments: list[str]) -> "tuple[SearchConfig, dict[str, list[str]]]":
    """A search and its preflight's lines by what they are about; raises UserError."""
    from raydistill.search.spaces import load_search

    search = load_search(space, assignments)
    with placed(space):
        from raydistill.search.preflight import check_search

        return search, check_search(search)


def report_lines(report: dict[str, list[str]]) -> list[str]:
    """The preflight's lines as they are printed."""
    return [f"  {about}: {line}" for about, lines in report.items() for line in lines]


def _run(search: "SearchConfig", failure: Failure, *, resume: bool, to_stderr: bool) -> "CampaignResult":
    from raydistill.search.campaign import campaign_folder, run_campaign
    from raydistill.search.report import log_report

    failure.folder = campaign_folder(search)
    return run_campaign(
        search,
        resume=resume,
        echo=lambda line: typer.echo(line, err=to_stderr),
        finish=lambda result, tracker, key: log_report(search, result, tracker, key),
    )


def _as_data(search: "SearchConfig", result: "CampaignResult", files: list[Path]) -> dict[str, Any]:
    trials = [json.loads(json.dumps(asdict(trial), default=str)) for trial in result.trials]
    return {
        "campaign": search.name,
        "folder": str(result.folder),
        "metric": search.metric,
        "mode": search.mode,
        "trials": trials,
        "best": None if result.best is None else result.best.number,
        "files": [str(file) for file in files],
    }

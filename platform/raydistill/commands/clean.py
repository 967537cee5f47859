"""``raydistill clean``: delete what nothing needs of a job's files."""

from typing import Annotated

import typer

from raydistill.commands.loading import load
from raydistill.commands.reporting import DebugOption, JsonOption, emit, reported
from raydistill.discovery import unknown_choice
from raydistill.user_error import UserError


def clean(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file, or the name of a shipped job.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys.")] = None,
    keep: Annotated[
        str, typer.Option("--keep", metavar="WHAT", help="outputs, or registered: what was compared and registered.")
    ] = "outputs",
    yes: Annotated[bool, typer.Option("--yes", help="Delete the files; without it they are listed.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the files of a job that nothing needs anymore, with their size; with --yes delete them.

    These are checkpoints of finished trainings, and outputs that the job made with other values. What stays is enough
    for the job to go on. With --keep registered, the outputs of its stages are listed too once its models are in the
    registry, which has copies of its own.

    \b
    Example:
      raydistill clean demo
      raydistill clean my.yaml --keep registered --yes
    """
    with reported(debug=debug):
        from raydistill.job.cleaning import KEEPS, removable, remove

        known = next((one for one in KEEPS if one == keep), None)
        if known is None:
            raise UserError(unknown_choice("--keep", keep, list(KEEPS)))
        loaded = load(job, overrides or [])
        found = removable(loaded, keep=known)
        if yes:
            remove(loaded, found)
        total = sum(one.bytes for one in found)
        lines = [f"{one.bytes / 1e6:10,.1f} MB  {one.path}: {one.why}" for one in found]
        last = "deleted" if yes else "would go; --yes deletes it"
        lines.append(f"{total / 1e6:10,.1f} MB  {last}" if found else "nothing would go")
        data = {
            "deleted": yes,
            "bytes": total,
            "folders": [{"path": str(one.path), "bytes": one.bytes, "why": one.why} for one in found],
        }
        emit(data, json_text=as_json, lines=lines)

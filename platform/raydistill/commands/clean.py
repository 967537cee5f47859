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
    yes: Annotated[bool, typer.Option("--yes", help="Delete it; without this it is shown alone.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what of a job's files nothing needs any more, and how much it is; with --yes delete it.

    Checkpoints of finished trainings go, and what the job with other values left; the job goes on from what stays. With
    --keep registered what its stages made goes too, once its models are in the registry, which has copies of its own.

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

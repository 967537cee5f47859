"""``raydistill status``, ``logs`` and ``stop``: what jobs on a Ray cluster do."""

import os
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydistill.commands.reporting import FAILED, INTERRUPTED, DebugOption, JsonOption, emit, print_lines, reported
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.cluster.job_api import JobApi

ADDRESS = "http://127.0.0.1:8265"
_VARIABLE = "RAY_API_SERVER_ADDRESS"
_STOPPING_S = 90.0

AddressOption = Annotated[
    str, typer.Option("--address", metavar="URL", help="The cluster's dashboard.", envvar=_VARIABLE)
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id that submit and status print.")]

app = typer.Typer()


@app.command("status")
def status(
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One job; by default all.")] = None,
    address: AddressOption = ADDRESS,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the jobs of a Ray cluster, or show the state of one.

    \b
    Example:
      raydistill status
      raydistill status demo-20260101-120000-1a2b
    """
    with reported(debug=debug):
        api = connected(address)
        if job_id is None:
            jobs = api.jobs()
            emit([as_data(job) for job in jobs], json_text=as_json, lines=_table(jobs))
        else:
            info = api.job(job_id)
            emit(as_data(info), json_text=as_json, lines=_details(info, api.address))


@app.command("logs")
def logs(
    job_id: IdArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends; then exit as it did.")
    ] = False,
    address: AddressOption = ADDRESS,
    debug: DebugOption = False,
) -> None:
    """Print what a job on a Ray cluster wrote.

    \b
    Example:
      raydistill logs demo-20260101-120000-1a2b --follow
    """
    with reported(debug=debug):
        api = connected(address)
        if follow:
            follow_to_end(api, job_id)
        else:
            typer.echo(api.logs(job_id), nl=False)


@app.command("stop")
def stop(
    job_id: IdArgument, address: AddressOption = ADDRESS, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Stop a job on a Ray cluster as Ctrl-C does; resume continues it.

    \b
    Example:
      raydistill stop demo-20260101-120000-1a2b
    """
    with reported(debug=debug):
        api = connected(address)
        stopped = api.stop(job_id)
        info = _wait_for_end(api, job_id)
        state = str(info.status).lower()
        line = f"{job_id} had ended before: {state}"
        if stopped:
            line = f"{job_id} is {state}; continue it: raydistill resume {job_id}{_at(api.address)}"
        emit({**as_data(info), "stopped": stopped}, json_text=as_json, lines=[line])


def connected(address: str) -> "JobApi":
    """The job API at an address; raises ValueError, one line, when it is not to be had."""
    from raydistill.cluster.job_api import JobApi

    return JobApi(address)


def follow_to_end(api: "JobApi", job_id: str, *, err: bool = False, as_json: bool = False) -> None:
    """Print what a job writes until it ends, and exit as it did; Ctrl-C leaves it running."""
    from raydistill.cluster.job_api import exit_code

    # One that is not known is told as such, and not as one whose cluster was lost on the way.
    api.job(job_id)
    try:
        info = api.follow(job_id, lambda text: typer.echo(text, nl=False, err=err))
    except KeyboardInterrupt:
        print_lines([f"{job_id} goes on without this terminal", *what_next(job_id, api.address)], err=True)
        raise typer.Exit(INTERRUPTED) from None
    except UserError:
        print_lines([f"{job_id} may go on; once the cluster answers:", *what_next(job_id, api.address)], err=True)
        raise
    code = exit_code(info)
    if as_json:
        emit(as_data(info), json_text=True, lines=[])
    if code != 0:
        print_lines([_how_it_ended(info), *_continue(job_id, api.address)], err=True)
    raise typer.Exit(FAILED if code is None else code)


def what_next(job_id: str, address: str) -> list[str]:
    """How to follow and to stop a job that runs."""
    at = _at(address)
    return [f"  follow it: raydistill logs {job_id} --follow{at}", f"  stop it:   raydistill stop {job_id}{at}"]


def as_data(info: Any) -> dict[str, Any]:
    """What is told of a job, ready for JSON."""
    from raydistill.cluster.job_api import exit_code

    metadata = info.metadata or {}
    seconds = ((info.end_time or time.time() * 1000) - info.start_time) / 1000 if info.start_time else None
    return {
        "id": info.submission_id,
        "job": metadata.get("raydistill_name"),
        "status": str(info.status).lower(),
        "exit_code": exit_code(info),
        "started": _moment(info.start_time),
        "ended": _moment(info.end_time),
        "seconds": seconds,
        "storage": metadata.get("raydistill_storage"),
        "message": info.message,
    }


def _moment(time_ms: int | None) -> str | None:
    return datetime.fromtimestamp(time_ms / 1000).astimezone().isoformat(timespec="seconds") if time_ms else None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _table(jobs: Sequence[Any]) -> list[str]:
    if not jobs:
        return ["no job was submitted to this cluster"]
    rows = [["id", "status", "started", "time"]]
    for data in map(as_data, jobs):
        rows.append([data["id"], data["status"], data["started"] or "", _duration(data["seconds"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _details(info: Any, address: str) -> list[str]:
    data = as_data(info)
    shown = {
        "status": data["status"],
        "exit status": data["exit_code"],
        "job": data["job"],
        "storage": data["storage"],
        "started": data["started"],
        "ended": data["ended"],
        "time": _duration(data["seconds"]),
        "message": next(iter(str(info.message or "").splitlines()), None),
    }
    lines = [data["id"], *(f"  {key}: {value}" for key, value in shown.items() if value not in (None, ""))]
    if data["exit_code"] is None:
        return [*lines, *what_next(data["id"], address)]
    return [*lines, *(_continue(data["id"], address) if data["exit_code"] else [])]


def _continue(job_id: str, address: str) -> list[str]:
    return [f"  continue it: raydistill resume {job_id}{_at(address)}"]


def _how_it_ended(info: Any) -> str:
    data = as_data(info)
    why = next((line.strip() for line in str(info.message or "").splitlines() if line.strip()), "")
    reason = f": {why}" if info.driver_exit_code is None and why else ""
    return f"{data['id']} {data['status']}, exit status {data['exit_code']}{reason}"


def _at(address: str) -> str:
    """What a command needs to reach the same cluster."""
    return "" if address == os.environ.get(_VARIABLE, ADDRESS) else f" --address {address}"


def _wait_for_end(api: "JobApi", job_id: str) -> Any:
    from raydistill.cluster.job_api import ENDED

    deadline = time.monotonic() + _STOPPING_S
    while True:
        info = api.job(job_id)
        if str(info.status) in ENDED or time.monotonic() > deadline:
            return info
        time.sleep(0.5)

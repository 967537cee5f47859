"""``raydistill submit`` and ``resume``: hand a job to a Ray cluster, or write what hands it to Kubernetes."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydistill.commands.cluster_jobs import (
    ADDRESS,
    AddressOption,
    IdArgument,
    connected,
    follow_to_end,
    what_next,
)
from raydistill.commands.loading import load
from raydistill.commands.reporting import DebugOption, JsonOption, emit, reported
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.cluster.job_api import JobApi
    from raydistill.cluster.submission import Submission

NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Return at once; the job goes on.")]

EnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env", metavar="NAME[=VALUE]", help="A variable for the job; without VALUE this shell's; repeatable."
    ),
]

app = typer.Typer()


@app.command("submit")
def submit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file, or the name of a shipped job.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys.")] = None,
    address: AddressOption = ADDRESS,
    upload: Annotated[bool, typer.Option("--upload", help="Also send the local files that the job names.")] = False,
    shared: Annotated[
        list[str] | None,
        typer.Option("--shared", metavar="FOLDER", help="A folder that all machines of the cluster see; repeatable."),
    ] = None,
    no_wait: NoWaitOption = False,
    installed: Annotated[
        bool, typer.Option("--installed", help="Send no code: the cluster has raydistill installed.")
    ] = False,
    env: EnvOption = None,
    kuberay: Annotated[bool, typer.Option("--kuberay", help="Print a RayJob for Kubernetes; submit nothing.")] = False,
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="With --kuberay: an image that has raydistill.")
    ] = None,
    claim: Annotated[
        str | None, typer.Option("--claim", metavar="NAME", help="With --kuberay: volume claim to keep storage on.")
    ] = None,
    code: Annotated[
        str | None,
        typer.Option("--code", metavar="URI", help="With --kuberay: wheel or zip of raydistill, not the image's."),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a job on a Ray cluster and follow it; the exit status is the job's.

    Code and configuration are sent with it. The job runs on the cluster's head, so this machine may be switched off.

    \b
    Example:
      raydistill submit my.yaml storage=/shared/runs scaling.num_workers=4 --address http://head:8265
      raydistill submit my.yaml storage=/shared/runs --kuberay --image me/raydistill --claim runs > rayjob.yaml
    """
    with reported(debug=debug):
        _check_kubernetes(kuberay, {"--image": image, "--claim": claim, "--code": code}, upload=upload)
        variables = _variables(env or [])
        # A cluster that is not there is found before the job is read, which takes longer.
        api = None if kuberay else connected(address)
        from raydistill.cluster.submission import prepare

        data = load(job, overrides or []).dump()
        submission = prepare(
            data, upload=upload, shared=[*(shared or [])], installed=installed or kuberay, variables=variables
        )
        if api is not None:
            _start(api, submission, wait=not no_wait, as_json=as_json)
            return
        from raydistill.cluster.manifest import manifest_text, manifests

        documents = manifests(submission, image=image or "", claim=claim, code=code)
        emit(documents, json_text=as_json, lines=[manifest_text(documents).rstrip()])


@app.command("resume")
def resume(
    job_id: IdArgument,
    address: AddressOption = ADDRESS,
    env: EnvOption = None,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Submit a job again after it has ended: finished stages are skipped, and a training resumes from its checkpoint.

    The values of variables are not stored: they are taken from this shell, or given again with --env.

    \b
    Example:
      raydistill resume demo-20260101-120000-1a2b
    """
    with reported(debug=debug):
        api = connected(address)
        from raydistill.cluster.submission import again

        _start(api, again(api.job(job_id), _variables(env or [])), wait=not no_wait, as_json=as_json)


def _start(api: "JobApi", submission: "Submission", *, wait: bool, as_json: bool) -> None:
    from raydistill.cluster.submission import submit

    job_id = submit(api, submission)
    if not wait:
        lines = [f"submitted {job_id}", *what_next(job_id, api.address)]
        emit({"id": job_id, "address": api.address}, json_text=as_json, lines=lines)
        return
    typer.echo(f"submitted {job_id}", err=as_json)
    follow_to_end(api, job_id, err=as_json, as_json=as_json)


def _variables(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise UserError(f"--env {name} has no value, and there is no such variable here; write --env {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def _check_kubernetes(kuberay: bool, options: dict[str, Any], *, upload: bool) -> None:
    given = [name for name, value in options.items() if value is not None]
    if not kuberay and given:
        raise UserError(f"{given[0]} goes with --kuberay; add that, or leave {given[0]} out")
    if kuberay and options["--image"] is None:
        raise UserError("--kuberay needs --image, a container image that has raydistill and what it needs")
    if kuberay and upload:
        raise UserError("--kuberay sends no files; copy them to the volume claim and leave --upload out")

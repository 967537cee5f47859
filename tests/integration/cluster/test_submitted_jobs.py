"""Jobs on a real Ray head with the job API and a token: submitted, followed, left alone, stopped and continued."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from raydistill.cli import app
from toys.checkpoint import save_student
from toys.terminal import hear_ctrl_c

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

JOB = """
name: tiny
description: A few steps of masked words
storage: {storage}
scaling: {{num_workers: 1, cpus_per_worker: 1, data_cpus: 1}}
stages:
  corpus:
    kind: binarize
    source: {{name: text, path: texts/*.txt, unit: line}}
    encoding: {{name: mlm, max_length: 16}}
    tokenizer: model
    validation: 0.25
  adapt:
    kind: train
    corpus: corpus
    method: finetune
    student: {{init: checkpoint, checkpoint: model}}
    training: {{max_steps: 4, batch_size: 4, micro_batch_size: 4, logging_steps: 1, eval_steps: null, zero_stage: 0}}
    optimizer: {{learning_rate: 1.0e-3}}
"""


@dataclass(frozen=True)
class Head:
    """A running Ray head."""

    address: str
    token: str
    folder: Path
    logs: Path
    """What Ray writes of its own."""


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, and nothing else."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for each in started:
        if each.is_running():
            each.kill()
    psutil.wait_procs(started, timeout=20)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray head of 4 logical CPUs, with a token, of this module alone."""
    token, (port, dashboard, client_port, agent) = secrets.token_hex(32), free_ports(4)
    folder = tmp_path_factory.mktemp("cluster")
    log = folder / "head.log"
    # The default folder for temporary files makes paths that are too long for sockets.
    with tempfile.TemporaryDirectory(prefix="rd", dir="/tmp") as temporary:
        options = {
            "node-ip-address": "127.0.0.1",
            "port": port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "ray-client-server-port": client_port,
            # By default one port, which another Ray of the machine may have.
            "dashboard-agent-listen-port": agent,
            "temp-dir": temporary,
            "num-cpus": 4,
            "object-store-memory": 150_000_000,
        }
        # As in an activated environment: the entrypoint's python is the one that Ray runs with.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "OMP_NUM_THREADS": "1", "PATH": path}
        process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            env={**environment(), **variables},
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            logs = Path(temporary) / "session_latest" / "logs"
            head = Head(f"http://127.0.0.1:{dashboard}", token, folder, logs)
            wait_for(lambda: process.poll() is not None or command(head, "status").exit_code == 0, "job API", log=log)
            assert process.poll() is None, log.read_text(encoding="utf-8")
            yield head
        finally:
            end(process)


def leads_elsewhere(name: str) -> bool:
    """Whether a variable may lead to another cluster, its token or a proxy."""
    return name.startswith("RAY_") or "proxy" in name.lower()


def environment() -> dict[str, str]:
    """This process's variables without those that lead elsewhere."""
    return {
        key: value for key, value in os.environ.items() if not key.startswith("RAY_") and "proxy" not in key.lower()
    }


def command(head: Head, *arguments: object, **variables: str) -> Result:
    """Run a command of raydistill in this process, by default with the token."""
    kept = {name: None for name in os.environ if leads_elsewhere(name)}
    variables = variables or {"RAY_AUTH_TOKEN": head.token}
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, [*words, "--address", head.address], env={**kept, **variables})


def start(head: Head, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command of raydistill as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "raydistill", *arguments, "--address", head.address],
        cwd=folder,
        env={**environment(), "RAY_AUTH_TOKEN": head.token, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_ctrl_c,
    )


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 120, log: Path | None = None) -> None:
    """Ask until a function says yes; when it does not in time, tell what stands in the log."""
    deadline = time.monotonic() + seconds
    while not condition():
        told = "" if log is None else log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, f"no {what} after {seconds} s\n{told}"
        time.sleep(0.5)


def wait_for_success(head: Head, job_id: str) -> None:
    """Wait for the end of a job, which must be a good one."""
    wait_for(lambda: "status: running" not in command(head, "status", job_id).output, "end of the job")
    status = command(head, "status", job_id).output
    assert "status: succeeded" in status, status + command(head, "logs", job_id).output


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """What a process prints up to the first line with a pattern."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError(f"no {pattern!r} in:\n{''.join(lines)}")


@pytest.fixture(scope="module")
def project(head: Head) -> Path:
    """A folder with a job, its texts and its model, as a user has it."""
    folder = head.folder / "project"
    (folder / "texts").mkdir(parents=True)
    for number in range(2):
        lines = [f"w{5 + (line + number) % 20} w{6 + line % 10} w{7 + line % 5} " * 5 + "\n" for line in range(24)]
        (folder / "texts" / f"{number}.txt").write_text("".join(lines), encoding="utf-8")
    save_student(folder / "model")
    (folder / "tiny.yaml").write_text(JOB.format(storage=head.folder / "runs"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def left_alone(head: Head, project: Path) -> str:
    """The id of a job whose submitting process was killed as soon as the job wrote something."""
    client = start(head, project, "submit", "tiny.yaml", "--upload")
    try:
        shown = read_until(client, "corpus: started")
    finally:
        client.kill()
        client.wait()
    found = re.search(r"submitted (tiny-\S+)", shown)
    assert found is not None
    return found.group(1)


@pytest.mark.core
def test_a_job_goes_on_without_the_process_that_submitted_it(head: Head, left_alone: str) -> None:
    assert "status: running" in command(head, "status", left_alone).output
    wait_for_success(head, left_alone)
    written = command(head, "logs", left_alone).output
    assert "adapt: finished" in written
    assert list((head.folder / "runs" / "tiny").glob("adapt-*/student/model.safetensors"))


def test_a_resumed_job_skips_what_is_finished_and_is_followed_to_its_end(head: Head, left_alone: str) -> None:
    wait_for_success(head, left_alone)
    done = command(head, "resume", left_alone)
    assert done.exit_code == 0, done.output
    assert "adapt: finished before, skipped" in done.output


def test_the_command_ends_as_the_job_does_and_no_log_has_its_variables(
    head: Head, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    gone = f"corpus.source.path={project}/gone/*.txt"
    secret = f"TOY_PASSWORD={secrets.token_hex(16)}"
    failed = command(head, "submit", "tiny.yaml", gone, "name=broken", "--shared", project, "--env", secret)
    assert failed.exit_code == 2, failed.output
    assert "which matches no file" in failed.output
    assert re.search(r"broken-\S+ failed, exit status 2", failed.output)
    value = secret.partition("=")[2].encode()
    written = [path for path in head.logs.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if value in path.read_bytes()]


def test_a_job_that_is_followed_no_more_runs_until_it_is_stopped(
    head: Head, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    job = ["submit", "tiny.yaml", "--upload", "name=endless", "training.max_steps=100000"]
    submitted = command(head, *job, "--no-wait")
    job_id = submitted.output.splitlines()[0].removeprefix("submitted ")
    assert f"raydistill stop {job_id} --address {head.address}" in submitted.output
    follower = start(head, project, "logs", job_id, "--follow")
    read_until(follower, r"step \d+")
    follower.send_signal(signal.SIGINT)
    told, _ = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert f"{job_id} goes on without this terminal" in told
    assert "status: running" in command(head, "status", job_id).output
    refused = command(head, *job)
    assert refused.exit_code == 2
    assert f"endless is already running as {job_id}" in refused.output
    stopped = command(head, "stop", job_id)
    assert stopped.exit_code == 0
    assert f"{job_id} is stopped; continue it: raydistill resume {job_id}" in stopped.output
    assert "interrupted; the same command again continues" in command(head, "logs", job_id).output
    assert "had ended before: stopped" in command(head, "stop", job_id).output


def test_a_missing_and_a_wrong_token_are_explained_in_one_line(head: Head, tmp_path: Path) -> None:
    nobody = {"HOME": str(tmp_path)}
    missing = command(head, "status", **nobody)
    assert missing.exit_code == 2
    assert re.fullmatch(r"there is no token .* `ray get-auth-token --generate`.*\n", missing.output)
    off = command(head, "status", **nobody, RAY_AUTH_MODE="disabled")
    assert off.exit_code == 2
    assert re.fullmatch(r".* asks for a token \(401\) .*\n", off.output)
    wrong = command(head, "status", **nobody, RAY_AUTH_TOKEN="0" * 64)
    assert wrong.exit_code == 2
    assert re.fullmatch(r".* does not take this token \(403\).*\n", wrong.output)


def test_an_unknown_job_is_told_in_one_line(head: Head) -> None:
    for arguments in (["status", "no-such"], ["logs", "no-such"], ["logs", "no-such", "-f"], ["stop", "no-such"]):
        done = command(head, *arguments)
        assert done.exit_code == 2, done.output
        assert re.fullmatch(r"there is no job 'no-such' at .*; `raydistill status` lists .*\n", done.output)

"""What Ctrl-C does to a command."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydistill.job import run as job_run
from raydistill.training.checkpoint_store import checkpoint_path
from raydistill.training.history import append_history
from raydistill.training.trainer import CHECKPOINTS, interruption

COMMAND = """
import signal, time, typer
from raydistill.commands.reporting import reported

def command():
    with reported(debug=False, resume="the same command again goes on"):
        try:
            print("works", flush=True)
            time.sleep(60)
        finally:
            print("ends", flush=True)
            time.sleep({seconds_to_end})

# A shell has its background processes ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
typer.run(command)
"""


def interrupted(seconds_to_end: float, *, times: int, errors: int) -> tuple[int, str, float]:
    """Exit status and piped errors of a command that gets Ctrl-C so often, and how long it took after the first."""
    text = COMMAND.format(seconds_to_end=seconds_to_end)
    command = [sys.executable, "-c", text]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ends\n"
        if times > 1:
            process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=50)
    return process.returncode, told, time.monotonic() - start


def everything_read(terminal: int) -> str:
    """What was written to a pseudo-terminal that no process holds open any more."""
    read = b""
    try:
        while part := os.read(terminal, 1000):
            read += part
    except OSError:
        pass  # how Linux tells that the other side is closed
    os.close(terminal)
    return read.decode()


def test_the_first_one_ends_what_runs_and_tells_how_to_go_on() -> None:
    status, told, _ = interrupted(0.1, times=1, errors=subprocess.PIPE)
    assert (status, told) == (130, "interrupted; the same command again goes on\n")


def test_a_second_one_leaves_at_once_as_a_terminal_was_told() -> None:
    reading, terminal = pty.openpty()
    status, _, seconds = interrupted(40, times=2, errors=terminal)
    os.close(terminal)
    shown = everything_read(reading)
    assert status == 130
    assert seconds < 20
    assert shown.startswith("stopping; Ctrl-C again leaves at once")
    assert shown.endswith("\x1b[?25h"), "the cursor that a bar hides is shown again"


@pytest.mark.parametrize(
    ("checkpoints", "told"),
    [
        ([10, 20], "interrupted after step 27, goes on from the checkpoint of step 20: 7 steps or a few more are lost"),
        ([], "interrupted after step 27, starts anew, without a checkpoint: 27 steps or a few more are lost"),
    ],
)
def test_an_interrupted_training_says_how_many_steps_are_lost(
    tmp_path: Path, checkpoints: list[int], told: str
) -> None:
    for step in (0, 10, 27):
        append_history(tmp_path, step, {"train/loss": 1.0})
    for step in checkpoints:
        folder = checkpoint_path(tmp_path / CHECKPOINTS, step)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"files": {}}))
    assert interruption(str(tmp_path)) == told


def test_a_job_tells_it_of_the_trainings_that_run(tmp_path: Path) -> None:
    for name in ("teacher", "student"):
        (tmp_path / name).mkdir()
    append_history(tmp_path / "student", 4, {"train/loss": 1.0})
    records: Any = {name: SimpleNamespace(output=tmp_path / name) for name in ("teacher", "student")}
    echoed: list[str] = []
    runner: Any = SimpleNamespace(training={"student"}, records=records, echo=echoed.append)
    with pytest.raises(KeyboardInterrupt), job_run._told_of_interruption(runner):
        raise KeyboardInterrupt
    assert echoed == [
        "student: interrupted after step 4, starts anew, without a checkpoint: 4 steps or a few more are lost"
    ]

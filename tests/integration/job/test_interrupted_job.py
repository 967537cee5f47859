"""Interrupted with real signals and started again, a job ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


def start(job: str, storage: Path, log: Path) -> subprocess.Popen[bytes]:
    """``raydistill run`` in a process group of its own, as a terminal starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [
        sys.executable,
        "-c",
        "from raydistill.cli import main; main()",
        "run",
        job,
        f"storage={storage}",
        "--json",
    ]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def run_to_the_end(job: str, storage: Path, log: Path) -> tuple[dict[str, Any], float]:
    """The job's result and the seconds it took."""
    began = time.monotonic()
    begin = log.stat().st_size if log.exists() else 0
    process = start(job, storage, log)
    status = process.wait(timeout=1500)
    output = log.read_bytes()[begin:].decode(errors="replace")
    assert status == 0, output[-3000:]
    return json.loads(output[output.index("\n{\n") :]), time.monotonic() - began


def interrupt(job: str, storage: Path, log: Path, *, after_s: float, with_signal: signal.Signals) -> int:
    """Start the job, send the signal after some seconds, and return the exit status."""
    process = start(job, storage, log)
    try:
        return process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, with_signal)
        return process.wait(timeout=120)


def tables(result: dict[str, Any]) -> Any:
    """What the evaluation found, without its paths."""
    return result["stages"]["evaluate"]["groups"]


def wait_for(path: Path, pattern: str, *, timeout_s: float = 240) -> None:
    end = time.monotonic() + timeout_s
    while not list(path.glob(pattern)):
        assert time.monotonic() < end, f"{pattern} did not appear below {path}"
        time.sleep(0.1)


def test_ctrl_c_in_a_training_exits_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start("smoke/causal", tmp_path / "runs", log)
    wait_for(tmp_path / "runs", "smoke-causal/distill-*/history.jsonl")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 130
    assert "the same command again continues where it stopped" in log.read_text(encoding="utf-8")
    result, _ = run_to_the_end("smoke/causal", tmp_path / "runs", log)
    assert result["stages"]["corpus"]["skipped"]
    assert not result["stages"]["distill"]["skipped"]


@pytest.mark.long
def test_the_demo_interrupted_at_five_random_moments_ends_with_the_same_table(tmp_path: Path) -> None:
    log = tmp_path / "log"
    undisturbed, seconds = run_to_the_end("demo", tmp_path / "undisturbed", log)
    draw = random.Random(0)
    signals = [signal.SIGINT, signal.SIGINT, signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
    statuses = []
    for with_signal in signals:
        # Early enough that five interruptions fit into what is left of the work.
        after_s = draw.uniform(0.05, 0.4) * seconds
        statuses.append(interrupt("demo", tmp_path / "disturbed", log, after_s=after_s, with_signal=with_signal))
    assert statuses == [130, 130, -9, 130, -9]
    disturbed, _ = run_to_the_end("demo", tmp_path / "disturbed", log)
    assert tables(disturbed) == tables(undisturbed)

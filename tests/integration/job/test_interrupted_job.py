"""Interrupted with real signals and started again, a job ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.data.corpus import tokenizer_hash
from raydistill.models.load import save_model
from raydistill.training.history import read_history
from toys.checkpoint import toy_tokenizer
from toys.corpus import random_rows, write_corpus
from toys.models import toy_distilbert
from toys.terminal import start_raydistill


def start(job: str, storage: Path, log: Path) -> subprocess.Popen[bytes]:
    """``raydistill run``, whose result is the end of the log."""
    return start_raydistill("run", job, f"storage={storage}", "--json", output=log)


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


def toy_job(folder: Path) -> Path:
    """A job of one training that lasts long enough to be interrupted."""
    files = {}
    toy_tokenizer().save_pretrained(folder / "tokenizer")
    for path in (folder / "tokenizer").iterdir():
        files[path.name] = path.read_bytes()
    options = {"tokenizer_hash": tokenizer_hash(toy_tokenizer()), "tokenizer_files": files}
    write_corpus(folder / "corpus" / "train", random_rows(90), **options)
    write_corpus(folder / "corpus" / "validation", random_rows(20, seed=1), **options)
    save_model(toy_distilbert(2, dtype=torch.float32), toy_tokenizer(), folder / "model")
    training = {"max_steps": 400, "batch_size": 8, "logging_steps": 1, "save_steps": 20, "eval_steps": 400}
    stage = {
        "kind": "train",
        "corpus": str(folder / "corpus"),
        "method": "finetune",
        "student": {"init": "checkpoint", "checkpoint": str(folder / "model")},
        "training": {**training, "num_epochs": 1000},
    }
    job = folder / "toy.yaml"
    job.write_text(json.dumps({"name": "toy", "stages": {"train": stage}}), encoding="utf-8")
    return job


@pytest.mark.long
def test_ctrl_c_in_a_training_exits_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    log, job = tmp_path / "log", str(toy_job(tmp_path))
    process = start(job, tmp_path / "runs", log)
    wait_for(tmp_path / "runs", "toy/train-*/checkpoints/checkpoint_*")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 130
    assert "the same command again continues where it stopped" in log.read_text(encoding="utf-8")
    [output] = (tmp_path / "runs" / "toy").glob("train-*")
    interrupted_at = read_history(output)[-1]["step"]
    result, _ = run_to_the_end(job, tmp_path / "runs", log)
    assert 0 < interrupted_at < 400
    assert "train: continuing" in log.read_text(encoding="utf-8")
    assert result["stages"]["train"]["summary"]["step"] == 400
    trained = [record["step"] for record in read_history(output) if "train/loss" in record]
    assert trained == list(range(1, 401))


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

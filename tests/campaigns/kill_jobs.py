"""A job of two workers, an evaluation and a registration, killed at random moments and started again.

``python tests/campaigns/kill_jobs.py --kills 100 --seed 7``; a kill takes about a minute. Each job meets
``--kills-per-job`` kills of a worker, the driver, the tracker or the raylet, and then runs to its end. Compared with a
job that nobody disturbed: the tokens that each step had read (equal, so that no row is lost or taken twice), the losses
(to 1e-6 of each, as two workers sum in another order after a restart), the evaluation's figures and the registry.
"""

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import torch

from raydistill.data.corpus import tokenizer_hash
from raydistill.models.load import save_model
from raydistill.training.history import read_history
from toys.checkpoint import toy_tokenizer
from toys.corpus import random_rows, write_corpus
from toys.models import toy_distilbert

TARGETS = {"worker": "RayTrainWorker", "tracker": "TrackerActor", "raylet": "raylet/raylet", "driver": ""}
"""Processes that are killed, and what their command lines hold; the driver is the command itself."""
FORBIDDEN = ("steps differ", "tokens differ", "losses differ", "evaluation differs", "registry differs", "not finished")
_RELATIVE = 1e-6
_END_S = 900


def main() -> int:
    """Kill and compare, and tell the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-per-job", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rng, found = random.Random(options.seed), Counter[str]()
    killed, seconds = Counter[str](), list[float]()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        root = Path(name)
        job = write_job(root)
        undisturbed, whole_s = _finished(job, root / "undisturbed")
        if undisturbed is None:
            raise RuntimeError((root / "undisturbed.log").read_text(encoding="utf-8", errors="replace")[-3000:])
        while killed.total() < options.kills:
            storage = root / f"disturbed-{len(seconds)}"
            began = time.monotonic()
            for _ in range(min(options.kills_per_job, options.kills - killed.total())):
                killed[_kill_once(job, storage, rng, whole_s)] += 1
            disturbed, _ = _finished(job, storage)
            seconds.append(time.monotonic() - began)
            problems = ["not finished"] if disturbed is None else differences(undisturbed, disturbed)
            found.update(problems or ["equal"])
            if problems:
                sys.stderr.write(f"{json.dumps({'job': len(seconds), 'problems': problems})}\n")
    times = {"undisturbed_s": round(whole_s, 1), "disturbed_s": round(sum(seconds) / len(seconds), 1)}
    for outcome in ("equal", *FORBIDDEN):
        line = {"campaign": "kills", "outcome": outcome, "count": found[outcome], "allowed": outcome not in FORBIDDEN}
        sys.stdout.write(f"{json.dumps({**line, 'kills': dict(killed), 'jobs': len(seconds), **times})}\n")
    return int(any(found[outcome] for outcome in FORBIDDEN))


def write_job(folder: Path) -> Path:
    """A training of two workers over several epochs, an evaluation of its student and a registration."""
    toy_tokenizer().save_pretrained(folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    options = {"tokenizer_hash": tokenizer_hash(toy_tokenizer()), "tokenizer_files": files}
    write_corpus(folder / "corpus" / "train", random_rows(90), **options)
    write_corpus(folder / "corpus" / "validation", random_rows(20, seed=1), **options)
    save_model(toy_distilbert(2, dtype=torch.float32), toy_tokenizer(), folder / "model")
    corpus = str(folder / "corpus")
    training = {"max_steps": 60, "num_epochs": 1000, "batch_size": 8, "micro_batch_size": 4}
    train = {
        "kind": "train",
        "corpus": corpus,
        "method": "finetune",
        "student": {"init": "checkpoint", "checkpoint": str(folder / "model")},
        "training": {**training, "logging_steps": 1, "save_steps": 10, "eval_steps": 30},
    }
    evaluate = {"kind": "evaluate", "corpus": corpus, "models": {"student": "train"}}
    register = {"kind": "register", "model": "train", "name": "killed", "evaluation": "evaluate"}
    scaling = {"num_workers": 2, "cpus_per_worker": 1, "data_cpus": 1}
    stages = {"train": train, "evaluate": evaluate, "register": register}
    job = folder / "job.yaml"
    job.write_text(json.dumps({"name": "kills", "scaling": scaling, "stages": stages}), encoding="utf-8")
    return job


def _start(job: Path, storage: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "raydistill", "run", str(job), f"storage={storage}"]
    with storage.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _kill_once(job: Path, storage: Path, rng: random.Random, whole_s: float) -> str:
    """Start the job and kill one of its processes after a random time; returns which, or that none was there."""
    target = rng.choice(list(TARGETS))
    process = _start(job, storage)
    moment = time.monotonic() + rng.uniform(0.05, 0.9) * whole_s
    while process.poll() is None:
        family = _family(process)
        chosen = [one for one in family if TARGETS[target] in _command(one)] if target != "driver" else family[:1]
        if time.monotonic() >= moment and chosen:
            rng.choice(chosen).kill()
            _wait(process, family)
            return target
        time.sleep(0.1)
    # The job was over first.
    return f"{target}, too late"


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The driver, and every process below it."""
    try:
        driver = psutil.Process(process.pid)
        return [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _wait(process: subprocess.Popen[bytes], family: list[psutil.Process]) -> None:
    """Wait for the end of the driver, which may go on, and of all that it had started."""
    try:
        process.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    for one in alive:
        one.kill()


def _finished(job: Path, storage: Path) -> tuple[dict[str, Any] | None, float]:
    """What a job left that ran to its end, None where it did not; and the seconds that this took."""
    began = time.monotonic()
    process = _start(job, storage)
    family = _family(process)
    while process.poll() is None and time.monotonic() - began < _END_S:
        family = _family(process) or family
        time.sleep(0.5)
    _wait(process, family)
    return (left_by(storage) if process.returncode == 0 else None), time.monotonic() - began


def left_by(storage: Path) -> dict[str, Any]:
    """The history of the training, the evaluation's figures, and what the registry has."""
    (trained,) = (storage / "kills").glob("train-*")
    (evaluated,) = (storage / "kills").glob("evaluate-*")
    entries = json.loads((evaluated / "stage.json").read_text(encoding="utf-8"))["summary"]["entries"]
    figures = [entry["figures"] for entry in entries]
    return {"history": read_history(trained), "figures": figures, "registry": _registry(storage)}


def _registry(storage: Path) -> list[Any]:
    """Every version with its alias, and whether its weights can be read."""
    import mlflow

    (database,) = storage.rglob("*.db")
    client = mlflow.MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")
    found = []
    for version in client.search_model_versions("name='killed'"):
        model = client.get_registered_model("killed")
        weights = list(storage.rglob("*.safetensors"))
        found.append((version.version, version.status, dict(model.aliases), sorted(version.tags), bool(weights)))
    return found


def differences(undisturbed: dict[str, Any], disturbed: dict[str, Any]) -> list[str]:
    """How a job that was disturbed differs from one that was not."""
    before, after = undisturbed["history"], disturbed["history"]
    if [line["step"] for line in before] != [line["step"] for line in after]:
        return ["steps differ"]
    pairs = list(zip(before, after, strict=True))
    found = []
    if any(one.get("progress/tokens") != other.get("progress/tokens") for one, other in pairs):
        found.append("tokens differ")
    if not all(_close(one.get("train/loss"), other.get("train/loss")) for one, other in pairs):
        found.append("losses differ")
    if not _close(undisturbed["figures"], disturbed["figures"]):
        found.append("evaluation differs")
    return [*found, *(["registry differs"] if undisturbed["registry"] != disturbed["registry"] else [])]


def _close(one: Any, other: Any) -> bool:
    """Whether plain data are equal, numbers nearly."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_RELATIVE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return bool(one == other)


if __name__ == "__main__":
    sys.exit(main())

"""A job of two workers, an evaluation and a registration, killed at random moments and started again.

``python tests/campaigns/kill_jobs.py --kills 100 --seed 7``. Each job meets up to ``--kills-per-job`` kills of a
worker, the driver, the tracker or the raylet, is started again whenever it ended in failure, and runs to its end. A
kill counts when the process was there and the job's last stage was not finished. Compared with a job that nobody
disturbed: the tokens that each step had read (equal, so that no row is lost or taken twice), what is tracked of each
step, the losses, the evaluation's figures, and the registered model, which is downloaded and asked for logits.
Each kill and each job prints one line at once. ``--first`` continues with a later job; a job's number and the seed
decide its moments.
"""

import argparse
import itertools
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
from raydistill.models.load import load_model, save_model
from raydistill.registry.client import Registry
from raydistill.tracking.opening import open_client
from raydistill.training.history import read_history
from toys.checkpoint import toy_tokenizer
from toys.corpus import random_rows, write_corpus
from toys.models import toy_distilbert

TARGETS = {"worker": "ray::RayTrainWorker", "tracker": "ray::TrackerActor", "raylet": "raylet/raylet", "driver": ""}
"""Processes that are killed, and what their command lines hold; the driver is the command itself."""
FORBIDDEN = (
    "steps differ",
    "tokens differ",
    "losses differ",
    "tracking differs",
    "evaluation differs",
    "registry differs",
    "logits differ",
    "failed without a kill",
    "not finished",
)
_RELATIVE = 1e-6
_END_S = 1800
_AT_ANY_TIME, _LATEST_S = 1 / 3, 45
"""This share of the kills comes at most so long after the start or the kill before, or once the process is there."""
_MOST_STEPS, _AFTER_S = 40, 12
"""The others come after at most so many further steps, or so long after the training: a start takes most of the time,
and a job that is killed in every one would never be killed elsewhere."""
_SEEN_S = 0.2
_TIMED = ("latency_ms", "latency_spread_ms", "batch_latency_ms", "batch_latency_spread_ms")
"""Figures that no two evaluations have in common."""
_SAYS_TIMES = ("figures", "run", "job")
"""Tags whose text may differ between two runs of one job."""


def main() -> int:
    """Kill and compare, and tell the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-per-job", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--first", type=int, default=0, help="Number of the first job.")
    options = parser.parse_args()
    found, killed, disturbed_s = Counter[str](), Counter[str](), list[float]()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        root = Path(name)
        job = write_job(root)
        undisturbed, whole_s = _undisturbed(job, root / "undisturbed-0")
        for number in itertools.count(options.first):
            if killed.total() >= options.kills:
                break
            rng = random.Random(f"{options.seed} {number}")
            most = min(options.kills_per_job, options.kills - killed.total())
            one = Disturbed(job, root / f"disturbed-{number}", rng, most)
            problems = one.run()
            left = {} if problems else left_by(one.storage)
            problems = problems or differences(undisturbed, left)
            found.update(problems or ["equal"])
            killed += one.killed
            disturbed_s.append(one.seconds)
            _tell(
                job=number,
                problems=problems,
                kills=one.killed,
                restarts=one.restarts,
                seconds=round(one.seconds, 1),
                tracked_twice=left.get("twice"),
            )
            if problems:
                sys.stderr.write(
                    (one.storage.with_suffix(".log")).read_text(encoding="utf-8", errors="replace")[-6000:]
                )
        again, again_s = _undisturbed(job, root / "undisturbed-1")
        found.update(f"undisturbed: {problem}" for problem in differences(undisturbed, again))
    times = {
        "undisturbed_s": [round(whole_s, 1), round(again_s, 1)],
        "disturbed_s": round(sum(disturbed_s) / len(disturbed_s), 1),
    }
    for outcome in dict.fromkeys(["equal", *FORBIDDEN, *found]):
        line = {"campaign": "kills", "outcome": outcome, "count": found[outcome], "allowed": outcome == "equal"}
        _tell(**line, kills=killed, jobs=len(disturbed_s), **times)
    return int(found.total() > found["equal"])


def _tell(**line: Any) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def _undisturbed(job: Path, storage: Path) -> tuple[dict[str, Any], float]:
    """What a job left that nothing was done to, and the seconds that it took."""
    one = Disturbed(job, storage, random.Random(0), 0)
    if problems := one.run():
        raise RuntimeError(f"{problems}: {storage.with_suffix('.log').read_text(encoding='utf-8')[-3000:]}")
    _tell(job=storage.name, seconds=round(one.seconds, 1))
    return left_by(storage), one.seconds


def write_job(folder: Path) -> Path:
    """A training of two workers over several epochs, an evaluation of its student and a registration."""
    toy_tokenizer().save_pretrained(folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    options = {"tokenizer_hash": tokenizer_hash(toy_tokenizer()), "tokenizer_files": files}
    write_corpus(folder / "corpus" / "train", random_rows(90), **options)
    write_corpus(folder / "corpus" / "validation", random_rows(20, seed=1), **options)
    save_model(toy_distilbert(2, dtype=torch.float32), toy_tokenizer(), folder / "model")
    corpus = str(folder / "corpus")
    training = {"max_steps": 120, "max_failures": 3, "num_epochs": 1000, "batch_size": 8, "micro_batch_size": 4}
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


class Disturbed:
    """One job in a storage of its own, and what happens to it."""

    def __init__(self, job: Path, storage: Path, rng: random.Random, most: int) -> None:
        self._job, self.storage, self._rng, self._most = job, storage, rng, most
        self.killed, self.restarts, self.seconds = Counter[str](), 0, 0.0
        self._began, self._target, self._moment, self._step = 0.0, "", 0.0, 0

    def run(self) -> list[str]:
        """Run to the end, through all kills; returns why it did not come there."""
        self._began = time.monotonic()
        while True:
            status, hit = self._once()
            self.seconds = time.monotonic() - self._began
            if status == 0:
                return []
            if self.seconds > _END_S:
                return ["not finished"]
            if not hit:
                return ["failed without a kill"]
            self.restarts += 1

    def _once(self) -> tuple[int | None, bool]:
        """Start the job once and kill until it ends; returns its exit status, and whether a kill hit it."""
        process, family, hit = _start(self._job, self.storage), list[psutil.Process](), False
        self._draw()
        while process.poll() is None and time.monotonic() - self._began <= _END_S:
            family = _family(process) or family
            if self.killed.total() < self._most and self._is_due() and self._kill(family):
                hit = True
                self._draw()
            time.sleep(_SEEN_S)
        _wait(process, family)
        return process.returncode, hit

    def _draw(self) -> None:
        """Draw what is killed next, and when: at any time, or once the training has made some of its steps."""
        self._target = self._rng.choice(list(TARGETS))
        seconds, steps = self._rng.uniform(0, _LATEST_S), self._rng.randint(1, _MOST_STEPS)
        at_any_time = self._rng.random() < _AT_ANY_TIME
        self._moment = time.monotonic() + (seconds if at_any_time else 0)
        self._step = 0 if at_any_time else _steps(self.storage) + steps

    def _is_due(self) -> bool:
        if self._step and _is_over(self.storage, "train"):
            # There are no further steps, but the evaluation and the registration.
            self._step, self._moment = 0, time.monotonic() + self._rng.uniform(0, _AFTER_S)
            self._target = self._rng.choice([target for target in TARGETS if target != "worker"])
        return time.monotonic() >= self._moment and _steps(self.storage) >= self._step

    def _kill(self, family: list[psutil.Process]) -> bool:
        """Kill such a process, if one is there and the job still has something to do; returns whether it was so."""
        target = self._target
        chosen = [one for one in family if TARGETS[target] in _command(one)] if target != "driver" else family[:1]
        if not chosen or _is_over(self.storage):
            return False
        done = [stage for stage in ("train", "evaluate") if _is_over(self.storage, stage)]
        self._rng.choice(chosen).kill()
        self.killed[target] += 1
        at = round(time.monotonic() - self._began, 1)
        _tell(killed=target, storage=self.storage.name, at_s=at, finished=done, steps=_steps(self.storage))
        return True


def _is_over(storage: Path, stage: str = "register") -> bool:
    """Whether a stage is finished."""
    return any((storage / "kills").glob(f"{stage}-*/stage.json"))


def _steps(storage: Path) -> int:
    """Lines of the history so far."""
    return sum(path.read_bytes().count(b"\n") for path in (storage / "kills").glob("train-*/history.jsonl"))


def _start(job: Path, storage: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "raydistill", "run", str(job), f"storage={storage}"]
    with storage.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


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
    """Wait for the end of all that the driver had started, and end what stays."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    for one in alive:
        one.kill()


def left_by(storage: Path) -> dict[str, Any]:
    """The history of the training, the evaluation's figures, what is tracked, and what the registry has."""
    (trained,) = (storage / "kills").glob("train-*")
    (evaluated,) = (storage / "kills").glob("evaluate-*")
    entries = json.loads((evaluated / "stage.json").read_text(encoding="utf-8"))["summary"]["entries"]
    figures = [{name: one for name, one in entry["figures"].items() if name not in _TIMED} for entry in entries]
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    tracked, twice = _tracked(uri)
    registry, logits = _registry(uri)
    history = read_history(trained)
    found = {"history": history, "figures": figures, "tracked": tracked, "twice": twice}
    return {**found, "registry": registry, "logits": logits}


def _tracked(uri: str) -> tuple[dict[str, Any], int]:
    """Statuses of the runs by name, with the steps and values of each of their metrics; and the points there twice.

    A training that goes on from its latest checkpoint tracks the steps since then again, which must be equal.
    """
    client = open_client(uri)
    found: dict[str, Any] = {}
    twice = 0
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            lines = {}
            for name in run.data.metrics:
                if "speed/" not in name and not name.endswith(_TIMED):
                    points = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
                    lines[name] = [list(point) for point in sorted({*points})]
                    twice += len(points) - len(lines[name])
            found.setdefault(run.info.run_name, []).append([run.info.status, lines])
    return found, twice


def _registry(uri: str) -> tuple[list[Any], list[Any]]:
    """Every version with its aliases and tags, and the logits of each, loaded as a user would."""
    registry, described, logits = Registry(uri), [], []
    ids = torch.arange(5, 25)[None]
    for student in registry.students():
        for version in student.versions:
            with tempfile.TemporaryDirectory() as pulled, torch.no_grad():
                folder = Path(pulled) / "model"
                registry.pull(version, folder)
                logits.append(
                    load_model(folder, head="masked_lm", dtype=torch.float32)(input_ids=ids)
                    .logits.double()
                    .flatten()
                    .tolist()
                )
            tags = {name: text for name, text in version.tags.items() if name not in _SAYS_TIMES}
            described.append([student.name, version.number, list(version.aliases), tags])
    return described, logits


_COMPARED = {
    "tracked": "tracking differs",
    "figures": "evaluation differs",
    "registry": "registry differs",
    "logits": "logits differ",
}


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
    for key, problem in _COMPARED.items():
        if not _close(undisturbed[key], disturbed[key]):
            found.append(problem)
    return found


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

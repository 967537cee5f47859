"""What a small job takes from the command to its first training step, and each further training from its own start.

A job of a classifier of toy size with all that its user's own would have, without a network: a CSV file is tokenized, a
teacher is trained, a student learns from it (kd, stored outputs), and another one without it.
``first_step.seconds_first``: from the start of the command to the end of the first optimizer step of the first
training. ``first_step.seconds_further``: from the line that a further training starts to the end of its first step, the
slowest of them. ``first_step.cpu_seconds_first`` and ``first_step.cpu_seconds_further``: the time on CPUs of all the
processes of the job in these, which other programs disturb less. ``first_step.until_*`` and ``first_step.cpu_until_*``:
the parts of what comes before the first step, one after the other. Medians; a number on the command line is how many
jobs are run, else 3. Takes two minutes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from toys.reviews import write_reviews

MOST_SECONDS_FIRST = 20.0
MOST_SECONDS_FURTHER = 5.0
REPEATS = 3
_POLL_S = 0.02


def write_job(folder: Path) -> Path:
    """The job and what it reads."""
    write_reviews(folder, rows=400)
    task = {"name": "classification"}
    training = {"max_steps": 3, "batch_size": 16, "micro_batch_size": 16, "logging_steps": 1, "eval_steps": 3}
    common = {"kind": "train", "corpus": "corpus", "task": task, "training": {**training, "precision": "fp32"}}
    model = {"checkpoint": str(folder / "base"), "head": "new"}
    small = {"init": "layers", "checkpoint": model, "layers": [0, 4]}
    source = {"name": "delimited", "path": str(folder / "reviews.csv"), "text": "review"}
    label = {"column": "stars", "threshold": 3, "names": ["bad", "good"]}
    stages = {
        "corpus": {
            "kind": "binarize",
            "source": {**source, "label": label},
            "encoding": {"name": "classification", "labels": label["names"], "max_length": 32},
            "tokenizer": {"checkpoint": str(folder / "base")},
            "validation": 0.1,
        },
        "teacher": {**common, "method": "finetune", "student": {"init": "checkpoint", "checkpoint": model}},
        "distill": {**common, "method": "kd", "teachers": ["teacher"], "student": small},
        "alone": {**common, "method": "finetune", "student": small},
    }
    scaling = {"num_workers": 1, "cpus_per_worker": 1, "data_cpus": 1}
    job = folder / "small.yaml"
    job.write_text(json.dumps({"name": "small", "storage": str(folder / "runs"), "scaling": scaling, "stages": stages}))
    return job


@dataclass
class Moments:
    """Wall and CPU seconds of a job at each of its lines, and at the first step of each training."""

    process: Any
    start: float
    found: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, name: str) -> None:
        """Note a moment by its name, once."""
        if name not in self.found:
            self.found[name] = time.perf_counter() - self.start, cpu_seconds(self.process)

    def follow(self, lines: Iterator[str]) -> None:
        """Note the moments of lines as they come."""
        for line in lines:
            sys.stderr.write(f"{time.perf_counter() - self.start:6.1f}  {line}")
            stage, _, rest = line.strip().partition(": ")
            if rest == "valid":
                self.take("checked")
            if rest.startswith(("started", "finished")):
                self.take(f"{stage} {rest.split()[0]}")

    def watch(self, runs: Path) -> None:
        """Note the first step of each training until the job ends."""
        while self.process.poll() is None:
            for history in runs.glob("small/*/history.jsonl"):
                if '"train/loss"' in history.read_text():
                    self.take(f"{history.parent.name.partition('-')[0]} stepped")
            time.sleep(_POLL_S)


def cpu_seconds(process: Any) -> float:
    """Seconds on CPUs of a process and of all below it, the ended ones that were waited for included."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def run(job: Path) -> dict[str, tuple[float, float]]:
    """Moments of one run of the job, from nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-u", "-m", "raydistill", "run", str(job)]
    start = time.perf_counter()
    with psutil.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        moments = Moments(process, start)
        reader = threading.Thread(target=moments.follow, args=(process.stdout,))
        reader.start()
        moments.watch(job.parent / "runs")
        reader.join()
        assert process.wait() == 0, "the job failed"
    moments.found["ended"] = time.perf_counter() - start, float("nan")
    return moments.found


def figures(runs: list[dict[str, tuple[float, float]]]) -> Iterator[dict[str, Any]]:
    """The figures of several runs, medians."""

    def of(name: str, part: int, since: str = "") -> float:
        return statistics.median(run[name][part] - (run[since][part] if since else 0.0) for run in runs)

    further = ["distill", "alone"]
    seconds = {
        "seconds_first": (of("teacher stepped", 0), MOST_SECONDS_FIRST),
        "seconds_further": (max(of(f"{one} stepped", 0, f"{one} started") for one in further), MOST_SECONDS_FURTHER),
        "cpu_seconds_first": (of("teacher stepped", 1), None),
        "cpu_seconds_further": (max(of(f"{one} stepped", 1, f"{one} started") for one in further), None),
    }
    before = ""
    for moment in ("checked", "corpus started", "corpus finished", "teacher started", "teacher stepped"):
        name = f"until_{moment.replace(' ', '_')}"
        seconds |= {name: (of(moment, 0, before), None), f"cpu_{name}": (of(moment, 1, before), None)}
        before = moment
    for name, (value, bound) in seconds.items():
        met = None if bound is None else value <= bound
        yield {"name": f"first_step.{name}", "value": round(value, 2), "unit": "s", "bound": bound, "met": met}


def main() -> None:
    """Print the figures."""
    runs = []
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS):
        with tempfile.TemporaryDirectory() as name:
            runs.append(run(write_job(Path(name))))
    for figure in figures(runs):
        print(json.dumps(figure))  # noqa: T201


if __name__ == "__main__":
    main()

"""Trainings one after the other in a process that is kept, against those that Ray Train starts one by one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.exceptions import RayActorError
from safetensors.torch import load_file

from raydistill.training.history import read_history
from raydistill.training.kept_process import KeptProcesses
from raydistill.training.spec import TrainSpec
from raydistill.training.trainer import train
from toys.training import FileTracker, make_spec, write_inputs

NUM_STEPS, CRASH = 6, 4


class Pids(FileTracker):
    """Notes which process trains beside what it records; raises at ``fault`` what nobody foresees."""

    def __init__(self, path: Path, *, crashes: tuple[int, ...] = (), fault: int | None = None) -> None:
        super().__init__(path, crashes=crashes)
        self.fault = fault

    def _send(self, record: dict[str, Any]) -> Any:
        if record["op"] == "log_metrics" and record["step"] == self.fault:
            raise KeyError("nobody foresees this")
        with self.path.with_suffix(".pids").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        return super()._send(record)

    def pids(self) -> list[int]:
        """The processes in order, each once."""
        return list(dict.fromkeys(map(int, self.path.with_suffix(".pids").read_text(encoding="utf-8").split())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    found = tmp_path_factory.mktemp("kept")
    write_inputs(found)
    return found


@pytest.fixture(scope="module")
def processes(folder: Path) -> Iterator[KeptProcesses]:
    with KeptProcesses() as found:
        yield found


def spec_in(folder: Path, **training: Any) -> TrainSpec:
    settings = {"max_steps": NUM_STEPS, "dropout": 0.1, "zero_stage": 3, "save_steps": 2, "eval_steps": 3}
    return make_spec(folder, placement="zero3", training={**settings, "max_failures": 1, **training})


def run(
    processes: KeptProcesses, folder: Path, name: str, *, spec: TrainSpec | None = None, **options: Any
) -> tuple[Path, Pids]:
    """A training in the folder of its name; returns that and what it recorded."""
    output, tracker = folder / name, Pids(folder / f"{name}.jsonl", **options)
    output.mkdir(exist_ok=True)
    processes.train(spec or spec_in(folder), str(output), tracker, "run")
    return output, tracker


def figures(output: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in line.items() if not key.startswith("speed/")} for line in read_history(output)
    ]


@pytest.fixture(scope="module")
def first(processes: KeptProcesses, folder: Path) -> tuple[Path, Pids]:
    return run(processes, folder, "first")


def test_a_kept_process_gives_what_ray_train_gives(first: tuple[Path, Pids], folder: Path) -> None:
    output = folder / "group"
    output.mkdir()
    expected = train(spec_in(folder), str(output), FileTracker(folder / "group.jsonl"), "run")
    assert figures(first[0]) == figures(output)
    assert expected.step == NUM_STEPS
    weights, wanted = (load_file(path / "student" / "model.safetensors") for path in (first[0], output))
    assert all(weights[name].equal(wanted[name]) for name in wanted)


def test_a_loss_that_is_not_finite_is_told_in_one_line_and_the_process_is_kept(
    first: tuple[Path, Pids], processes: KeptProcesses, folder: Path
) -> None:
    wild = make_spec(folder, training={"max_steps": NUM_STEPS}, optimizer={"learning_rate": 1e30})
    with pytest.raises(ValueError, match=r"^the term .* at step \d; lower optimizer.learning_rate"):
        run(processes, folder, "wild", spec=wild)
    assert psutil.pid_exists(first[1].pids()[0])


def test_the_next_training_runs_in_the_same_process_as_if_it_were_the_first(
    first: tuple[Path, Pids], processes: KeptProcesses, folder: Path
) -> None:
    output, tracker = run(processes, folder, "second")
    assert tracker.pids() == first[1].pids() != [os.getpid()]
    assert figures(output) == figures(first[0])


def test_a_training_whose_process_is_lost_goes_on_in_another(
    first: tuple[Path, Pids], processes: KeptProcesses, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output, tracker = run(processes, folder, "lost", crashes=(CRASH,))
    assert len(tracker.pids()) == 2
    assert [line["step"] for line in tracker.steps()] == [1, 2, 3, 3, 4, 5, 6]
    assert figures(output) == figures(first[0])
    assert "worker 0 is lost; a restart goes on from the latest checkpoint" in capfd.readouterr().err


def test_a_process_that_is_lost_too_often_ends_the_training_which_the_same_call_continues(
    first: tuple[Path, Pids], processes: KeptProcesses, folder: Path
) -> None:
    once = spec_in(folder, max_failures=0)
    with pytest.raises(RayActorError):
        run(processes, folder, "ended", spec=once, crashes=(CRASH,))
    output, _ = run(processes, folder, "ended", spec=once, crashes=(CRASH,))
    assert figures(output) == figures(first[0])


def test_what_nobody_foresees_is_raised_as_it_is_and_ends_the_process(processes: KeptProcesses, folder: Path) -> None:
    tracker = Pids(folder / "unforeseen.jsonl", fault=2)
    (folder / "unforeseen").mkdir()
    with pytest.raises(KeyError, match="nobody foresees this"):
        processes.train(spec_in(folder), str(folder / "unforeseen"), tracker, "run")
    [process] = tracker.pids()
    psutil.wait_procs([psutil.Process(process)] if psutil.pid_exists(process) else [], timeout=30)
    assert not psutil.pid_exists(process)


def test_processes_end_when_they_are_left(folder: Path) -> None:
    with KeptProcesses() as found:
        _, tracker = run(found, folder, "left", spec=make_spec(folder, training={"max_steps": 1}))
        [process] = [psutil.Process(pid) for pid in tracker.pids()]
    process.wait(timeout=30)

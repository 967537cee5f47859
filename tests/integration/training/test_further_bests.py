"""A training keeps its best students by two metrics at once, and later stages read either; also when interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raydistill.config.sections import ModelRef
from raydistill.stages import _models
from raydistill.stages._base import Input
from raydistill.training.history import read_history
from raydistill.training.in_process import train_here
from raydistill.training.result import TrainResult
from toys.capture import context_of, train_stage, write_labelled

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_rank")]
CRITERIA = {"accuracy": ("eval/accuracy", max), "loss": ("eval/loss", min)}
STOP = 3


class StoppedError(Exception):
    """Raised where a training ends before its time."""


def interrupt(step: int, *_: Any) -> None:
    if step == STOP:
        raise StoppedError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, one_rank: None) -> dict[str, Path]:
    """Outputs of a training as recipes have it, and of the same that was interrupted and went on."""
    folder = tmp_path_factory.mktemp("bests")
    write_labelled(folder)
    stage = train_stage(
        folder,
        # What compares padding, in the corpus's order, so that all of a recipe's keys run.
        method={"name": "dynamic_objective", "positions": "padded", "pad_to": 40},
        training={
            "num_epochs": 1,
            "micro_batch_size": 23,
            "group_by_length": False,
            "shuffle": False,
            "eval_steps": 1,
            "save_steps": 2,
            "save_total_limit": 1,
            "metric_for_best_model": "accuracy",
            "load_best_model_at_end": True,
            "also_best": {"loss": {"metric": "eval/loss"}, "never": {"metric": "loss", "saving_criterion": -1.0}},
        },
    )
    outputs = {name: folder / name for name in ("whole", "interrupted")}
    for name, output in outputs.items():
        launches = [train_here]
        if name == "interrupted":
            launches.insert(0, lambda *given, **options: train_here(*given, **options, callback=interrupt))
        for launch in launches:
            context = context_of(stage, output, cpus_per_worker=1)
            context = type(context)(**{**vars(context), "launch": launch})
            if launch is train_here:
                stage.run(context)
            else:
                with pytest.raises(StoppedError):
                    stage.run(context)
    return outputs


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", CRITERIA)
def test_each_best_student_is_the_one_of_the_step_that_its_metric_chose(trained: dict[str, Path], name: str) -> None:
    output = trained["whole"]
    metric, best = CRITERIA[name]
    values = {line["step"]: line[metric] for line in read_history(output) if metric in line and line["step"] > 0}
    step = next(step for step, value in values.items() if value == best(values.values()))
    student = output / ("student" if name == "accuracy" else "best_loss")
    assert equal(student, output / f"best-{step}")


def test_a_student_that_never_beat_its_limit_is_the_trained_one(trained: dict[str, Path]) -> None:
    output = trained["whole"]
    assert equal(output / "best_never", output / "student")
    assert TrainResult.read(output).further["never"]["kept_step"] is None


def test_an_interrupted_training_keeps_the_same_students(trained: dict[str, Path]) -> None:
    for name in ("student", "best_loss", "best_never"):
        assert equal(trained["whole"] / name, trained["interrupted"] / name)


def test_a_reference_leads_to_the_student_that_it_names(trained: dict[str, Path]) -> None:
    inputs = {"ptp": Input(folder=trained["whole"])}
    for reference, folder in {"ptp": "student", "ptp@initial": "initial", "ptp@best_loss": "best_loss"}.items():
        found = _models.resolve(ModelRef(checkpoint=reference), inputs)
        assert found == trained["whole"] / folder

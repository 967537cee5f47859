"""Which run of a stage is registered, and with what."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.stages._base import Forecast, Run, StageContext
from raydistill.stages.register import Config, Stage
from raydistill.tracking.tracker import MemoryTracker

LOSSES = {1: 3.0, 2: 2.0, 3: 4.0}


def stage(**options: Any) -> Stage:
    return Stage("register", Config.model_validate({"kind": "register", "model": "distill", "name": "s", **options}))


def registered(register: Stage, folder: Path, *, seeds: tuple[int, ...] = (1, 2, 3)) -> dict[str, Any]:
    """What the stage hands to the registry when ``distill`` has a run for each seed."""
    tracker = MemoryTracker()
    tracker.start_run("toy/register")
    children = [
        Run(f"distill[seed={seed}]", {"seed": seed}, folder / str(seed), {"lineage": {"teacher": "t"}})
        for seed in seeds
    ]
    entries = [
        {"reference": "distill", "assignment": run.assignment, "figures": {"loss": LOSSES[run.assignment["seed"]]}}
        for run in children
    ]
    context = StageContext(
        job_name="toy",
        seed=1,
        scaling=ScalingConfig(),
        output=folder,
        outputs={},
        summaries={"evaluate": {"entries": entries}},
        tracker=tracker,
        run_key="toy/register",
        runs={register.config.model: children},
    )
    register.run(context)
    [model] = tracker.models
    return model


def test_the_best_run_by_an_evaluations_figure_is_registered(tmp_path: Path) -> None:
    model = registered(stage(metrics_from="evaluate", best_by="loss"), tmp_path)
    assert model["folder"] == str(tmp_path / "2" / "student")
    assert model["metrics"] == {"loss": 2.0}
    assert model["tags"]["run"] == "distill[seed=2]"
    assert model["tags"]["teacher"] == "t"


def test_greater_figures_can_be_the_better_ones(tmp_path: Path) -> None:
    model = registered(stage(metrics_from="evaluate", best_by="loss", greater_is_better=True), tmp_path)
    assert model["folder"] == str(tmp_path / "3" / "student")


def test_one_run_named_by_its_matrix_is_registered_with_its_figures(tmp_path: Path) -> None:
    register = stage(model="distill[seed=3]", metrics_from="evaluate")
    model = registered(register, tmp_path, seeds=(3,))
    assert model["folder"] == str(tmp_path / "3" / "student")
    assert model["metrics"] == {"loss": 4.0}


def test_a_figure_that_the_evaluation_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="best_by is 'f1', which 'evaluate' has for no run"):
        registered(stage(metrics_from="evaluate", best_by="f1"), tmp_path)


def test_several_runs_without_a_choice_are_refused_before_the_run() -> None:
    earlier = {"distill": Forecast(models={"": object()}, num_runs=3), "evaluate": Forecast()}
    with pytest.raises(ValueError, match="which has 3 runs; name one"):
        stage().check(ScalingConfig(), earlier)
    with pytest.raises(ValueError, match="best_by is 'loss', but metrics_from is missing"):
        stage(best_by="loss").check(ScalingConfig(), earlier)
    stage(best_by="loss", metrics_from="evaluate").check(ScalingConfig(), earlier)

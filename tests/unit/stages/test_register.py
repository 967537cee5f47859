"""Which run of a stage is registered, and with what."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForMaskedLM

from raydistill.config.sections import ScalingConfig
from raydistill.registry.student import FiguresRow, rows_of
from raydistill.stages import _lineage
from raydistill.stages._base import Evaluated, Input, ModelFacts, Run, StageContext
from raydistill.stages.register import Config, Stage
from raydistill.tracking.tracker import MemoryTracker
from toys.checkpoint import save_student

LOSSES = {1: 3.0, 2: 2.0, 3: 4.0}


def stage(**options: Any) -> Stage:
    return Stage("register", Config.model_validate({"kind": "register", "model": "distill", "name": "s", **options}))


def registered(
    register: Stage, folder: Path, *, seeds: tuple[int, ...] = (1, 2, 3), metrics: dict[str, bool] | None = None
) -> dict[str, Any]:
    """What the stage hands to the registry when ``distill`` has a run for each seed.

    The evaluation has ``loss`` alone; ``metrics`` is what its task says of metrics.
    """
    metrics = metrics or {"loss": False}
    tracker = MemoryTracker()
    tracker.start_run("toy/register")
    children = [
        Run(f"distill[seed={seed}]", {"seed": seed}, folder / str(seed), {"lineage": {"teacher": "t"}})
        for seed in seeds
    ]
    entries = [
        {
            "model": "student",
            "reference": "distill",
            "assignment": run.assignment,
            "figures": {"loss": LOSSES[run.assignment["seed"]]},
        }
        for run in children
    ]
    summary = {"entries": entries, "metrics": metrics}
    context = StageContext(
        job_name="toy",
        seed=1,
        scaling=ScalingConfig(),
        output=folder,
        tracker=tracker,
        run_key="toy/register",
        runs={register.config.model: children, "evaluate": [Run("evaluate", {}, folder, summary)]},
    )
    register.run(context)
    [model] = tracker.models
    return model


def test_the_best_run_by_an_evaluations_figure_is_registered(tmp_path: Path) -> None:
    model = registered(stage(evaluation="evaluate", metric="loss"), tmp_path)
    assert model["folder"] == str(tmp_path / "2" / "student")
    assert model["metrics"] == {"loss": 2.0}
    assert model["tags"]["run"] == "distill[seed=2]"
    assert model["tags"]["teacher"] == "t"


def test_greater_figures_can_be_the_better_ones(tmp_path: Path) -> None:
    model = registered(stage(evaluation="evaluate", metric="loss", greater_is_better=True), tmp_path)
    assert model["folder"] == str(tmp_path / "3" / "student")


def test_versions_compare_by_the_tasks_own_metric_in_its_direction(tmp_path: Path) -> None:
    model = registered(stage(evaluation="evaluate"), tmp_path)
    assert model["folder"] == str(tmp_path / "2" / "student")
    assert json.loads(model["tags"]["compared_by"]) == {"metric": "loss", "greater_is_better": False}
    # A task of which a greater loss were better.
    model = registered(stage(evaluation="evaluate"), tmp_path, metrics={"loss": True})
    assert model["folder"] == str(tmp_path / "3" / "student")


def test_a_gate_without_a_metric_reads_what_versions_compare_by(tmp_path: Path) -> None:
    tags = registered(stage(evaluation="evaluate", gate={"within_of_teacher": 0.5}), tmp_path)["tags"]
    expected = {"metric": "loss", "greater_is_better": False, "at_least_champion": True, "within_of_teacher": 0.5}
    assert json.loads(tags["gate"]) == expected
    other = {"gate": {"metric": "f1"}, "metric": "loss"}
    metrics = {"loss": False, "f1": True}
    tags = registered(stage(evaluation="evaluate", **other), tmp_path, metrics=metrics)["tags"]
    assert json.loads(tags["gate"])["greater_is_better"]
    assert json.loads(tags["compared_by"]) == {"metric": "f1", "greater_is_better": True}


def test_one_run_named_by_its_matrix_is_registered_with_its_figures(tmp_path: Path) -> None:
    register = stage(model="distill[seed=3]", evaluation="evaluate")
    model = registered(register, tmp_path, seeds=(3,))
    assert model["folder"] == str(tmp_path / "3" / "student")
    assert model["metrics"] == {"loss": 4.0}


def test_a_figure_that_the_evaluation_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric is 'f1', which 'evaluate' has for no run"):
        registered(stage(evaluation="evaluate", metric="f1"), tmp_path)


def test_several_runs_without_a_choice_are_refused_before_the_run() -> None:
    earlier = {"distill": Input(ModelFacts({"": object()}), num_runs=3), "evaluate": Input()}
    with pytest.raises(ValueError, match="which has 3 runs; name one"):
        stage().plan(ScalingConfig(), earlier)
    with pytest.raises(ValueError, match="metric is 'loss', but evaluation is missing"):
        stage(metric="loss").plan(ScalingConfig(), earlier)
    stage(metric="loss", evaluation="evaluate").plan(ScalingConfig(), earlier)


def entry(model: str, reference: str, loss: float, **assignment: Any) -> dict[str, Any]:
    return {"model": model, "reference": reference, "assignment": assignment, "figures": {"loss": loss}}


ENTRIES = [
    entry("large", "adapt", 1.0),
    entry("other", "elsewhere", 9.0),
    *(entry("kd", "distill", 2.0 + seed, seed=seed) for seed in (1, 2)),
    *(entry("alone", "alone", 5.0 + seed, seed=seed) for seed in (1, 2)),
]


def run_of(seed: int, teacher: str = "adapt") -> Run:
    return Run(f"distill[seed={seed}]", {"seed": seed}, Path(str(seed)), {"lineage": {"teacher": teacher}})


def test_figures_of_the_students_teacher_and_of_the_baseline_of_its_seed_go_with_it() -> None:
    found = _lineage.rows({"entries": ENTRIES}, run_of(2), "distill", baseline="alone")
    assert found == [
        FiguresRow("student", "kd", {"loss": 4.0}),
        FiguresRow("teacher", "large", {"loss": 1.0}),
        FiguresRow("baseline", "alone", {"loss": 7.0}),
    ]


def test_a_baseline_without_that_seed_is_the_mean_of_its_runs() -> None:
    entries = [*ENTRIES, entry("kd", "distill", 5.0, seed=3)]
    [*_, baseline] = _lineage.rows({"entries": entries}, run_of(3), "distill", baseline="alone")
    assert baseline == FiguresRow("baseline", "alone", {"loss": 6.5}, runs=2)


def test_one_run_of_a_stage_is_known_as_the_teacher_by_its_full_name() -> None:
    entries = [*ENTRIES, *(entry("large", "big", 1.0 + seed, seed=seed) for seed in (1, 2))]
    [_, teacher] = _lineage.rows({"entries": entries}, run_of(1, "big[seed=2]"), "distill", baseline=None)
    assert teacher == FiguresRow("teacher", "large", {"loss": 3.0})


def test_a_student_that_was_not_evaluated_has_no_figures_of_others_either() -> None:
    assert _lineage.rows({"entries": ENTRIES}, run_of(9), "distill", baseline="alone") == []


def test_a_version_gets_license_gate_figures_size_and_a_card(tmp_path: Path) -> None:
    save_student(tmp_path / "2" / "student")
    gate = {"metric": "loss", "greater_is_better": False, "within_of_teacher": 0.5}
    model = registered(stage(evaluation="evaluate", metric="loss", license="MIT", gate=gate), tmp_path)
    tags = model["tags"]
    assert tags["license"] == "MIT"
    assert rows_of(tags) == [FiguresRow("student", "student", {"loss": 2.0})]
    weights = AutoModelForMaskedLM.from_pretrained(tmp_path / "2" / "student")
    assert int(tags["parameters"]) == sum(one.numel() for one in weights.parameters())
    assert int(tags["bytes"]) == (tmp_path / "2" / "student" / "model.safetensors").stat().st_size
    assert "license: mit" in model["card"]
    assert f"{int(tags['parameters']):,} parameters" in model["card"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "alone"}, "baseline is 'alone', but evaluation is missing"),
        ({"baseline": "alon", "evaluation": "evaluate"}, "baseline is 'alon'; did you mean 'alone'"),
        (
            {"gate": {"metric": "f2", "greater_is_better": True}, "evaluation": "evaluate"},
            "gate.metric is 'f2'; Choices: loss, f1",
        ),
        (
            {"gate": {"metric": "f1", "greater_is_better": True}},
            "gate.metric is 'f1', but evaluation is missing",
        ),
        ({"gate": {}}, "gate needs figures, but evaluation is missing"),
    ],
)
def test_a_baseline_or_gate_without_figures_is_refused_before_the_run(options: dict[str, Any], message: str) -> None:
    evaluation = Input(Evaluated(("teacher", "alone"), {"loss": False, "f1": True}))
    earlier = {"distill": Input(ModelFacts({"": object()})), "evaluate": evaluation}
    with pytest.raises(ValueError, match=message):
        stage(**options).plan(ScalingConfig(), earlier)

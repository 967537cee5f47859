"""Which run of a stage is registered, and with what."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils import validation
from pydantic import ValidationError
from transformers import AutoModelForMaskedLM

from raydistill.config.errors import error_lines
from raydistill.config.sections import ScalingConfig
from raydistill.registry.reference import check_alias, check_name, check_tag
from raydistill.registry.student import FiguresRow, rows_of
from raydistill.stages import _lineage
from raydistill.stages._base import Evaluated, Input, ModelFacts, Run, StageContext
from raydistill.stages.register import Config, Stage
from toys.checkpoint import save_student
from toys.evaluated import evaluated, seeds
from toys.tracker import MemoryTracker

LOSSES = {1: 3.0, 2: 2.0, 3: 4.0}
ROWS = [
    *(("student", "distill", {"seed": seed}) for seed in LOSSES),
    ("teacher", "adapt", {}),
    ("alone", "alone", {}),
]
EVALUATED = evaluated(ROWS, {"loss": False, "accuracy": True, "f1": True})
EARLIER = {
    "distill": Input(ModelFacts({"": object()}), runs=seeds("distill", 1, 2, 3)),
    "other": Input(ModelFacts({"": object()}), runs={"other": {}}),
    "evaluate": Input(EVALUATED, runs={"evaluate": {}}),
}


def stage(**options: Any) -> Stage:
    return Stage("register", Config.model_validate({"kind": "register", "model": "distill", "name": "s", **options}))


def accuracies(seed: int) -> dict[str, float]:
    """The worst run by its loss is the best by its accuracy."""
    return {"accuracy": LOSSES[seed] / 10}


def registered(
    register: Stage,
    folder: Path,
    *,
    seeds: tuple[int, ...] = (1, 2, 3),
    evaluation: Evaluated = EVALUATED,
    exported: tuple[Run, ...] = (),
    more: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    """What the stage hands to the registry when ``distill`` has a run for each seed."""
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
            "figures": {"loss": LOSSES[run.assignment["seed"]], **accuracies(run.assignment["seed"])},
        }
        for run in children
    ]
    context = StageContext(
        job_name="toy",
        seed=1,
        scaling=ScalingConfig(),
        output=folder,
        tracker=tracker,
        run_key="toy/register",
        runs={
            register.config.model: children,
            "evaluate": [Run("evaluate", {}, folder, {"entries": [*entries, *more]})],
            **({"exported": exported} if exported else {}),
        },
        facts={"evaluate": evaluation},
    )
    register.run(context)
    [model] = tracker.models
    return model


def test_the_best_run_by_an_evaluations_figure_is_registered(tmp_path: Path) -> None:
    model = registered(stage(evaluation="evaluate", metric="loss"), tmp_path)
    assert model["folder"] == str(tmp_path / "2" / "student")
    assert model["metrics"] == {"loss": 2.0, "accuracy": 0.2}
    assert model["tags"]["run"] == "distill[seed=2]"
    assert model["tags"]["teacher"] == "t"


def test_of_accuracies_the_greatest_is_the_best_without_a_word(tmp_path: Path) -> None:
    model = registered(stage(evaluation="evaluate", metric="accuracy"), tmp_path)
    assert model["folder"] == str(tmp_path / "3" / "student")
    assert json.loads(model["tags"]["compared_by"]) == {"metric": "accuracy", "greater_is_better": True}


def test_versions_compare_by_the_tasks_own_metric_in_its_direction(tmp_path: Path) -> None:
    model = registered(stage(evaluation="evaluate"), tmp_path)
    assert model["folder"] == str(tmp_path / "2" / "student")
    assert json.loads(model["tags"]["compared_by"]) == {"metric": "loss", "greater_is_better": False}
    classes = evaluated(ROWS, {"accuracy": True, "loss": False})
    model = registered(stage(evaluation="evaluate"), tmp_path, evaluation=classes)
    assert model["folder"] == str(tmp_path / "3" / "student")
    assert json.loads(model["tags"]["compared_by"]) == {"metric": "accuracy", "greater_is_better": True}


def test_a_direction_that_only_the_job_knows_chooses_the_run(tmp_path: Path) -> None:
    rows = evaluated(ROWS, {"accuracy": True})
    undirected = replace(rows, directions={**rows.directions, "loss": None})
    options = {"evaluation": "evaluate", "metric": "loss", "greater_is_better": True}
    assert registered(stage(**options), tmp_path, evaluation=undirected)["folder"] == str(tmp_path / "3" / "student")


def test_a_gate_without_a_metric_reads_what_versions_compare_by(tmp_path: Path) -> None:
    tags = registered(stage(evaluation="evaluate", gate={"within_of_teacher": 0.5}), tmp_path)["tags"]
    expected = {"metric": "loss", "greater_is_better": False, "at_least_champion": True, "within_of_teacher": 0.5}
    assert json.loads(tags["gate"]) == expected
    tags = registered(stage(evaluation="evaluate", gate={"metric": "f1"}, metric="loss"), tmp_path)["tags"]
    assert json.loads(tags["gate"])["greater_is_better"]
    assert json.loads(tags["compared_by"]) == {"metric": "f1", "greater_is_better": True}


def test_one_run_named_by_its_matrix_is_registered_with_its_figures(tmp_path: Path) -> None:
    register = stage(model="distill[seed=3]", evaluation="evaluate")
    model = registered(register, tmp_path, seeds=(3,))
    assert model["folder"] == str(tmp_path / "3" / "student")
    assert model["metrics"] == {"loss": 4.0, "accuracy": 0.4}


def test_a_figure_that_the_evaluation_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric is 'f1', which 'evaluate' has for no run"):
        registered(stage(evaluation="evaluate", metric="f1"), tmp_path)


def test_several_runs_without_a_choice_are_refused_before_the_run() -> None:
    with pytest.raises(ValueError, match="which has 3 runs; name one"):
        stage().plan(ScalingConfig(), EARLIER)
    with pytest.raises(ValueError, match="metric is 'loss', but evaluation is missing"):
        stage(metric="loss").plan(ScalingConfig(), EARLIER)
    for metric in (None, "loss"):
        stage(metric=metric, evaluation="evaluate").plan(ScalingConfig(), EARLIER)


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
    assert rows_of(tags) == [FiguresRow("student", "student", {"loss": 2.0, "accuracy": 0.2})]
    weights = AutoModelForMaskedLM.from_pretrained(tmp_path / "2" / "student")
    assert int(tags["parameters"]) == sum(one.numel() for one in weights.parameters())
    assert int(tags["bytes"]) == (tmp_path / "2" / "student" / "model.safetensors").stat().st_size
    assert "license: mit" in model["card"]
    assert f"{int(tags['parameters']):,} parameters" in model["card"]


OF = {"lineage": {"teacher": "distill"}}


def exported_runs(folder: Path) -> tuple[Run, ...]:
    found = []
    for seed in (1, 2):
        for to in ("onnx", "onnx-int8"):
            name, summary = f"exported[seed={seed},format={to}]", {"format": to, "size_mb": float(seed), **OF}
            found.append(Run(name, {"seed": seed, "format": to}, folder / name, summary))
    return tuple(found)


def test_exports_of_the_chosen_run_are_kept_with_it_and_their_figures_stand_in_tags_and_card(tmp_path: Path) -> None:
    save_student(tmp_path / "2" / "student")
    keys = {"seed": 2, "format": "onnx-int8"}
    figures = {"loss": 2.5, "latency_ms": 0.7}
    entry = {"model": "int8", "reference": "exported", "assignment": keys, "figures": figures}
    model = registered(
        stage(evaluation="evaluate", metric="loss", exports="exported"),
        tmp_path,
        exported=exported_runs(tmp_path),
        more=(entry,),
    )
    folders = {to: tmp_path / f"exported[seed=2,format={to}]" / "student" for to in ("onnx", "onnx-int8")}
    assert model["exports"] == {to: str(folder) for to, folder in folders.items()}
    # What was not evaluated has what its own stage found.
    assert rows_of(model["tags"])[1:] == [
        FiguresRow("export", "onnx", {"size_mb": 2.0}),
        FiguresRow("export", "onnx-int8", figures),
    ]
    assert "| latency of one row (ms) |  |  | 0.7000 |" in model["card"]
    assert "raydistill models pull s:onnx FOLDER" in model["card"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "alone", "model": "other"}, "baseline is 'alone', but evaluation is missing"),
        ({"baseline": "alon", "evaluation": "evaluate", "metric": "loss"}, "baseline is 'alon'; did you mean 'alone'"),
        (
            {"gate": {"metric": "f2", "greater_is_better": True}, "evaluation": "evaluate", "metric": "loss"},
            "gate.metric is 'f2'; Choices: loss, accuracy, f1, parameters",
        ),
        (
            {"gate": {"metric": "f1"}, "model": "other"},
            "gate.metric is 'f1', but evaluation is missing",
        ),
        ({"gate": {}, "model": "other"}, "gate needs figures, but evaluation is missing"),
    ],
)
def test_a_baseline_or_gate_without_figures_is_refused_before_the_run(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**options).plan(ScalingConfig(), EARLIER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "acuracy"}, "metric is 'acuracy'; did you mean 'accuracy'"),
        ({"metric": "rows"}, "metric is 'rows', for which neither more nor less is better; set greater_is_better, or"),
        (
            {"metric": "accuracy", "greater_is_better": False},
            "greater_is_better is False, but the best accuracy is the",
        ),
        (
            {"metric": "loss", "gate": {"metric": "f1", "greater_is_better": False}},
            "gate.greater_is_better is False, but the best f1 is the greatest; leave gate.greater_is_better out",
        ),
        (
            {"model": "other"},
            "evaluation is 'evaluate', which has no figures of 'other'; add that to its models, which",
        ),
        ({"model": "distill@initial", "metric": "loss"}, "evaluation is 'evaluate', which has no figures of 'distill@"),
        ({"model": "other", "evaluation": "distill"}, "evaluation is 'distill'; name an earlier evaluation stage"),
    ],
)
def test_a_choice_that_the_evaluation_cannot_make_is_refused_before_the_run(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        stage(**{"evaluation": "evaluate", **options}).plan(ScalingConfig(), EARLIER)


def test_an_evaluation_with_several_runs_is_refused_before_the_run() -> None:
    several = {**EARLIER, "evaluate": Input(EVALUATED, runs=seeds("evaluate", 1, 2))}
    with pytest.raises(ValueError, match="evaluation is 'evaluate', which has 2 runs; name one of them"):
        stage(evaluation="evaluate", metric="loss").plan(ScalingConfig(), several)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a:b"}, "name is 'a:b', which has ':'; a registered model's name has none of /:@'"),
        ({"name": "it's"}, 'name is "it\'s", which has "\'"; a registered model\'s name has none'),
        ({"name": "a/b"}, "name is 'a/b', which has '/'"),
        ({"name": "a\nb"}, r"name is 'a\nb', which has '\n'"),
        ({"name": " "}, "name is ' '; give a registered model's name without spaces at its ends"),
        ({"name": "n" * 300}, "name has 300 characters; a registered model's name has at most 250"),
        ({"greater_is_better": True}, "greater_is_better is True, but metric is missing; give both or none"),
        (
            {"alias": "latest"},
            "alias is 'latest'; use letters, digits, _ and -, but not latest, and not v with a number",
        ),
        ({"alias": "V12"}, "alias is 'V12'; use letters, digits"),
        ({"alias": "a b"}, "alias is 'a b'; use letters, digits"),
        ({"alias": "a" * 300}, "alias has 300 characters; it has at most 250"),
        ({"tags": {"50%": "x"}}, "tags has '50%'; a tag's name has letters, digits, spaces"),
        ({"tags": {"a/../b": "x"}}, "tags has 'a/../b'; a tag's name"),
        ({"tags": {"t" * 300: "x"}}, "tags has a name of 300 characters; it has at most 250"),
        ({"tags": {"long": "x" * 100_001}}, "tags.long has 100,001 characters; it has at most 100,000"),
    ],
)
def test_what_the_registry_does_not_take_is_refused_where_the_job_is_read(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as error:
        stage(**options)
    [line] = error_lines(error.value)
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("check", "ours", "texts"),
    [
        (validation._validate_model_name, check_name, ["a:b", "a/b", ".", "..", " ", "good name", "é", "a.b-c_d"]),
        (
            lambda alias: (
                validation._validate_model_alias_name(alias),
                validation._validate_model_alias_name_reserved(alias),
            ),
            check_alias,
            ["latest", "LATEST", "v1", "V1", "a b", "a.b", "champion", "v1a", "", "a" * 300],
        ),
        (
            lambda name: validation._validate_model_version_tag(name, "x"),
            lambda name: check_tag(name, "x"),
            ["50%", "a/../b", "/a", "..", ".", "a//b", "a/", "it's", "a b:c-d.e_f/g", "t" * 300],
        ),
    ],
)
def test_whatever_mlflow_refuses_is_refused(check: Any, ours: Any, texts: list[str]) -> None:
    refused = 0
    for text in texts:
        try:
            check(text)
        except MlflowException:
            refused += 1
            with pytest.raises(ValueError, match=r"name|alias|tag"):
                ours(text)
        else:
            ours(text)
    assert 0 < refused < len(texts)

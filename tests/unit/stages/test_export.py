"""Stage export: what it plans, refuses and leaves, and that evaluations take what it leaves."""

import shutil
from pathlib import Path

import pytest

from raydistill.deploy.exported import is_exported
from raydistill.evaluation import Checkpoints, evaluate_models
from raydistill.report.verdict import EXPORT, OTHER
from raydistill.stages import evaluate, export
from raydistill.stages._base import Input, ModelFacts, Run
from raydistill.stages._report_page import Compared
from raydistill.user_error import UserError
from toys.capture import context_of, metrics_of, train_stage, write_labelled


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("export")
    write_labelled(found)
    return found


def stage_of(folder: Path, **changes) -> export.Stage:
    config = {
        "kind": "export",
        "model": str(folder / "teacher"),
        "corpus": str(folder / "corpus"),
        "task": "classification",
        "calibration_rows": 16,
        **changes,
    }
    return export.Stage("export", export.Config.model_validate({k: v for k, v in config.items() if v is not None}))


def planned(stage: export.Stage, output: Path):
    context = context_of(stage, output)
    return stage.plan(context.scaling, context.inputs)


def test_the_plan_tells_the_format_and_promises_an_export(folder, tmp_path):
    decisions = planned(stage_of(folder), tmp_path)
    assert decisions.lines == [
        f"exports {folder / 'teacher'} as ONNX with int8 weights, activations quantized as they come"
    ]
    assert isinstance(decisions.makes, ModelFacts)
    assert decisions.makes.exported_from == str(folder / "teacher")


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """An int8 export with calibration and a gate, and what its run told."""
    stage = stage_of(folder, format="onnx-int8-static", gate={"within_of_unquantized": 1.0})
    context = context_of(stage, tmp_path_factory.mktemp("made"))
    return context, stage.run(context)


def test_a_run_leaves_an_export_and_tells_size_and_the_gates_figures(made):
    context, told = made
    assert is_exported(context.output / "student")
    assert not [path for path in context.output.iterdir() if path.name != "student"]
    assert told["student"] == str(context.output / "student")
    assert told["size_mb"] == pytest.approx((context.output / "student" / "model.onnx").stat().st_size / 1e6)
    tracked = {name: values[0][1] for name, values in metrics_of(context).items()}
    assert tracked == {name: told[name] for name in ("size_mb", "accuracy", "accuracy_unquantized")}


def test_an_evaluation_compares_an_export_with_its_model_by_the_corpus_order_of_classes(folder, made):
    context, told = made
    corpus = str(folder / "corpus" / "validation")
    found = evaluate_models(
        {"model": str(folder / "teacher"), "export": Checkpoints((str(context.output / "student"),))},
        corpus,
        task={"name": "classification"},
        seed=5,
        latency_repeats=4,
    )
    assert found["export"].figures["accuracy"] == told["accuracy"]
    assert found["export"].figures["loss"] == pytest.approx(found["model"].figures["loss"], abs=0.1)
    assert found["export"].figures["parameters"] == found["model"].figures["parameters"]
    assert found["export"].figures["size_mb"] == told["size_mb"]
    assert found["export"].figures["latency_ms"] > 0
    assert [found[name].exported for name in ("model", "export")] == [False, True]


def test_a_report_tells_exports_from_other_models():
    entries = [
        {"model": "int8", "reference": "exported", "assignment": {}, "figures": {}, "exported": True},
        {"model": "alone", "reference": "alone", "assignment": {}, "figures": {}},
    ]
    compared = Compared("evaluate", [Run("evaluate", {}, Path(), {"entries": entries})], None)
    assert compared.roles([]) == {"int8": EXPORT, "alone": OTHER}


def test_an_evaluation_takes_an_export_and_a_training_does_not(folder, made):
    context, _ = made
    exported = str(context.output / "student")
    config = {"kind": "evaluate", "corpus": str(folder / "corpus"), "task": "classification"}
    stage = evaluate.Stage("evaluate", evaluate.Config.model_validate({**config, "models": {"int8": exported}}))
    assert stage.plan(context.scaling, {}).lines == ["evaluates int8 on validation rows"]
    training = train_stage(folder, teachers=[exported])
    with pytest.raises(UserError, match=r"teachers.0 is an export to another runtime, which has neither hidden states"):
        training.plan(context.scaling, {})


def test_a_training_refuses_an_export_before_it_is_made(folder, tmp_path):
    facts = planned(stage_of(folder), tmp_path).makes
    training = train_stage(folder, teachers=["export"])
    with pytest.raises(UserError, match=r"teachers.0 is an export to another runtime"):
        training.plan(context_of(training, tmp_path).scaling, {"export": Input(facts=facts)})


@pytest.mark.parametrize("made_in", ["before", "during"])
def test_an_export_of_an_export_is_refused(folder, tmp_path, made, made_in):
    stage = stage_of(folder, model="export", corpus=None, task=None)
    found = (
        Input(folder=made[0].output) if made_in == "before" else Input(facts=planned(stage_of(folder), tmp_path).makes)
    )
    with pytest.raises(UserError, match="model is an export already; name the model that it was made from"):
        stage.plan(context_of(stage, tmp_path).scaling, {"export": found})


def test_an_export_that_is_worse_than_the_gate_allows_fails_and_leaves_nothing(folder, tmp_path, made, monkeypatch):
    def figures(models, *arguments, **options):
        found = evaluate_models(models, *arguments, **options)
        found["export"].figures["accuracy"] = found["model"].figures["accuracy"] - 0.05
        return found

    def exported(source, target, to, *, rows):
        shutil.copytree(made[0].output / "student", target, dirs_exist_ok=True)

    monkeypatch.setattr(export, "evaluate_models", figures)
    monkeypatch.setattr(export, "export_model", exported)
    stage = stage_of(folder, format="onnx", gate={"metric": "accuracy", "within_of_unquantized": 0.01})
    with pytest.raises(
        UserError, match=r"0.05 worse, more than gate.within_of_unquantized, which is 0.01; try another"
    ):
        stage.run(context_of(stage, tmp_path))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": "onnx-int8-static", "corpus": None, "task": None},
            "corpus is missing, which format onnx-int8-static",
        ),
        ({"gate": {"within_of_unquantized": 0.1}, "task": None}, "task is missing, which gate needs; name it"),
        ({"task": None}, "corpus and task go together; give both or none"),
        ({"format": "onnx-int4"}, "format"),
    ],
)
def test_a_configuration_that_lacks_what_it_needs_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        stage_of(folder, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": {"metric": "f2", "within_of_unquantized": 0.1}}, "gate.metric is 'f2'"),
        ({"task": "ner"}, "task is 'ner', but the corpus is encoded for 'classification'"),
        ({"model": {"checkpoint": "{folder}/teacher", "head": "new"}}, "model.head is 'new', which would be exported"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(folder, tmp_path, changes, message):
    model = changes.get("model")
    if model is not None:
        changes = {"model": {**model, "checkpoint": model["checkpoint"].format(folder=folder)}}
    with pytest.raises(UserError, match=message):
        planned(stage_of(folder, **changes), tmp_path)


def test_a_missing_package_is_refused_before_the_job(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "missing_packages", lambda name: "nncf; pip install 'raydistill[export,openvino]'")
    with pytest.raises(UserError, match="format is 'openvino-int8', which needs nncf; pip install"):
        planned(stage_of(folder, format="openvino-int8"), tmp_path)

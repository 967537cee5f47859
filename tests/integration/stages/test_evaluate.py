"""Which checkpoints an evaluation scores, and what it leaves, with toy models on a toy corpus."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from raydistill.config.sections import ScalingConfig
from raydistill.evaluation import evaluate_models
from raydistill.stages import evaluate
from raydistill.stages._base import CorpusFacts, Evaluated, Input, ModelFacts, Run, StageContext
from raydistill.tasks import classification
from toys.classifiers import CLASSES, CLASSIFIERS
from toys.corpus import VOCABULARY, random_rows, write_corpus
from toys.evaluated import seeds
from toys.models import toy_bert, toy_distilbert
from toys.tracker import MemoryTracker

KEY = "toy/evaluate"
MODELS = {"student": "distill", "student before": "distill@initial", "again": "distill@initial"}


def stage(**models: str) -> evaluate.Stage:
    config = evaluate.Config(kind="evaluate", corpus="corpus", models={**models, **MODELS}, max_rows=20, batch_size=8)
    return evaluate.Stage("evaluate", config)


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    write_corpus(tmp_path / "corpus" / "validation", random_rows(30))
    toy_bert(2, dtype=torch.float32).save_pretrained(tmp_path / "teacher")
    runs = []
    for seed in (1, 2):
        output = tmp_path / f"distill-{seed}"
        for part, model_seed in {"initial": 7, "student": seed}.items():
            toy_distilbert(1, seed=model_seed, dtype=torch.float32).save_pretrained(output / part)
        runs.append(Run(f"distill[seed={seed}]", {"seed": seed}, output, {}))
    tracker = MemoryTracker()
    tracker.start_run(KEY)
    (tmp_path / "out").mkdir()
    corpus = Run("corpus", {}, tmp_path / "corpus", {})
    return StageContext(
        job_name="toy",
        seed=5,
        scaling=ScalingConfig(),
        output=tmp_path / "out",
        tracker=tracker,
        run_key=KEY,
        runs={"corpus": [corpus], "distill": runs},
    )


def test_every_run_of_a_stage_is_an_entry_with_its_own_figures(
    ray_cluster: None, context: StageContext, tmp_path: Path
) -> None:
    teacher = str(tmp_path / "teacher")
    entries = stage(teacher=teacher).run(context)["entries"]
    assert [(entry["model"], entry["assignment"], entry["reference"]) for entry in entries] == [
        ("teacher", {}, teacher),
        *(("student", {"seed": seed}, "distill") for seed in (1, 2)),
        *(("student before", {"seed": seed}, "distill@initial") for seed in (1, 2)),
        *(("again", {"seed": seed}, "distill@initial") for seed in (1, 2)),
    ]
    folders = {"teacher": teacher} | {str(seed): str(tmp_path / f"distill-{seed}" / "student") for seed in (1, 2)}
    expected = evaluate_models(
        folders, str(tmp_path / "corpus" / "validation"), task={"name": "mlm"}, seed=5, max_rows=20, batch_size=8
    )
    assert [entry["figures"]["loss"] for entry in entries[:3]] == pytest.approx(
        [one.figures["loss"] for one in expected.values()], abs=1e-5
    )
    # One folder is scored once; two of one content score alike.
    assert entries[3]["figures"] == entries[5]["figures"]
    assert entries[3]["figures"]["loss"] == entries[4]["figures"]["loss"]
    comparison = (context.output / "comparison.md").read_text()
    assert "| student | 2 |" in comparison
    assert "| parameters | MB | ms of one row | ms a row in batches |" in comparison
    assert "at most 20 forward passes in float32 on 1 CPU thread of one machine" in comparison
    assert isinstance(context.tracker, MemoryTracker)
    tracked = context.tracker.runs[KEY].metrics
    losses = [entry["figures"]["loss"] for entry in entries if entry["model"] == "student"]
    assert tracked["student/loss"] == [(0, pytest.approx(sum(losses) / 2))]
    assert tracked["student/loss_spread"][0][1] > 0
    assert "teacher/loss_spread" not in tracked
    assert tracked["teacher/latency_ms"][0][1] > 0
    sums = pq.read_table(context.output / "predictions" / "teacher.parquet").to_pydict()
    assert list(sums) == ["row_id", "loss", "correct", "tokens"]
    assert sum(sums["loss"]) / sum(sums["tokens"]) == pytest.approx(entries[0]["figures"]["loss"], abs=1e-5)


def test_tracked_names_have_only_signs_that_the_store_takes() -> None:
    groups = evaluate.group([evaluate.Entry("student", {"a.temperature": 2, "b.layers": "0-2"}, {"loss": 1.0})])
    assert evaluate._tracked(groups) == {"student temperature:2 layers:0-2/loss": 1.0}


def corpus_forecast(num_runs: int) -> dict[str, Input]:
    corpus = CorpusFacts("mlm", VOCABULARY, 40)
    config = toy_distilbert(1).config
    return {
        "corpus": Input(corpus, runs=seeds("corpus", *range(num_runs))),
        "distill": Input(ModelFacts({"": config, "@initial": config}), runs=seeds("distill", 1)),
    }


def test_the_forecast_names_models_and_metrics() -> None:
    forecast = stage().plan(ScalingConfig(), corpus_forecast(1))
    made = forecast.makes
    assert isinstance(made, Evaluated)
    assert (made.models, made.metrics) == (list(MODELS), ("loss", "perplexity", "accuracy"))
    assert {name: made.directions[name] for name in ("loss", "accuracy", "size_mb", "tokens")} == {
        "loss": False,
        "accuracy": True,
        "size_mb": False,
        "tokens": None,
    }


def test_a_corpus_with_several_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="corpus is 'corpus', which has 2 runs; name one of them"):
        stage().plan(ScalingConfig(), corpus_forecast(2))


def test_a_model_that_does_not_fit_the_corpus_or_the_task_is_refused() -> None:
    earlier = corpus_forecast(1)
    other = evaluate.Stage("evaluate", evaluate.Config(kind="evaluate", corpus="corpus", models={"m": "distill"}))
    other.plan(ScalingConfig(), earlier)
    small = replace(earlier["corpus"], facts=CorpusFacts("mlm", VOCABULARY + 1, 40))
    with pytest.raises(ValueError, match=r"models\.m has 61 token ids, but the corpus has 62; binarize with that"):
        other.plan(ScalingConfig(), {**earlier, "corpus": small})
    classes = replace(earlier["corpus"], facts=CorpusFacts("classification", VOCABULARY, 40))
    with pytest.raises(ValueError, match="task is 'mlm', but the corpus is encoded for 'classification'"):
        other.plan(ScalingConfig(), {**earlier, "corpus": classes})
    config = {"kind": "evaluate", "corpus": "corpus", "models": {"m": {"checkpoint": "distill", "head": "new"}}}
    with pytest.raises(ValueError, match=r"models\.m\.head is 'new', which would be evaluated untrained"):
        evaluate.Stage("evaluate", evaluate.Config.model_validate(config)).plan(ScalingConfig(), earlier)


def classifiers(context: StageContext, tmp_path: Path) -> StageContext:
    """The context with a corpus of classes and two runs whose students classify."""
    config = classification.EncodeConfig(labels=CLASSES)
    write_corpus(
        tmp_path / "classes" / "validation",
        random_rows(30),
        encoding={"name": "classification", "labels": list(CLASSES)},
        columns=classification.columns(config),
        values=[{"label": number % 3, "second": 40} for number in range(30)],
    )
    for run in context.runs["distill"]:
        student = CLASSIFIERS["distilbert_classes"](1, seed=run.assignment["seed"], dtype=torch.float32)
        student.save_pretrained(run.output / "student")
    CLASSIFIERS["bert_classes"](1, dtype=torch.float32).save_pretrained(tmp_path / "teacher")
    runs = {**context.runs, "corpus": [Run("corpus", {}, tmp_path / "classes", {})]}
    return replace(context, runs=runs)


def test_classifiers_stand_in_one_table_and_leave_their_predictions_by_class_names(
    ray_cluster: None, context: StageContext, tmp_path: Path
) -> None:
    models = {"a/teacher": {"checkpoint": str(tmp_path / "teacher"), "labels": CLASSES[::-1]}, "student": "distill"}
    task = {"name": "classification", "metrics": ["accuracy", "macro_f1"]}
    config = {"kind": "evaluate", "corpus": "corpus", "models": models, "task": task, "latency_repeats": 0}
    context = classifiers(context, tmp_path)
    summary = evaluate.Stage("evaluate", evaluate.Config.model_validate(config)).run(context)
    names = ["a_teacher", "student[seed=1]", "student[seed=2]"]
    assert summary["predictions"] == [f"predictions/{name}.parquet" for name in names]
    assert [one["uri"] for one in summary["rows_of"]] == [str(tmp_path / "classes" / "validation")]
    for entry, file in zip(summary["entries"], summary["predictions"], strict=True):
        table = pq.read_table(context.output / file).to_pandas()
        assert table.columns[:3].tolist() == ["row_id", "label", "prediction"]
        assert len(table) == 30
        assert (table["label"] == [CLASSES[row % 3] for row in table["row_id"]]).all()
        assert (table["label"] == table["prediction"]).mean() == entry["figures"]["accuracy"]
    text = (context.output / "comparison.md").read_text()
    assert "| model | n | validation loss | accuracy | macro F1 | parameters | MB |" in text
    mean = sum(entry["figures"]["accuracy"] for entry in summary["entries"][1:]) / 2
    assert "| student | 2 | " in text
    assert f" | {mean:.1%} ± " in text
    assert isinstance(context.tracker, MemoryTracker)
    kept = context.tracker.runs[KEY].artifacts
    assert {str(context.output / file) for file in summary["predictions"]} < set(kept)


PARTS = {"first": CLASSES[:2], "second": CLASSES[1:]}
TASK = {"name": "classification"}


def parts_stage(tmp_path: Path, **changes: object) -> evaluate.Stage:
    """Two models that know two of three classes each, alone and as one."""
    for seed, (name, labels) in enumerate(PARTS.items()):
        model = CLASSIFIERS["bert_classes"](1, labels=labels, seed=seed, dtype=torch.float32)
        model.save_pretrained(tmp_path / name)
    members = [str(tmp_path / name) for name in PARTS]
    config = {
        "kind": "evaluate",
        "corpus": "corpus",
        "task": TASK,
        "models": dict(zip(PARTS, members, strict=True)),
        "ensembles": {"both": {"members": members, "combine": "weighted"}},
        "latency_repeats": 0,
    }
    return evaluate.Stage("evaluate", evaluate.Config.model_validate({**config, **changes}))


def parts_forecast(num_runs: int = 1, labels: tuple[str, ...] = CLASSES) -> dict[str, Input]:
    config = CLASSIFIERS["bert_classes"](1).config
    corpus = CorpusFacts("classification", VOCABULARY, 40, labels=labels)
    return {
        "corpus": Input(corpus),
        "teacher": Input(ModelFacts({"": config}), runs=seeds("teacher", *range(num_runs))),
    }


def test_the_forecast_tells_who_knows_a_part_of_the_classes_and_lists_ensembles(tmp_path: Path) -> None:
    forecast = parts_stage(tmp_path).plan(ScalingConfig(), parts_forecast())
    assert forecast.makes.models == ["first", "second", "both"]
    assert forecast.lines == [
        "evaluates first, second, both on validation rows",
        "models.first knows 2 of the 3 classes, and is wrong about rows of the others",
        "models.second knows 2 of the 3 classes, and is wrong about rows of the others",
    ]


def test_ensembles_that_cannot_answer_are_refused(tmp_path: Path) -> None:
    ours = parts_stage(tmp_path)
    members = ours.config.ensembles["both"].members
    assert ours.references()["ensembles.both.members.1"] == members[1].checkpoint
    alone = {"ensembles": {"one": {"members": [members[0], members[0]]}}}
    with pytest.raises(
        ValueError, match=r"^ensembles\.one has no member that knows the class 'blue'; add one that does"
    ):
        parts_stage(tmp_path, **alone).plan(ScalingConfig(), parts_forecast())
    several = {"ensembles": {"one": {"members": ["teacher", members[0]]}}}
    with pytest.raises(ValueError, match=r"^ensembles\.one\.members\.0 is 'teacher', which has 2 runs; name one of"):
        parts_stage(tmp_path, **several).plan(ScalingConfig(), parts_forecast(2))
    with pytest.raises(ValueError, match="ensembles has 'first', which models has too; give it another name"):
        parts_stage(tmp_path, ensembles={"first": {"members": members}})
    other = {"corpus": Input(CorpusFacts("mlm", VOCABULARY, 40)), "distill": corpus_forecast(1)["distill"]}
    asked = {"task": "mlm", "models": {"m": "distill"}, "ensembles": {"e": {"members": ["distill", "distill"]}}}
    with pytest.raises(ValueError, match=r"^ensembles\.e is for classifiers of texts, but task is 'mlm'; leave it out"):
        parts_stage(tmp_path, **asked).plan(ScalingConfig(), other)


def test_ensembles_stand_in_the_table_after_the_models_with_what_one_has_to_know(
    ray_cluster: None, context: StageContext, tmp_path: Path
) -> None:
    summary = parts_stage(tmp_path).run(classifiers(context, tmp_path))
    assert [entry["model"] for entry in summary["entries"]] == ["first", "second", "both"]
    assert summary["entries"][2]["reference"] == f"{tmp_path / 'first'} + {tmp_path / 'second'}"
    assert summary["notes"] == [
        "first knows 2 classes and predicts no other; all rows count.",
        "second knows 2 classes and predicts no other; all rows count.",
        "both: the members' own softmaxes, weighted by how sure each is of a row.",
    ]
    lines = (context.output / "comparison.md").read_text().splitlines()
    assert lines[0].startswith("| model | validation loss | accuracy |")
    assert lines[2].startswith("| first |  | ")
    assert lines[4].startswith("| both | ")
    assert summary["notes"][0] in lines

"""Jobs that are built in Python: what they write, what they refuse, and that a file makes the same of it."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch

import raydistill as rd
from raydistill import discovery
from raydistill.commands.loading import load
from raydistill.config import yaml_text
from raydistill.job.load import load_job, stage_type
from raydistill.job.record import stage_records
from raydistill.job.run import JobResult
from raydistill.user_error import UserError
from toys.reviews import documented_block, write_reviews

WRITTEN = """\
name: reviews
storage: runs
seed: 1
stages:
  binarize:
    kind: binarize
    source: {name: delimited, path: reviews.csv, text: review, label: stars, labels: {1: negative, 5: positive}}
    encoding: {name: classification, max_length: 128, labels: [negative, positive]}
    tokenizer: base
    validation: 0.1
  teacher:
    kind: train
    corpus: binarize
    task: classification
    method: finetune
    student: {init: checkpoint, checkpoint: {checkpoint: base, head: new}}
  train:
    kind: train
    corpus: binarize
    task: classification
    method: {name: kd, temperature: 2}
    teachers: [teacher]
    student: {init: layers, checkpoint: {checkpoint: base, head: new}, layers: [0, 4, 8]}
    matrix: {seed: [1, 2, 3]}
  evaluate:
    kind: evaluate
    corpus: binarize
    task: classification
    models: {teacher: teacher, student: train}
"""
CLASSES = {1: "negative", 5: "positive"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write_reviews(tmp_path))
    return tmp_path


@pytest.fixture
def job():
    return rd.Job("reviews")


def documented_job():
    """What the documentation builds, before it is planned."""
    names = {"rd": rd, "base": "base"}
    exec(documented_block().partition("print(")[0], names)
    return names["job"]


def rated(**options):
    return rd.sources.Delimited("reviews.csv", text="review", label="stars", **options)


def corpus(job, **options):
    encoding = rd.tasks.Classification(labels=["negative", "positive"])
    return job.binarize(rated(), tokenizer="base", **{"encoding": encoding, **options})


def hashes(job):
    return {name: record.hash for name, record in stage_records(job).items()}


def section(job, stage):
    return job.as_data()["stages"][stage]


def refusal(act):
    with pytest.raises(UserError) as caught:
        act()
    (line,) = str(caught.value).splitlines()
    return line


def test_a_job_in_python_in_the_file_it_writes_and_in_one_by_hand_have_equal_hashes(folder):
    job = documented_job()
    job.to_yaml("reviews.yaml")
    Path("by_hand.yaml").write_text(WRITTEN, encoding="utf-8")
    found = hashes(load_job(job.as_data()))
    assert list(found) == ["binarize", "teacher", *(f"train[seed={seed}]" for seed in (1, 2, 3)), "evaluate"]
    assert hashes(load("reviews.yaml", [])) == found
    assert hashes(load("by_hand.yaml", [])) == found


def test_the_plan_tells_of_each_stage_and_starts_no_ray(folder, monkeypatch):
    # Another test of this process may have started it.
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("the plan starts Ray"))
    plan = documented_job().plan()
    assert list(plan) == ["binarize", "teacher", "train[seed=1] and 2 more", "evaluate"]
    assert "evaluate: evaluates teacher, student on validation rows" in str(plan).splitlines()


def test_every_kind_of_stage_is_a_method_with_its_options():
    for kind in discovery.names("raydistill.stages"):
        method = getattr(rd.Job, kind)
        fields = stage_type(kind).config_type.model_fields
        wanted = {"self", *fields, "stage" if "name" in fields else "name"} - {"kind"}
        assert set(inspect.signature(method).parameters) == wanted
        assert all(f"\n{name}: " in method.__doc__ for name in wanted - {"self"})


def test_what_a_stage_requires_can_be_given_without_its_name():
    positional = {
        kind: [
            name
            for name, one in inspect.signature(getattr(rd.Job, kind)).parameters.items()
            if one.kind is one.POSITIONAL_OR_KEYWORD
        ]
        for kind in ("binarize", "train", "evaluate", "register")
    }
    assert positional == {
        "binarize": ["self", "source"],
        "train": ["self", "corpus", "method", "student"],
        "evaluate": ["self", "corpus", "models"],
        "register": ["self", "model", "name"],
    }


def test_sections_sources_and_matrices_of_methods_are_written_as_a_file_has_them(job):
    data = corpus(job, validation=rated(format="csv"))
    both = [rd.sections.Corpus(data, weight=0.5), rd.sections.Corpus("other", few_shot=2)]
    job.train(
        both,
        student=rd.sections.Student(layers=(0, 1)),
        teachers=[rd.sections.Teacher(Path("folder"), placement="replicate")],
        training=rd.sections.Training(max_steps=3),
        matrix={"method": [rd.KD(temperature=2), rd.PatientKD(student_layers=[0], teacher_layers=[1])]},
    )
    assert section(job, "train") == {
        "kind": "train",
        "corpus": [{"corpus": "binarize", "weight": 0.5}, {"corpus": "other", "few_shot": 2}],
        "student": {"layers": [0, 1]},
        "teachers": [{"checkpoint": "folder", "placement": "replicate"}],
        "training": {"max_steps": 3},
        "matrix": {
            "method": [
                {"name": "kd", "temperature": 2},
                {"name": "patient_kd", "student_layers": [0], "teacher_layers": [1]},
            ]
        },
        "task": {"name": "classification"},
    }
    assert section(job, "binarize")["validation"]["format"] == "csv"


def test_a_student_before_training_and_one_run_of_several_can_be_named(job):
    data = corpus(job)
    student = job.train(data, rd.Finetune(), rd.from_checkpoint("base", head="new"), matrix={"seed": [1, 2]})
    named = {"before": student.before_training, "second": "train[seed=2]", "by loss": student.best("loss")}
    job.evaluate(data, named)
    assert section(job, "evaluate")["models"] == {
        "before": "train@initial",
        "second": "train[seed=2]",
        "by loss": "train@best_loss",
    }


def test_options_of_the_model_and_of_the_student_go_to_their_sections():
    student = rd.from_layers("base", [0], revision="v1", layer_plan="sps")
    assert student.as_data() == {
        "init": "layers",
        "checkpoint": {"checkpoint": "base", "head": "new", "revision": "v1"},
        "layers": [0],
        "layer_plan": "sps",
    }


def test_a_task_is_that_of_the_corpus_unless_it_is_given(job):
    data = job.binarize(
        rd.sources.GLUE(task="cola", path="folder"),
        encoding=rd.tasks.GLUE(task="cola", max_length=32),
        tokenizer="base",
    )
    student = rd.from_checkpoint("base", head="new")
    job.train(data, rd.Finetune(), student, name="derived")
    job.train(data, rd.Finetune(), student, name="given", task=rd.tasks.Classification(metrics=["f1"]))
    job.train("folder", rd.Finetune(), student, name="outside")
    assert section(job, "derived")["task"] == {"name": "glue", "task": "cola"}
    assert section(job, "given")["task"] == {"name": "classification", "metrics": ["f1"]}
    assert "task" not in section(job, "outside")


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"labels": {1: "bad", 2: None, 3: "bad", 5: "good"}}, ["bad", "good"]),
        ({"label": {"column": "stars", "threshold": 3, "names": ["bad", "good"]}}, ["bad", "good"]),
        ({}, None),
    ],
)
def test_classes_are_those_that_the_source_names(job, options, labels):
    source = rd.sources.Delimited("reviews.csv", text="review", **{"label": "stars", **options})
    job.binarize(source, encoding=rd.tasks.Classification(), tokenizer="base")
    assert section(job, "binarize")["encoding"].get("labels") == labels


def test_a_handle_of_another_job_is_refused(job):
    data = corpus(rd.Job("another"))
    assert refusal(lambda: job.evaluate(data, {"base": "base"})) == (
        "evaluate.corpus is a stage of another job, <stage binarize of job another>; give a stage of job reviews"
    )


def test_a_name_that_is_used_twice_is_refused(job):
    corpus(job)
    assert refusal(lambda: corpus(job)) == (
        "name is 'binarize', which a stage of job reviews has already; give it another name"
    )


def test_a_teacher_that_is_no_model_is_refused(folder):
    job = rd.Job("reviews")
    data = job.binarize(rated(labels=CLASSES), encoding=rd.tasks.Classification(), tokenizer="base", name="data")
    job.train(data, rd.KD(), rd.from_layers("base", [0]), teachers=[data])
    assert refusal(job.plan).endswith("checkpoint is 'data', which makes no model; name a training stage")


def test_a_model_in_memory_is_refused(job):
    data = corpus(job)
    assert refusal(lambda: job.train(data, rd.KD(), rd.from_layers("base", [0]), teachers=[torch.nn.Linear(1, 1)])) == (
        "train.teachers.0 is a Linear, which a job cannot keep; give a number, a word, the folder or name of a model, "
        "or a stage of the job"
    )


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (lambda job: rd.Job("reviews", sed=1), "option is 'sed'; did you mean 'seed'? "),
        (lambda job: rd.Job("my reviews"), "name is 'my reviews'; "),
        (lambda job: job.evaluate("folder", {}, nam="all"), "option is 'nam'; did you mean 'name'? "),
        (lambda job: job.evaluate("folder", {"a": "b"}, max_rows=0), "stages.evaluate.max_rows is 0; "),
        (lambda job: job.evaluate("folder", {"a": "b"}, name=1), "name is 1; "),
        (lambda job: job.evaluate("folder", {"a": "b"}, "c"), "too many positional arguments; give options by "),
        (
            lambda job: job.train("folder", "kdd", rd.from_layers("base", [0])),
            "stages.train.method.name is 'kdd'; did you mean 'kd'? ",
        ),
        (
            lambda job: job.train("folder", "kd", rd.from_layers("base", [0], haed="new")),
            "stages.train.student.haed is ",
        ),
        (lambda job: rd.sections.Training(epochs=1), "option is 'epochs'; did you mean 'num_epochs'? "),
        (lambda job: job.plan(), "stages is {}; "),
    ],
)
def test_what_is_wrong_is_told_in_one_line_where_it_is_written(job, act, line):
    assert refusal(lambda: act(job)).startswith(line)


def test_a_stage_that_is_refused_is_not_added(job):
    refusal(lambda: job.evaluate("folder", {"a": "b"}, max_rows=0))
    job.evaluate("folder", {"a": "b"})
    assert list(job.as_data()["stages"]) == ["evaluate"]


def test_what_is_changed_after_it_was_given_stays_as_it_was(job):
    models = {"a": "b"}
    job.evaluate("folder", models)
    models["c"] = "d"
    job.as_data()["stages"].clear()
    assert section(job, "evaluate")["models"] == {"a": "b"}


@pytest.mark.parametrize("word", ["1e5", "on", "no", "null", "2020-01-01", "0x1f", "~", "1_000", ".5", "", "a: b", "é"])
def test_words_and_numbers_are_read_as_they_were_written(word):
    value = {"word": word, "list": [word, 1e-5, 1e22, 3, -0.5, True, None], 1: word}
    found = yaml_text.parse(yaml_text.dump(value), source="text")
    assert found == value
    assert [type(one) for one in found["list"]] == [type(one) for one in value["list"]]


def test_a_table_has_a_row_for_each_run_with_its_keys_and_figures():
    entries = [
        {"model": "teacher", "assignment": {}, "figures": {"accuracy": 0.75, "rows": 8}, "reference": "teacher"},
        {"model": "student", "assignment": {"seed": 2}, "figures": {"rows": 8}, "reference": "train"},
    ]
    result = JobResult(Path("runs"), summaries={"evaluate": {"entries": entries}, "train": {}})
    table = result.table("evaluate")
    assert list(table.columns) == ["model", "seed", "accuracy", "rows"]
    assert table["model"].tolist() == ["teacher", "student"]
    assert table["accuracy"].isna().tolist() == [False, True]
    assert refusal(lambda: result.table("train")) == "stage is 'train'; Choices: evaluate"


def test_without_the_packages_of_jobs_their_names_name_the_extra_and_the_others_work():
    script = (
        "import sys; sys.modules['pydantic'] = None\n"
        "import raydistill as rd\n"
        "assert rd.tasks.Classification and 'KD' in rd.__all__ and 'Job' not in rd.__all__\n"
        "for name in ('Job', 'from_layers', 'sections'):\n"
        "    try: getattr(rd, name)\n"
        "    except ImportError as error: print(error)\n"
        "try: rd.sources.Delimited\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"raydistill.{name} needs the package pydantic, which is not installed; pip install 'raydistill[runtime]'"
        for name in ("Job", "from_layers", "sections", "sources.Delimited")
    ]

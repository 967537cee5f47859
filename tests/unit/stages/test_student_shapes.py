"""Students of another shape than their teacher, in the plan of a training and as a stage writes them."""

from pathlib import Path

import pytest
import torch

import raydistill as rd
from raydistill.config.sections import ScalingConfig
from raydistill.job.load import load_job
from raydistill.models.checks import num_parameters
from raydistill.models.load import load_config, load_model
from raydistill.stages import _student, _training_plan, train
from raydistill.stages._base import CorpusFacts, Input
from toys.classifiers import CLASSES, CLASSIFIERS
from toys.corpus import random_rows, write_corpus
from toys.words import make_tokenizer

HEAD = "sequence_classification"
SHAPE = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 20}
CORPUS = {"corpus": Input(CorpusFacts("classification", 61, 40, labels=CLASSES))}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    CLASSIFIERS["bert_classes"](3).float().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def config(teacher: str, method: object = "kd", **student) -> train.Config:
    stage = {"kind": "train", "corpus": "corpus", "task": "classification", "method": method, "teachers": [teacher]}
    return train.Config.model_validate({**stage, "training": {"batch_size": 8}, "student": student})


@pytest.mark.parametrize("model_type", ["bert", "electra", "albert"])
def test_a_plan_tells_the_parameters_of_the_student_that_the_stage_writes(teacher, model_type, tmp_path):
    stage = config(teacher, init="random", config={"model_type": model_type, **SHAPE})
    decisions = _training_plan.plan_training(stage, ScalingConfig(), CORPUS)
    files = {path.name: path.read_bytes() for path in Path(teacher).iterdir() if "token" in path.name}
    encoding = {"name": "classification", "labels": list(CLASSES)}
    corpus = write_corpus(tmp_path / "c", random_rows(4), encoding=encoding, tokenizer_files=files)
    _student.write_initial(stage, tmp_path / "initial", Path(teacher), corpus, seed=1)
    student = load_model(tmp_path / "initial", head=HEAD, labels=CLASSES)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    assert f"student {model_type}, {parameters:,} parameters" in decisions.lines[0]
    assert num_parameters(decisions.student, head=HEAD) == parameters
    written = load_config(tmp_path / "initial")
    assert {key: getattr(written, key) for key in SHAPE} == SHAPE
    assert torch.isfinite(student(torch.tensor([[4, 5, 6]])).logits).all()


def test_a_shape_that_the_teachers_family_lacks_is_refused_by_the_plan(teacher):
    with pytest.raises(
        ValueError, match=r"^student: config of a bert: key is 'hiden_size'; did you mean 'hidden_size'"
    ):
        _training_plan.plan_training(config(teacher, init="random", config={"hiden_size": 24}), ScalingConfig(), CORPUS)


def test_a_student_with_fewer_positions_than_the_rows_is_refused(teacher):
    few = config(teacher, init="random", config={**SHAPE, "max_position_embeddings": 16})
    with pytest.raises(ValueError, match="student has 16 positions, the corpus rows of up to 40"):
        _training_plan.plan_training(few, ScalingConfig(), CORPUS)


def test_the_identity_of_a_stage_has_a_shape_where_one_is_given_and_is_otherwise_as_before(teacher):
    plain, shaped = (
        train.Stage("distill", config(teacher, init="random", num_layers=2, **more)).identity(ScalingConfig())
        for more in ({}, {"config": SHAPE})
    )
    assert "config" not in plain["student"]
    assert shaped["student"]["config"] == SHAPE


def test_a_job_takes_a_shape_from_python_as_from_a_file():
    job = rd.Job("shapes")
    data = job.binarize(rd.sources.Text("a.txt"), encoding=rd.tasks.MLM(max_length=16), tokenizer="m", name="data")
    job.train(data, rd.KD(), teachers=["m"], student=rd.sections.Student(init="random", config=SHAPE), name="distill")
    made = load_job(job.as_data())
    assert made.stages["distill"].config.student.config == SHAPE

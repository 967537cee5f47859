"""Students of another shape than their teacher, in the plan of a training and as a stage writes them."""

import shutil
from pathlib import Path

import pytest
import torch

import raydistill as rd
from raydistill.config.sections import ScalingConfig
from raydistill.data.unit_scores import COMBINED, ScoreFacts, write_scores
from raydistill.job.load import load_job
from raydistill.models.checks import num_parameters
from raydistill.models.importance import Scores
from raydistill.models.load import load_config, load_model
from raydistill.stages import _models, _student, _training_plan, train
from raydistill.stages._base import CorpusFacts, Input
from toys.classifiers import CLASSES, CLASSIFIERS
from toys.corpus import random_rows, write_corpus
from toys.words import make_tokenizer

HEAD = "sequence_classification"
SHAPE = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 20}
SLICE = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 20}
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


def written(stage: train.Config, teacher: str, folder: Path, **options):
    """The student that a stage writes for the teacher's classes."""
    files = {path.name: path.read_bytes() for path in Path(teacher).iterdir() if "token" in path.name}
    encoding = {"name": "classification", "labels": list(CLASSES)}
    corpus = write_corpus(folder / "c", random_rows(4), encoding=encoding, tokenizer_files=files)
    _student.write_initial(stage, folder / "initial", Path(teacher), corpus, seed=1, **options)
    return load_model(folder / "initial", head=HEAD, labels=CLASSES)


@pytest.mark.parametrize(
    ("init", "model_type"), [("random", "bert"), ("random", "electra"), ("random", "albert"), ("sliced", "bert")]
)
def test_a_plan_tells_the_parameters_of_the_student_that_the_stage_writes(teacher, init, model_type, tmp_path):
    shape = SHAPE if init == "random" else SLICE
    stage = config(teacher, init=init, config={"model_type": model_type, **shape})
    decisions = _training_plan.plan_training(stage, ScalingConfig(), CORPUS)
    student = written(stage, teacher, tmp_path)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    assert f"student {model_type}, {parameters:,} parameters" in decisions.lines[0]
    assert num_parameters(decisions.student, head=HEAD) == parameters
    own = load_config(tmp_path / "initial")
    assert {key: getattr(own, key) for key in shape} == shape
    assert torch.isfinite(student(torch.tensor([[4, 5, 6]])).logits).all()


def test_a_sliced_student_has_the_chosen_blocks_of_the_teacher_and_its_outputs(teacher, tmp_path):
    start = {"init": "sliced", "layers": [2, 0], "config": {"hidden_size": 8, "num_attention_heads": 1}}
    student, source = (
        written(config(teacher, **start), teacher, tmp_path),
        load_model(teacher, head=HEAD, labels=CLASSES),
    )
    for position, layer in enumerate(start["layers"]):
        own, theirs = (model.bert.encoder.layer for model in (student, source))
        assert torch.equal(own[position].output.dense.weight, theirs[layer].output.dense.weight[:8])
    assert torch.equal(student.classifier.weight, source.classifier.weight[:, :8])


def scored(folder: Path, model: str) -> Path:
    """Scores of a model by which its second head and its last neurons matter most."""
    content = _models.content_of(Path(model))
    facts = ScoreFacts(
        model="m",
        model_folder=model,
        model_hash=content,
        lam=1,
        temperature=1,
        corpus_hash="",
        part="",
        rows=1,
        task="",
    )
    folder.mkdir()
    heads = torch.tensor([[0.0, 1.0]]).expand(3, 2)
    write_scores(folder, facts, {COMBINED: Scores(heads, torch.arange(24.0).expand(3, 24))})
    return folder


def test_a_student_of_important_units_has_those_of_the_scores(teacher, tmp_path):
    folder = scored(tmp_path / "scores", teacher)
    start = {"init": "sliced", "config": SLICE, "layers": [0], "units": "important", "scores": str(folder)}
    stage = config(teacher, **{**start, "config": {**SLICE, "num_hidden_layers": 1}})
    assert train.Stage("distill", stage).references()["student.scores"] == str(folder)
    _training_plan.plan_training(stage, ScalingConfig(), CORPUS)
    student = written(stage, teacher, tmp_path, scores=folder)
    own, theirs = (one.bert.encoder.layer[0] for one in (student, load_model(teacher, head=HEAD, labels=CLASSES)))
    assert torch.equal(own.attention.self.key.weight, theirs.attention.self.key.weight[8:, :8])
    assert torch.equal(own.intermediate.dense.weight, theirs.intermediate.dense.weight[4:, :8])


def test_scores_of_another_model_are_refused(teacher, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    CLASSIFIERS["bert_classes"](3, seed=9).float().save_pretrained(other)
    folder = scored(tmp_path / "scores", str(other))
    stage = config(teacher, init="sliced", config=SLICE, layers=[0, 1], units="important", scores=str(folder))
    with pytest.raises(
        ValueError, match=r"student\.scores is .*, which are of a different model from the one that is sliced"
    ):
        _training_plan.plan_training(stage, ScalingConfig(), CORPUS)


def test_a_shape_that_the_teachers_family_lacks_is_refused_by_the_plan(teacher):
    with pytest.raises(
        ValueError, match=r"^student: config of a bert: key is 'hiden_size'; did you mean 'hidden_size'"
    ):
        _training_plan.plan_training(config(teacher, init="random", config={"hiden_size": 24}), ScalingConfig(), CORPUS)


def test_a_student_with_fewer_positions_than_the_rows_is_refused(teacher):
    few = config(teacher, init="random", config={**SHAPE, "max_position_embeddings": 16})
    with pytest.raises(ValueError, match="student has 16 positions, but the corpus has rows of up to 40"):
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

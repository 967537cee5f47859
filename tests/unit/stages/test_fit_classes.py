"""Trainings of classifiers: heads, classes and methods that do not fit are refused before anything runs."""

from pathlib import Path

import pytest
import torch

from raydistill.config.sections import ScalingConfig
from raydistill.models.load import load_model
from raydistill.stages import _models, _student, _training_plan, train
from raydistill.stages._base import CorpusFacts, Input
from toys.classifiers import CLASSES, CLASSIFIERS
from toys.corpus import random_rows, write_corpus
from toys.models import toy_bert
from toys.words import make_tokenizer

HEAD = "sequence_classification"
UNCAUSAL = {"name": "causal", "alpha_causal_ce": 0}
CORPUS = {"corpus": Input(CorpusFacts("classification", 61, 40, labels=CLASSES))}
OF_SCORES = {"name": "classification", "metrics": ["pearson"]}
SCORES = {"corpus": Input(CorpusFacts("classification", 61, 40))}


def saved(folder: Path, model: torch.nn.Module) -> str:
    model.float().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    nameless = CLASSIFIERS["bert_classes"](4)
    nameless.config.id2label = {number: f"LABEL_{number}" for number in range(3)}
    return {
        "classifier": saved(root / "classifier", CLASSIFIERS["bert_classes"](4, seed=3)),
        "nameless": saved(root / "nameless", nameless),
        "language": saved(root / "language", toy_bert(4)),
        "spans": saved(root / "spans", CLASSIFIERS["bert_spans"](4)),
    }


def checked(earlier=CORPUS, **sections):
    stage = {
        "kind": "train",
        "corpus": "corpus",
        "task": "classification",
        "method": "kd",
        "training": {"batch_size": 8},
        **sections,
    }
    return _training_plan.plan_training(train.Config.model_validate(stage), ScalingConfig(), earlier)


def test_a_student_of_some_blocks_of_a_checkpoint_that_is_not_the_teacher_gets_the_classes_of_the_corpus(folders):
    start = {"init": "layers", "checkpoint": {"checkpoint": folders["language"], "head": "new"}, "layers": [0, 2]}
    forecast = checked(teachers=[folders["classifier"]], student=start)
    student = forecast.makes.configs[""]
    assert (student.model_type, student.num_hidden_layers) == ("bert", 2)
    assert student.id2label == dict(enumerate(CLASSES))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"checkpoint": "nameless"}, r"teachers\.0: the checkpoint calls its classes LABEL_0, LABEL_1, LABEL_2; say"),
        (
            {"checkpoint": "nameless", "labels": ["red", "green", "pink"]},
            "has the classes red, green, pink, but the corpus has",
        ),
        ({"checkpoint": "language"}, r"teachers\.0 has no sequence_classification head \(classifier\.weight is not in"),
        ({"checkpoint": "spans"}, r"teachers\.0 has no sequence_classification head"),
    ],
)
def test_a_teacher_whose_classes_are_unknown_or_others_is_refused(folders, teacher, message):
    teacher = {**teacher, "checkpoint": folders[teacher["checkpoint"]]}
    with pytest.raises(ValueError, match=message):
        checked(teachers=[teacher], student={"init": "layers", "layers": [0]})


def test_outputs_that_the_user_names_are_taken(folders):
    teacher = {"checkpoint": folders["nameless"], "labels": ["blue", "green", "red"]}
    assert checked(teachers=[teacher], student={"init": "layers", "layers": [0]}).makes


def test_a_teacher_of_classes_is_refused_for_scores(folders):
    with pytest.raises(ValueError, match="has 3 classes, but the corpus has scores"):
        checked(SCORES, task=OF_SCORES, teachers=[folders["classifier"]], student={"init": "layers", "layers": [0]})


def test_a_method_of_language_models_is_refused_for_a_classifier(folders):
    with pytest.raises(ValueError, match="method causal takes mlm, clm"):
        checked(method=UNCAUSAL, teachers=[folders["classifier"]], student={"init": "layers", "layers": [0]})


def test_a_method_of_classifiers_is_refused_for_a_language_model(folders):
    earlier = {"corpus": Input(CorpusFacts("mlm", 61, 40))}
    message = "needs a masked_lm head; method dynamic_data works with sequence_classification"
    with pytest.raises(ValueError, match=message):
        checked(
            earlier,
            task="mlm",
            method="dynamic_data",
            teachers=[folders["language"]],
            student={"init": "layers", "layers": [0]},
        )


def test_a_classifier_cannot_become_a_distilbert_which_has_no_such_head_to_copy(folders):
    start = {"init": "layers", "layers": [0], "architecture": "distilbert"}
    with pytest.raises(ValueError, match=r"student\.architecture is 'distilbert'.*choices: bert"):
        checked(teachers=[folders["classifier"]], student=start)


def initial(folders, folder, seed, corpus, **student):
    stage = train.Stage(
        "distill",
        train.Config.model_validate(
            {"kind": "train", "corpus": "c", "task": "classification", "method": "finetune", "student": student}
        ),
    )
    origin = _models.resolve(stage.config.student.checkpoint, {})
    _student.write_initial(stage.config, folder / "initial", origin, corpus, seed=seed)
    return load_model(folder / "initial", head=HEAD, labels=CLASSES)


def test_a_fresh_head_follows_the_seed_and_the_blocks_are_those_of_the_checkpoint(folders, tmp_path):
    files = {}
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    for path in (tmp_path / "tokenizer").iterdir():
        files[path.name] = path.read_bytes()
    encoding = {"name": "classification", "labels": list(CLASSES)}
    corpus = write_corpus(tmp_path / "c", random_rows(4), encoding=encoding, tokenizer_files=files)
    start = {"init": "layers", "layers": [1, 3], "checkpoint": {"checkpoint": folders["language"], "head": "new"}}
    students = [
        initial(folders, tmp_path / str(number), seed, corpus, **start) for number, seed in enumerate((1, 1, 2))
    ]
    assert torch.equal(students[0].classifier.weight, students[1].classifier.weight)
    assert not torch.equal(students[0].classifier.weight, students[2].classifier.weight)
    source = load_model(folders["language"], head="masked_lm")
    for position, layer in enumerate((1, 3)):
        copied = students[2].bert.encoder.layer[position].attention.self.query.weight
        assert torch.equal(copied, source.bert.encoder.layer[layer].attention.self.query.weight)

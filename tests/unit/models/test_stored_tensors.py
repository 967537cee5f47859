"""Published classifiers open under the names that transformers has for their tensors, from safetensors or a pickle."""

import os

import pytest
import torch
from safetensors.torch import load_file

from raydistill.models.checks import missing_head
from raydistill.models.conversion import to_safetensors
from raydistill.models.kept_units import KeptUnits, kept_of
from raydistill.models.layer_selection import random_student, student_from_layers
from raydistill.models.load import load_model, load_tokenizer
from raydistill.models.predictions import predict
from raydistill.models.pruning import pruned
from raydistill.tasks.glue import STARK_LABELS, TASKS
from toy_checkpoint import toy_tokenizer
from toy_classifiers import CLASSIFIERS
from toy_stark import published_batch, published_folder, published_tensors

HEAD = "sequence_classification"
LOGITS = [[0.234862, 0.267801], [0.432697, 0.227716], [0.185008, 0.211233]]


def logits_of(model):
    with torch.no_grad():
        return predict(model, published_batch(), head=HEAD).logits.tolist()


def test_published_logits_of_a_published_checkpoint(tmp_path):
    folder = published_folder(tmp_path)
    model = load_model(folder, head=HEAD, dtype=torch.float64)
    assert logits_of(model) == [pytest.approx(row, abs=0.7e-6) for row in LOGITS]
    assert missing_head(folder, head=HEAD) == []
    tensors = published_tensors()
    assert torch.equal(model.bert.pooler.dense.weight, tensors["cls.0.weight"].double())
    assert torch.equal(model.classifier.bias, tensors["cls.3.bias"].double())


def test_published_logits_of_a_single_output(tmp_path):
    model = load_model(published_folder(tmp_path, num_labels=1), head=HEAD, labels=[], dtype=torch.float64)
    expected = [[0.234862], [0.432697], [0.185008]]
    assert logits_of(model) == [pytest.approx(row, abs=0.7e-6) for row in expected]


def test_outputs_of_a_published_checkpoint_are_found_by_their_names(tmp_path):
    folder = published_folder(tmp_path)
    with pytest.raises(ValueError, match="calls its classes LABEL_0, LABEL_1; say what they are"):
        load_model(folder, head=HEAD, labels=TASKS["rte"].labels)
    model = load_model(folder, head=HEAD, labels=TASKS["rte"].labels, names=STARK_LABELS["rte"])
    # The published order is the other way round.
    assert logits_of(model) == [pytest.approx(row[::-1], abs=1e-6) for row in LOGITS]


def test_published_orders_are_of_the_tasks_own_classes():
    assert STARK_LABELS["mnli"] == ("contradiction", "neutral", "entailment")
    assert STARK_LABELS["qnli"] == STARK_LABELS["rte"] == ("not_entailment", "entailment")
    assert all(sorted(STARK_LABELS[name]) == sorted(task.labels) for name, task in TASKS.items())


def pickled(folder, content):
    published_folder(folder)
    (folder / "model.safetensors").unlink()
    toy_tokenizer().save_pretrained(folder)
    torch.save(content, folder / "pytorch_model.bin")
    return folder


def test_a_pickled_checkpoint_becomes_one_of_safetensors_with_names_of_its_classes(tmp_path):
    folder = pickled(tmp_path / "published", published_tensors())
    to_safetensors(folder, tmp_path / "made", labels=STARK_LABELS["rte"])
    assert "bert.pooler.dense.weight" in load_file(tmp_path / "made" / "model.safetensors")
    model = load_model(tmp_path / "made", head=HEAD, labels=TASKS["rte"].labels)
    assert logits_of(model) == [pytest.approx(row[::-1], abs=1e-6) for row in LOGITS]
    assert len(load_tokenizer(tmp_path / "made")) == len(toy_tokenizer())
    with pytest.raises(ValueError, match="labels names 3 classes, the checkpoint has 2"):
        to_safetensors(folder, tmp_path / "other", labels=["a", "b", "c"])


class Program:
    """Something that a pickle could run."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def test_a_program_in_a_pickle_is_not_run(tmp_path):
    folder = pickled(tmp_path / "published", {"weight": Program(tmp_path / "trace")})
    with pytest.raises(ValueError, match=r"pytorch_model\.bin' is no file of tensors") as caught:
        to_safetensors(folder, tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)]])
def test_a_pickle_of_more_than_tensors_is_refused(content, tmp_path):
    with pytest.raises(ValueError, match=r"pytorch_model\.bin' holds more than tensors") as caught:
        to_safetensors(pickled(tmp_path / "published", content), tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_a_folder_without_a_pickle_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no pytorch_model\.bin"):
        to_safetensors(published_folder(tmp_path / "published"), tmp_path / "made")


def test_a_fresh_student_of_a_pruned_teacher_is_whole_and_its_layers_are_not_copied():
    model = CLASSIFIERS["bert_classes"](2)
    teacher = pruned(model, KeptUnits(((0,), (1,)), ((0, 1), (2,))))
    student = random_student(teacher.config, architecture=None, num_layers=1, seed=0, head=HEAD)
    assert kept_of(student.config) is None
    assert student.bert.encoder.layer[0].intermediate.dense.out_features == 24
    with pytest.raises(ValueError, match="the teacher is pruned; copy layers of the checkpoint"):
        student_from_layers(teacher, architecture=None, layers=[0], vocab_transform=False)

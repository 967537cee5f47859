"""Published classifiers open under the names that transformers has for their tensors, from safetensors or a pickle."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from raydistill.models.checks import missing_head
from raydistill.models.conversion import to_safetensors
from raydistill.models.kept_units import KeptUnits, kept_of
from raydistill.models.layer_selection import random_student, student_from_layers
from raydistill.models.load import head_in, load_model, load_tokenizer
from raydistill.models.predictions import predict
from raydistill.models.pruning import pruned
from raydistill.models.stored_tensors import own_names
from raydistill.tasks.glue import STARK_LABELS, TASKS
from toys.checkpoint import toy_tokenizer
from toys.classifiers import CLASSIFIERS
from toys.stark import published_batch, published_folder, published_tensors

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


def test_the_idle_pooler_of_a_published_checkpoint_is_left_out_wherever_it_stands():
    for names in (sorted(published_tensors()), sorted(published_tensors(), reverse=True)):
        found = own_names(names)
        assert not {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} & {*found}
        assert found["cls.0.weight"] == "bert.pooler.dense.weight"


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
    assert head_in(tmp_path / "made") == HEAD
    with pytest.raises(ValueError, match="labels names 3 classes, the checkpoint has 2"):
        to_safetensors(folder, tmp_path / "other", labels=["a", "b", "c"])


def test_the_head_of_a_published_checkpoint_is_known_whatever_class_its_configuration_names(tmp_path):
    folder = published_folder(tmp_path)
    content = json.loads((folder / "config.json").read_text())
    for named in (None, ["BertKD"]):
        (folder / "config.json").write_text(json.dumps({**content, "architectures": named}))
        assert head_in(folder) == HEAD
    CLASSIFIERS["bert_tokens"](1).save_pretrained(tmp_path / "tokens")
    assert head_in(tmp_path / "tokens") == "token_classification"


def test_every_file_of_a_tokenizer_comes_along_and_no_other(tmp_path):
    folder = pickled(tmp_path / "published", published_tensors())
    of_tokenizers = ("vocab.json", "merges.txt", "spiece.model", "added_tokens.json", "special_tokens_map.json")
    for name in (*of_tokenizers, "code.py", "optimizer.pt"):
        (folder / name).write_text("{}")
    to_safetensors(folder, tmp_path / "made")
    found = {path.name for path in (tmp_path / "made").iterdir()}
    assert {*of_tokenizers, "tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"} == found


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    folder = pickled(tmp_path / "published", published_tensors())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(OSError, match="disk full"):
        to_safetensors(folder, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


class Program:
    """Something that a pickle could run."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def test_a_program_in_a_pickle_is_not_run(tmp_path):
    folder = pickled(tmp_path / "published", {"weight": Program(tmp_path / "trace")})
    with pytest.raises(ValueError, match=r"pytorch_model\.bin' is not a file of tensors") as caught:
        to_safetensors(folder, tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)]])
def test_a_pickle_of_more_than_tensors_is_refused(content, tmp_path):
    with pytest.raises(ValueError, match=r"pytorch_model\.bin' holds more than tensors") as caught:
        to_safetensors(pickled(tmp_path / "published", content), tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 no archive"])
def test_a_damaged_pickle_is_told_in_one_line(content, tmp_path):
    folder = pickled(tmp_path / "published", {})
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"pytorch_model\.bin' is not a file of tensors .*; fetch the checkpoint again"
    ) as e:
        to_safetensors(folder, tmp_path / "made")
    assert "\n" not in str(e.value)


def test_tensors_that_share_their_memory_are_written_apart(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    folder = pickled(tmp_path / "published", {"one": shared, "other": shared, "turned": shared.T})
    to_safetensors(folder, tmp_path / "made")
    found = load_file(tmp_path / "made" / "model.safetensors")
    assert torch.equal(found["one"], shared)
    assert torch.equal(found["other"], shared)
    assert torch.equal(found["turned"], shared.T)


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

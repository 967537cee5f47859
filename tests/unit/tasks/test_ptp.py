import math

import numpy as np
import pytest
import torch

from raydistill.batch import collate
from raydistill.methods._base import stored_name
from raydistill.models import layer_plan
from raydistill.models.load import load_model, save_model
from raydistill.tasks import ptp
from raydistill.tasks._base import Encoding
from toys.checkpoint import toy_tokenizer
from toys.classifiers import CLASSES, CLASSIFIERS, toy_classifier
from toys.models import toy_bert

TEACHER = torch.tensor([(3, 0), (0.9, 0), (0, 4), (0, 0.2), (2.94, 0)])
ENCODING = Encoding(61, {}, (), 40, num_rows=5, labels=("no", "yes"))


def batch_of(logits=TEACHER, gold=(0, 0, 0, 0, 0), **columns):
    rows = [np.array([2, 7 + number, 3, 9, 3]) for number in range(len(gold))]
    batch = collate(rows, range(len(gold)), pad_id=0)
    batch = batch.with_columns(label=torch.tensor(gold), second=torch.tensor([5, 3, 5, 5, 5]), **columns)
    return batch if logits is None else batch.with_columns(teacher_0_logits=logits)


def labels_of(batch, **options):
    return ptp.Task(ptp.Config(**options), ENCODING).prepare_batch(batch)["labels"]


@pytest.mark.parametrize(
    ("published", "labels"),
    [
        # Run on the published code.
        ("mrpc", [0, 1, 2, 3, 1]),
        ("rte", [0, 1, 2, 3, 0]),
        ("qnli", [1, 1, 2, 3, 1]),
        ("sst2", [1, 1, 2, 3, 1]),
        ("cola", [0, 1, 2, 3, 1]),
    ],
)
def test_published_labels(published, labels):
    found = labels_of(batch_of(), published=published)
    assert found.tolist() == labels
    assert found.dtype == torch.int64


def test_the_two_thresholds_are_of_right_and_of_wrong_predictions():
    # Both certain to the same degree, the first right and the second wrong.
    batch = batch_of(torch.tensor([(2.0, 0.0), (2.0, 0.0)]), gold=(0, 1)).with_columns(second=torch.tensor([5, 5]))
    confidence = math.exp(2) / (math.exp(2) + 1)
    below, above = confidence - 0.01, confidence + 0.01
    assert labels_of(batch, t1=below, t2=above).tolist() == [0, 3]
    assert labels_of(batch, t1=above, t2=below).tolist() == [1, 2]
    assert labels_of(batch, t=below).tolist() == [0, 2]
    assert labels_of(batch, t=above).tolist() == [1, 3]


def test_a_confidence_at_the_threshold_is_not_above_it():
    logits = torch.zeros(1, 2)
    assert ptp.ptp_labels(logits, torch.tensor([0]), t1=0.5, t2=0.5).tolist() == [1]
    # 0.8 in float32 is above 0.8 in float64; a comparison in float64 would say that it is confident.
    at = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log()
    assert ptp.ptp_labels(at, torch.tensor([0]), t1=0.8, t2=0.8).tolist() == [1]


def test_types_of_pairs_are_those_of_classification():
    prepared = ptp.Task(ptp.Config(t=0.9), ENCODING).prepare_batch(batch_of())
    assert prepared["token_types"].view(5, 5).tolist() == [[0] * 5, [0, 0, 0, 1, 1], [0] * 5, [0] * 5, [0] * 5]


def test_the_column_is_the_one_that_stored_logits_have():
    assert stored_name(0, "logits") in batch_of().columns
    assert ptp.Task.NEEDS_STORED == ("logits",)


def test_a_batch_without_the_teachers_logits_is_refused_in_one_line():
    with pytest.raises(ValueError, match="the batch has no teacher_0_logits; capture a teacher's logits") as caught:
        labels_of(batch_of(None), t=0.9)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "thresholds are missing; give published, or t, or both t1 and t2"),
        ({"t1": 0.9}, r"thresholds are t1 0\.9; give published"),
        ({"t": 0.9, "t1": 0.9, "t2": 0.9}, r"thresholds are t 0\.9, t1 0\.9, t2 0\.9; give"),
        ({"published": "rte", "t": 0.9}, "thresholds are published rte, t"),
        ({"published": "mnli"}, "published is 'mnli'; .*Choices: rte, mrpc, sst2, qnli, cola; or give t1 and t2"),
        ({"t": 1.5}, r"t is 1\.5; a threshold of a probability must be between 0 and 1"),
        ({"t1": 0.9, "t2": 0.0}, r"t2 is 0\.0; a threshold"),
        ({"t": float("nan")}, "t is nan; a threshold"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ptp.Config(**options)


def test_students_have_four_named_outputs_whatever_the_classes_are():
    task = ptp.Task(ptp.Config(t=0.9), ENCODING)
    assert task.labels == ptp.LABELS
    assert len(task.labels) == 4
    with pytest.raises(ValueError, match="the labels of the corpus are scores; it needs classes"):
        ptp.Task.outputs(ptp.Config(t=0.9), ())


def test_accuracy_and_loss_are_of_the_four_classes():
    task = ptp.Task(ptp.Config(published="mrpc"), ENCODING)
    student = toy_classifier(toy_bert, 1, labels=ptp.LABELS).eval()
    batch = task.prepare_batch(batch_of())
    found = task.metrics({name: value.numpy() for name, value in task.score(student, batch).items()})
    width = batch["input_ids"].shape[1]
    logits = student(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"].long(),
        token_type_ids=batch["token_types"].view(-1, width),
    ).logits
    labels = torch.tensor([0, 1, 2, 3, 1])
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-9)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
    assert set(task.higher_is_better(task.config)) == {"accuracy", "loss"}


@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "c", "d")], ids=["fewer", "as many"])
def test_encoder_pooler_and_plan_go_on_and_the_head_starts_anew(tmp_path, classes):
    student = toy_classifier(toy_bert, 2, labels=ptp.LABELS, dtype=torch.float32)
    layer_plan.set_plan(student.config, layer_plan.make_plan("sps", 2))
    save_model(student, toy_tokenizer(), tmp_path)
    following, again, other = (
        load_model(tmp_path, head="sequence_classification", labels=classes, allow_new_head=True, seed=seed)
        for seed in (1, 1, 2)
    )
    before, after = student.state_dict(), following.state_dict()
    carried = [name for name in before if name.startswith("bert.")]
    assert any(name.startswith("bert.pooler.") for name in carried)
    assert all(torch.equal(before[name], after[name]) for name in carried)
    assert after["classifier.weight"].shape == (len(classes), 16)
    if len(classes) == 4:
        assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert after["classifier.bias"].abs().max() == 0
    assert after["classifier.weight"].std() > 0
    assert torch.equal(after["classifier.weight"], again.state_dict()["classifier.weight"])
    assert not torch.equal(after["classifier.weight"], other.state_dict()["classifier.weight"])
    assert layer_plan.plan_of(following.config) == layer_plan.make_plan("sps", 2)


def test_a_checkpoint_of_the_same_classes_keeps_its_head_even_if_a_new_one_is_allowed(tmp_path):
    made = CLASSIFIERS["bert_classes"](1, dtype=torch.float32)
    save_model(made, toy_tokenizer(), tmp_path)
    turned = load_model(tmp_path, head="sequence_classification", labels=CLASSES[::-1], allow_new_head=True)
    torch.testing.assert_close(turned.classifier.weight, made.classifier.weight.flip(0))

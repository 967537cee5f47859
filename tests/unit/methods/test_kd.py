import copy

import pytest
import torch

from raydistill.batch import encoding_prefix, pad_rows
from raydistill.losses.classification import label_loss
from raydistill.methods import kd
from raydistill.methods._base import stored_name
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.encodings import LETTERS_PAD, letters_model
from toys.integration import unlabelled

STUDENT = torch.tensor([[0.7, 0.2], [-0.5, 0.9], [0.3, 0.1]], dtype=torch.float64)
TEACHER = torch.tensor([[1.2, -0.3], [0.1, 0.4], [-2.0, 1.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1])


def of_logits(student_logits, teacher_logits, labels, **options):
    """The loss and terms of a method whose models say these logits."""
    method = kd.Method(kd.Config(**options), CLASSIFIERS["bert_classes"](1), [])
    batch = toy_labelled_batch("classes", rows=range(len(labels)))
    batch = batch.with_columns(labels=labels, **{stored_name(0, "logits"): teacher_logits})
    denominators = method.denominators(batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kd, "predict", lambda *_, **__: type("Said", (), {"logits": student_logits}))
        return method(batch, denominators)


@pytest.mark.parametrize(
    ("temperature", "alpha", "reduction", "total", "divergence"),
    [
        # Run on the published code (Pea-KD, and its earlier release for the mean).
        (10.0, 0.7, "batchmean", 0.6070556640625, 0.6539890766),
        (2.0, 0.5, "batchmean", 0.4991625249, 0.5007806420),
        (10.0, 0.7, "mean", 0.3781594932, 0.3269945383),
        (2.0, 0.5, "mean", 0.3739673495, 0.2503903210),
    ],
)
def test_published_values(temperature, alpha, reduction, total, divergence):
    loss, terms = of_logits(STUDENT, TEACHER, LABELS, temperature=temperature, alpha=alpha, reduction=reduction)
    # The published values were computed in float32, whose rounding of log probabilities the temperature multiplies.
    rounding = temperature**2 * torch.finfo(torch.float32).eps / 2
    assert loss.item() == pytest.approx(total, abs=rounding)
    assert terms["kd"].item() == pytest.approx(divergence, abs=rounding)
    assert terms["ce"].item() == pytest.approx(0.4975444078, abs=1e-7)


def test_soft_labels_alone_need_no_true_ones():
    method = kd.Method(kd.Config(alpha=1.0), CLASSIFIERS["bert_classes"](1), [])
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = toy_labelled_batch("classes", rows=range(5)).with_columns(**{stored_name(0, "logits"): logits})
    found = [method(one, method.denominators(one))[0].item() for one in (batch, unlabelled(batch))]
    assert found[0] == found[1] > 0
    assert not kd.Method.requirements(kd.Config(alpha=1.0)).labels
    assert kd.Method.requirements(kd.Config(alpha=0.9)).labels


def test_the_divergence_is_that_of_torch():
    _, terms = of_logits(STUDENT, TEACHER, LABELS, temperature=10.0)
    soft, target = (STUDENT / 10).log_softmax(-1), (TEACHER / 10).softmax(-1)
    expected = 100 * torch.nn.functional.kl_div(soft, target, reduction="batchmean")
    assert terms["kd"].item() == pytest.approx(expected.item(), abs=1e-12)


def test_scores_are_compared_by_their_squared_error():
    student = torch.tensor([[2.5], [1.9], [4.4]], dtype=torch.float64)
    teacher = torch.tensor([[3.2], [1.1], [4.0]], dtype=torch.float64)
    loss, terms = of_logits(student, teacher, torch.tensor([3.0, 1.5, 5.0]), alpha=0.5)
    # StarK's golden value of the same formula.
    assert loss.item() == pytest.approx(0.3433333337, abs=1e-7)
    assert set(terms) == {"mse", "kd"}


def test_stored_logits_give_the_loss_and_gradient_of_a_running_teacher():
    teacher, student = CLASSIFIERS["bert_classes"](3, seed=5), CLASSIFIERS["bert_classes"](2)
    live = kd.Method(kd.Config(), student, [teacher])
    batch = toy_labelled_batch("classes")
    with torch.no_grad():
        said = teacher.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long()).logits
    stored = kd.Method(kd.Config(), copy.deepcopy(student), [])
    losses = []
    for method, one in ((live, batch), (stored, batch.with_columns(**{stored_name(0, "logits"): said}))):
        loss, _ = method(one, method.denominators(one))
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    for first, second in zip(live.student.parameters(), stored.student.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=1e-12, rtol=0)


def test_without_soft_labels_there_is_no_teacher_and_no_such_term():
    config = kd.Config(alpha=0.0)
    needs = kd.Method.requirements(config)
    assert (needs.min_teachers, needs.max_teachers) == (0, 0)
    method = kd.Method(config, CLASSIFIERS["bert_classes"](1), [])
    batch = toy_labelled_batch("classes")
    assert set(method(batch, method.denominators(batch))[1]) == {"ce"}


@pytest.mark.parametrize(("key", "value"), [("alpha", 1.5), ("temperature", 0.0), ("reduction", "sum")])
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value!r}"):
        kd.Config(**{key: value})


def test_scores_need_a_single_output():
    with pytest.raises(ValueError, match="labels are scores, but the model has 2 outputs"):
        label_loss(STUDENT, torch.tensor([1.0, 2.0, 3.0]))


def test_a_mean_over_classes_is_refused_for_answers_whose_classes_are_the_places_of_a_batch():
    assert "question_answering" in kd.Method.requirements(kd.Config()).heads
    assert "question_answering" not in kd.Method.requirements(kd.Config(reduction="mean")).heads


def test_rows_that_a_teacher_ran_on_are_counted_and_stored_ones_are_not():
    batch = toy_labelled_batch("classes")
    live = kd.Method(kd.Config(), CLASSIFIERS["bert_classes"](1), [CLASSIFIERS["bert_classes"](1, seed=5)])
    live(batch, live.denominators(batch))
    assert live.teacher_rows == 6
    stored = kd.Method(kd.Config(), CLASSIFIERS["bert_classes"](1), [])
    said = batch.with_columns(**{stored_name(0, "logits"): torch.zeros(6, 3, dtype=torch.float64)})
    stored(said, stored.denominators(said))
    assert stored.teacher_rows == 0


def test_a_teacher_of_another_tokenizer_reads_its_own_ids_and_the_student_the_corpuss():
    teacher, student = letters_model(seed=4), CLASSIFIERS["bert_classes"](2)
    batch = toy_labelled_batch("classes", rows=range(3))
    ids = [[13, 1, 2, 12], [13, 5, 12], [13, 8, 9, 3, 4, 12]]
    further = pad_rows([torch.tensor(row).numpy() for row in ids], pad_id=LETTERS_PAD, prefix=encoding_prefix(1))
    both = batch.with_columns(**further)
    method = kd.Method(kd.Config(), student, [teacher])
    method.encodings = (1,)
    with torch.no_grad():
        said = torch.cat([teacher(input_ids=torch.tensor([row])).logits for row in ids])
    expected, _ = kd.Method(kd.Config(), student)(
        batch.with_columns(**{stored_name(0, "logits"): said}), method.denominators(batch)
    )
    found, _ = method(both, method.denominators(both))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert method.teacher_rows == 3

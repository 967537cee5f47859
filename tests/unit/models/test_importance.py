"""Scores of heads and neurons: the published values, and what holds of every model."""

import pickle

import pytest
import torch

from raydistill.layout import Layout
from raydistill.losses.classification import label_loss
from raydistill.methods._unit_scores import distillation_loss, row_gradients
from raydistill.models import layer_plan
from raydistill.models.importance import (
    EXPRESSIVENESS,
    FRIENDLINESS,
    RowGradients,
    Scores,
    ScoreSums,
    interpolated,
    normalized,
)
from raydistill.models.kept_units import num_neurons
from raydistill.models.predictions import predict
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.models import pad_further
from toys.stark import head_and_neuron_masks, published_batch, published_model

HEAD = "sequence_classification"
KINDS = {
    "bert_classes": ("classes", HEAD),
    "roberta_classes": ("classes", HEAD),
    "distilbert_classes": ("classes", HEAD),
    "bert_scores": ("scores", HEAD),
    "bert_tokens": ("tokens", "token_classification"),
    "bert_spans": ("spans", "question_answering"),
}
# Half of the last printed digit, and the rounding of the published float32 run.
PRINTED = 0.5e-7 + 1e-7


def summed(*gradients, score_batch_size=None):
    sums, start = ScoreSums(score_batch_size=score_batch_size), 0
    for part in gradients:
        end = start + part.heads.shape[0]
        sums.add(part, torch.arange(start, end))
        start = end
    return sums.scores()


def assert_same(found, expected, **options):
    for part in ("heads", "neurons"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), **options)


def test_published_scores_of_one_batch(tmp_path):
    model = published_model(tmp_path)
    found = summed(row_gradients(model, published_batch(), head=HEAD)[EXPRESSIVENESS], score_batch_size=32)
    expected = [[0.0200905, 0.0086089, 0.0047672, 0.0037178], [0.0192572, 0.0091265, 0.00018416, 0.0093541]]
    assert found.heads.tolist() == [pytest.approx(layer, abs=PRINTED) for layer in expected]
    assert found.neurons.sum(1).tolist() == pytest.approx([0.2216711, 0.3420635], abs=1e-6)
    assert found.neurons[0, :4].tolist() == pytest.approx([0.0012905, 0.0052890, 0.0043153, 0.00049555], abs=PRINTED)
    expected = [[0.885901, 0.379613, 0.210211, 0.163938], [0.827420, 0.392136, 0.007913, 0.401914]]
    assert normalized(found).heads.tolist() == [pytest.approx(layer, abs=1.5e-6) for layer in expected]


def test_published_scores_against_a_student_in_two_batches(tmp_path):
    teacher, student = published_model(tmp_path / "t"), published_model(tmp_path / "s", 1, base=5000)
    found, task_losses, student_losses = [], [], []
    for rows in ((0, 1), (2,)):
        batch = published_batch(rows)
        logits = predict(student, batch, head=HEAD).logits
        taught = predict(teacher, batch, head=HEAD).logits
        task_losses.append(label_loss(taught, batch["labels"]).mean().item())
        total = distillation_loss(taught, logits, temperature=2.0) + 0.5 * label_loss(logits, batch["labels"])
        student_losses.append(total.mean().item())
        found.append(row_gradients(teacher, batch, head=HEAD, student_logits=logits, temperature=2.0))
    assert task_losses == pytest.approx([0.7553162575, 0.6801206470], abs=1.2e-7)
    assert student_losses == pytest.approx([1.8097319603, 1.9391163588], abs=2.4e-7)
    expressive, friendly = (
        summed(*(gradients[name] for gradients in found), score_batch_size=2) for name in (EXPRESSIVENESS, FRIENDLINESS)
    )
    for scores, heads, neurons in (
        (
            expressive,
            [[0.0894015, 0.0195226, 0.0993490, 0.0087854], [0.0356152, 0.0220230, 0.0204920, 0.0508483]],
            [0.0033552, 0.0122115, 0.0078368, 0.00091172],
        ),
        (
            friendly,
            [[0.0325743, 0.0067834, 0.0181504, 0.0013901], [0.0071284, 0.0060276, 0.0101389, 0.0195150]],
            [0.0010697, 0.0022429, 0.0016190, 0.00048451],
        ),
    ):
        assert scores.heads.tolist() == [pytest.approx(layer, abs=PRINTED) for layer in heads]
        assert scores.neurons[0, :4].tolist() == pytest.approx(neurons, abs=PRINTED)


@pytest.mark.parametrize("name", KINDS)
def test_a_rows_gradient_is_that_of_its_own_masks(name):
    kind, head = KINDS[name]
    model, batch = CLASSIFIERS[name](2).eval(), toy_labelled_batch(kind)
    found = row_gradients(model, batch, head=head)[EXPRESSIVENESS]
    sizes = (2, num_neurons(model.config))
    heads, neurons = (torch.ones(batch.num_rows, 2, size, dtype=torch.float64, requires_grad=True) for size in sizes)
    row = Layout.of(batch["attention_mask"], batch["token_index"]).row
    with head_and_neuron_masks(model, heads=heads, neurons=neurons, row=row):
        losses = label_loss(predict(model, batch, head=head).logits, batch["labels"])
    if kind == "tokens":
        of = batch["label_index"] // batch["input_ids"].shape[1]
        total = sum(losses[of == number].mean() for number in range(batch.num_rows))
    else:
        total = losses.sum() / (2 if kind == "spans" else 1)
    expected = RowGradients(*torch.autograd.grad(total, [heads, neurons]))
    assert_same(found, expected, atol=1e-12, rtol=0)
    assert expected.heads.abs().min() > 0


def test_a_row_scores_the_same_in_every_batch():
    model = CLASSIFIERS["bert_classes"](2).eval()
    student = CLASSIFIERS["bert_classes"](1, seed=5).eval()

    def scores(*batches):
        found = [
            row_gradients(model, batch, head=HEAD, student_logits=predict(student, batch, head=HEAD).logits)
            for batch in batches
        ]
        return [summed(*(gradients[name] for gradients in found)) for name in (EXPRESSIVENESS, FRIENDLINESS)]

    together = scores(toy_labelled_batch("classes"))
    alone = scores(*(toy_labelled_batch("classes", [row]) for row in range(6)))
    padded = scores(pad_further(toy_labelled_batch("classes"), 5))
    for whole, *others in zip(together, alone, padded, strict=True):
        for other in others:
            assert_same(other, whole, atol=1e-12, rtol=0)
    # The published sums do depend on it.
    gradients = row_gradients(model, toy_labelled_batch("classes"), head=HEAD)[EXPRESSIVENESS]
    assert not torch.allclose(summed(gradients, score_batch_size=3).heads, together[0].heads / 3, rtol=1e-3)


def test_rows_are_grouped_by_their_places_whatever_batch_or_rank_they_came_in():
    generator = torch.Generator().manual_seed(0)
    heads, neurons = (torch.randn(7, 2, size, generator=generator, dtype=torch.float64) for size in (3, 5))
    gradients = RowGradients(heads, neurons)
    expected = sum(heads[start : start + 3].mean(0).abs() for start in (0, 3, 6))
    ranks = []
    for places in ([5, 0, 3], [6, 2], [1, 4]):
        sums = ScoreSums(score_batch_size=3)
        sums.add(gradients.take(torch.tensor(places)), torch.tensor(places))
        ranks.append(pickle.loads(pickle.dumps(sums)))
    first, *others = ranks
    for other in others:
        first.merge(other)
    assert first.num_rows == 7
    torch.testing.assert_close(first.scores().heads, expected, atol=1e-14, rtol=0)
    assert_same(first.scores(), summed(gradients, score_batch_size=3), atol=1e-14, rtol=0)


def test_ranks_without_groups_add_up_to_one():
    gradients = RowGradients(torch.randn(6, 2, 3).double(), torch.randn(6, 2, 5).double())
    first, second = ScoreSums(), ScoreSums()
    first.add(gradients.take(torch.tensor([0, 1])), torch.tensor([0, 1]))
    second.add(gradients.take(torch.tensor([2, 3, 4, 5])), torch.tensor([2, 3, 4, 5]))
    first.merge(ScoreSums())
    first.merge(second)
    torch.testing.assert_close(first.scores().heads, gradients.heads.abs().sum(0))
    torch.testing.assert_close(first.scores().neurons, gradients.neurons.abs().sum(0))


def test_half_precision_scores_are_summed_in_float32():
    batch = toy_labelled_batch("classes")
    exact = row_gradients(CLASSIFIERS["bert_classes"](2), batch, head=HEAD)[EXPRESSIVENESS]
    found = row_gradients(CLASSIFIERS["bert_classes"](2, dtype=torch.bfloat16), batch, head=HEAD)[EXPRESSIVENESS]
    assert found.heads.dtype == found.neurons.dtype == torch.float32
    for part in ("heads", "neurons"):
        error = getattr(found, part).double() - getattr(exact, part)
        # bfloat16 keeps 8 bits; a wrong sum would be off by its whole size.
        assert error.norm() < 0.1 * getattr(exact, part).norm()


def test_published_distillation_loss_of_scores_without_the_students_own_part():
    said, taught, true = torch.tensor([[2.5, 3.2, 3.0], [1.9, 1.1, 1.5], [4.4, 4.0, 5.0]]).double().split(1, dim=1)
    own = 0.5 * (said - true).square().mean()
    found = distillation_loss(taught, said, temperature=2.0)
    assert (found.mean() + own).item() == pytest.approx(0.3433333337, abs=1e-7)


def test_sums_over_many_rows_keep_the_small_ones():
    sums = ScoreSums()
    rows = torch.tensor([2.0**30, *([1.0] * 64)])[:, None, None]
    for number, row in enumerate(rows):
        sums.add(RowGradients(row[None], row[None]), torch.tensor([number]))
    # In float32 one more than 2**30 is 2**30.
    assert sums.scores().heads.item() == 2**30 + 64


def test_a_frozen_model_is_scored_and_no_gradient_is_left():
    batch = toy_labelled_batch("classes")
    free = CLASSIFIERS["bert_classes"](2)
    frozen = CLASSIFIERS["bert_classes"](2).requires_grad_(False)
    with torch.no_grad():
        found = row_gradients(frozen, batch, head=HEAD)[EXPRESSIVENESS]
    assert_same(found, row_gradients(free, batch, head=HEAD)[EXPRESSIVENESS], atol=1e-14, rtol=0)
    assert all(parameter.grad is None for parameter in free.parameters())
    assert not free.training
    assert not any(module._forward_pre_hooks for module in free.modules())


def test_lam_interpolates_between_normalized_scores():
    scores = {
        EXPRESSIVENESS: Scores(torch.tensor([[3.0, 4.0], [0.0, 0.0]]).double(), torch.tensor([[1.0], [2.0]]).double()),
        FRIENDLINESS: Scores(torch.tensor([[1.0, 0.0], [5.0, 12.0]]).double(), torch.tensor([[7.0], [0.0]]).double()),
    }
    mixed = interpolated(scores, lam=0.25)
    assert mixed.heads[0].tolist() == pytest.approx([0.25 * 0.6 + 0.75, 0.25 * 0.8], abs=1e-6)
    assert mixed.heads[1].tolist() == pytest.approx([0.75 * 5 / 13, 0.75 * 12 / 13], abs=1e-6)
    assert mixed.neurons.tolist() == [pytest.approx([1.0], abs=1e-6), pytest.approx([0.25], abs=1e-6)]
    mostly = interpolated(scores, lam=0.99)
    assert mostly.heads[1].tolist() == pytest.approx([0.01 * 5 / 13, 0.01 * 12 / 13], abs=1e-6)
    assert_same(interpolated({EXPRESSIVENESS: scores[EXPRESSIVENESS]}, lam=1.0), normalized(scores[EXPRESSIVENESS]))
    for lam in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"lam is .*; it must be between 0"):
            interpolated(scores, lam=lam)
    with pytest.raises(ValueError, match=r"lam is 0\.5, but units were scored without a student"):
        interpolated({EXPRESSIVENESS: scores[EXPRESSIVENESS]}, lam=0.5)


def test_what_cannot_be_scored_is_refused_in_one_line():
    batch = toy_labelled_batch("classes")
    with pytest.raises(ValueError, match="the model is a gpt2; heads and neurons can be pruned of bert, camembert, "):
        row_gradients(CLASSIFIERS["gpt2_classes"](1), batch, head=HEAD)
    shared = CLASSIFIERS["bert_classes"](1)
    layer_plan.set_plan(shared.config, layer_plan.make_plan("sps", 1))
    with pytest.raises(ValueError, match="layer_plan; heads and neurons of shared blocks"):
        row_gradients(shared, batch, head=HEAD)
    with pytest.raises(ValueError, match="rows have no label"):
        row_gradients(
            CLASSIFIERS["bert_classes"](1),
            type(batch)({name: value for name, value in batch.columns.items() if name != "labels"}, 0, 0, 0),
            head=HEAD,
        )
    with pytest.raises(ValueError, match="score_batch_size is 0; it must be at least 1"):
        ScoreSums(score_batch_size=0)
    with pytest.raises(ValueError, match="there is no row to score"):
        ScoreSums().scores()
    no_numbers = torch.full((1, 1, 2), torch.nan)
    for heads, neurons in ((no_numbers, torch.ones(1, 1, 2)), (torch.ones(1, 1, 2), no_numbers)):
        broken = ScoreSums()
        broken.add(RowGradients(heads, neurons), torch.tensor([0]))
        with pytest.raises(ValueError, match="scores are not finite"):
            broken.scores()

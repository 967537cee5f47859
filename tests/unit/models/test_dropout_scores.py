import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from raydistill.models.dropout_scores import certainty, dropout_scores, has_dropout
from raydistill.models.predictions import predict
from toy_classifiers import CLASSIFIERS, toy_labelled_batch

HEAD = "sequence_classification"


def model(dropout: float):
    return CLASSIFIERS["bert_classes"](2, dropout=dropout, dtype=torch.float32).eval()


def test_certainty_is_one_less_the_normalized_entropy_of_the_mean():
    passes = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    expected = 1 - entropy(passes.mean(0).double().numpy(), axis=-1) / math.log(3)
    np.testing.assert_allclose(certainty(passes).numpy(), expected, atol=1e-6)
    assert certainty(passes).dtype == torch.float32


def test_certainty_is_one_for_a_single_class_and_zero_for_none():
    assert certainty(torch.tensor([[[1.0, 0.0, 0.0]]])).item() == 1.0
    assert certainty(torch.full((2, 1, 4), 0.25)).item() == pytest.approx(0.0, abs=1e-7)


def test_passes_that_disagree_are_not_certain_though_each_is():
    sure = torch.eye(2)[:, None]
    assert certainty(sure[:1]).item() == 1.0
    assert certainty(sure).item() == pytest.approx(0.0, abs=1e-7)


def test_without_dropout_every_pass_is_that_of_evaluation():
    batch, teacher = toy_labelled_batch("classes"), model(0.0)
    expected = certainty(predict(teacher, batch, head=HEAD).logits.detach().softmax(-1)[None])
    torch.testing.assert_close(dropout_scores(teacher, batch, head=HEAD, seeds=[1, 2, 3]), expected)


def test_scores_are_a_function_of_the_seeds_and_leave_generators_and_model_as_they_were():
    batch, teacher = toy_labelled_batch("classes"), model(0.3)
    before = torch.random.get_rng_state()
    first = dropout_scores(teacher, batch, head=HEAD, seeds=range(8))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(dropout_scores(teacher, batch, head=HEAD, seeds=range(8)), first)
    assert not torch.equal(dropout_scores(teacher, batch, head=HEAD, seeds=range(8, 16)), first)
    assert not any(module.training for module in teacher.modules())


def test_attention_drops_too():
    batch = toy_labelled_batch("classes")
    teacher = model(0.0)
    quiet = dropout_scores(teacher, batch, head=HEAD, seeds=range(4))
    for block in teacher.bert.encoder.layer:
        block.attention.self.dropout.p = 0.5
    assert not torch.allclose(dropout_scores(teacher, batch, head=HEAD, seeds=range(4)), quiet, atol=1e-4)


def test_scores_of_16_passes_lie_within_their_sampling_error_of_those_of_many():
    batch, teacher = toy_labelled_batch("classes"), model(0.3)
    many = torch.stack([dropout_scores(teacher, batch, head=HEAD, seeds=range(n, n + 16)) for n in range(0, 800, 16)])
    assert many.std(dim=0).min() > 0
    # The mean of 50 draws of 16 passes is itself uncertain by a seventh of a draw's spread.
    one = dropout_scores(teacher, batch, head=HEAD, seeds=range(10_000, 10_016))
    assert ((one - many.mean(dim=0)).abs() <= 4 * many.std(dim=0)).all()


def test_a_configuration_says_whether_a_model_drops_anything():
    assert has_dropout(model(0.1).config)
    assert not has_dropout(model(0.0).config)

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from raydistill.models import layer_plan
from raydistill.models.dropout_scores import certainty, dropout_scores, has_dropout, pass_seeds, single_pass_scores
from raydistill.models.load import with_dropout
from raydistill.models.predictions import predict
from toys.classifiers import CLASSIFIERS, toy_classifier, toy_labelled_batch
from toys.families import MASKED, toy_gpt2, toy_llama

HEAD = "sequence_classification"


def model(dropout: float):
    return CLASSIFIERS["bert_classes"](2, dropout=dropout, dtype=torch.float32).eval()


def test_certainty_is_one_less_the_normalized_entropy_of_the_mean():
    passes = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    expected = 1 - entropy(passes.mean(0).double().numpy(), axis=-1) / math.log(3)
    np.testing.assert_allclose(certainty(passes).numpy(), expected, atol=1e-6)
    assert certainty(passes).dtype == torch.float32


def test_certainty_is_that_of_the_published_formula_to_all_digits_of_float64():
    """The four passes of section 9.1 of the specification: z_t + k c_t g(shape, .07, .2, 1) for k from 0 to 3."""
    passes = {
        (4, 2): ((0.21, 0.9), 0.5, [0.65956296643, 0.86590951867, 0.84157080121, 0.88539470406]),
        (4, 3): ((0.13, 0.5), 0.25, [0.36160702349, 0.67686521664, 0.80699675957, 0.34386986442]),
    }
    for shape, ((a, b), scale, expected) in passes.items():
        logits = torch.stack([sines(shape, a, b, 3) + k * scale * sines(shape, 0.07, 0.2, 1) for k in range(4)])
        found = certainty(logits.softmax(-1))
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-11, rtol=0)


def sines(shape: tuple[int, ...], a: float, b: float, scale: float) -> torch.Tensor:
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(a * n**2 + b * n + 0.1)).reshape(shape)


def test_half_precision_is_widened_before_the_softmax():
    logits = torch.tensor([[4.0, -4.0, 0.5]])
    expected = single_pass_scores(logits)
    assert single_pass_scores(logits.bfloat16()).dtype == torch.float32
    assert torch.equal(single_pass_scores(logits.bfloat16()), expected)


def test_a_score_of_one_pass_is_taken_at_the_temperature():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 1 - entropy(torch.softmax(logits / 2.5, dim=-1).numpy(), axis=-1) / math.log(3)
    np.testing.assert_allclose(single_pass_scores(logits, temperature=2.5).numpy(), expected, atol=1e-12)


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
    of_head = model(0.0).config
    of_head.classifier_dropout = 0.2
    assert has_dropout(of_head)
    assert with_dropout(of_head, 0.0).classifier_dropout == 0.0


@pytest.mark.parametrize("make", [*MASKED, toy_gpt2, toy_llama], ids=lambda make: make.__name__)
def test_dropout_that_is_given_is_that_of_a_model_that_was_loaded_with_it(make):
    batch = toy_labelled_batch("classes")
    quiet, loaded = (toy_classifier(make, 2, dropout=dropout).eval() for dropout in (0.0, 0.3))
    expected = dropout_scores(loaded, batch, head=HEAD, seeds=range(3))
    before = dropout_scores(quiet, batch, head=HEAD, seeds=range(3))
    assert not torch.allclose(before, expected)
    assert torch.equal(dropout_scores(quiet, batch, head=HEAD, seeds=range(3), dropout=0.3), expected)
    assert torch.equal(dropout_scores(quiet, batch, head=HEAD, seeds=range(3)), before)


def test_a_pass_that_fails_leaves_the_model_as_it_was():
    batch, teacher = toy_labelled_batch("classes"), model(0.1)
    with pytest.raises(ValueError, match="head is 'causal_lm'"):
        dropout_scores(teacher, batch, head="causal_lm", seeds=[1], dropout=0.5)
    assert not any(module.training for module in teacher.modules())
    assert {module.p for module in teacher.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}


def test_a_layer_plan_that_is_drawn_in_training_is_plain_in_the_passes():
    teacher = toy_classifier(MASKED[0], 2)
    layer_plan.set_plan(teacher.config, layer_plan.make_plan("stochastic", 2))
    batch = toy_labelled_batch("classes", step=3)
    training, plain = (predict(teacher.train(mode), batch, head=HEAD).logits.detach() for mode in (True, False))
    assert not torch.allclose(training, plain)
    torch.testing.assert_close(dropout_scores(teacher, batch, head=HEAD, seeds=[1]), single_pass_scores(plain))


def test_seeds_of_passes_follow_the_seed_and_the_first_row_alone():
    batch = toy_labelled_batch("classes", [4, 1, 2])
    seeds = pass_seeds(batch, seed=7, passes=5)
    assert len(set(seeds)) == 5
    assert pass_seeds(toy_labelled_batch("classes", [4, 0], epoch=2, step=9), seed=7, passes=5) == seeds
    assert pass_seeds(batch, seed=7, passes=3) == seeds[:3]
    # Tensors of the meta device have no values to wait for.
    assert pass_seeds(replace(batch, first_row=4).to("meta"), seed=7, passes=5) == seeds
    assert not set(seeds) & set(pass_seeds(batch, seed=8, passes=5))
    assert not set(seeds) & set(pass_seeds(toy_labelled_batch("classes", [1, 4]), seed=7, passes=5))

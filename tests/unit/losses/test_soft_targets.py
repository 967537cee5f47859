import math

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax

from raydistill.losses.soft_targets import kl_divergence, soft_cross_entropy, squared_error


def logits(seed: int) -> torch.Tensor:
    return torch.randn(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


def test_kl_divergence_of_a_distribution_with_itself_is_zero():
    assert kl_divergence(logits(0), logits(0), temperature=2.0).abs().max() < 1e-14


def test_kl_divergence_of_two_coins_is_the_closed_form():
    student = torch.tensor([math.log(0.25), math.log(0.75)], dtype=torch.float64)
    teacher = torch.tensor([math.log(0.5), math.log(0.5)], dtype=torch.float64)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(student, teacher, temperature=1.0).item() == pytest.approx(expected, abs=1e-15)


def test_kl_divergence_equals_torchs_batchmean_times_squared_temperature():
    student, teacher = logits(1).flatten(0, 1), logits(2).flatten(0, 1)
    expected = kl_div(log_softmax(student / 2, -1), softmax(teacher / 2, -1), reduction="batchmean") * 4
    torch.testing.assert_close(kl_divergence(student, teacher, temperature=2.0).mean(), expected)


def test_kl_divergence_has_its_direction_from_teacher_to_student():
    forward = kl_divergence(logits(1), logits(2), temperature=2.0)
    assert not torch.allclose(forward, kl_divergence(logits(2), logits(1), temperature=2.0))


def test_kl_divergence_is_finite_where_a_teacher_probability_underflows():
    student, teacher = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -1e4])
    assert kl_divergence(student, teacher, temperature=1.0).item() == pytest.approx(math.log(2))


def test_squared_error_sums_over_classes_and_keeps_rows():
    expected = sum((logits(1)[..., v] - logits(2)[..., v]) ** 2 for v in range(7))
    torch.testing.assert_close(squared_error(logits(1), logits(2)), expected)


def test_half_precision_inputs_are_reduced_in_float32():
    assert kl_divergence(logits(1).bfloat16(), logits(2).bfloat16(), temperature=2.0).dtype == torch.float32
    assert squared_error(logits(1).bfloat16(), logits(2).bfloat16()).dtype == torch.float32


def test_different_shapes_and_temperatures_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="same rows and classes"):
        kl_divergence(logits(0), logits(0)[..., :1], temperature=1.0)
    with pytest.raises(ValueError, match="same rows and classes"):
        squared_error(logits(0), logits(0)[..., :1])
    with pytest.raises(ValueError, match="temperature is 0"):
        kl_divergence(logits(0), logits(0), temperature=0.0)


@pytest.mark.parametrize(("temperature", "expected"), [(2.0, 1.6572532654), (1.0, 0.6110662222)])
def test_published_loss_of_soft_cross_entropy_and_labels(temperature, expected):
    student = torch.tensor([[0.7, 0.2], [-0.5, 0.9], [0.3, 0.1]])
    teacher = torch.tensor([[1.2, -0.3], [0.1, 0.4], [-2.0, 1.5]])
    labels = torch.nn.functional.cross_entropy(student, torch.tensor([0, 1, 1]))
    found = 0.5 * (soft_cross_entropy(student, teacher, temperature=temperature).mean() + labels)
    assert found.item() == pytest.approx(expected, abs=2.4e-7)


def test_soft_cross_entropy_is_the_divergence_and_the_teachers_entropy():
    student, teacher = logits(1).requires_grad_(), logits(2)
    entropy = torch.distributions.Categorical(logits=teacher / 2.0).entropy()
    found = soft_cross_entropy(student, teacher, temperature=2.0)
    divergence = kl_divergence(student, teacher, temperature=2.0)
    torch.testing.assert_close(found, divergence + 4 * entropy)
    gradients = [torch.autograd.grad(part.sum(), student)[0] for part in (found, divergence)]
    torch.testing.assert_close(*gradients)

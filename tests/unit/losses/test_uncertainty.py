import pytest
import torch

from raydistill import dynamic_kd_loss
from raydistill.losses.uncertainty import confidence, divergence_from_labels, margin, normalized_entropy
from toys.dynamic import SMALL, STUDENT, UNCERTAINTY, printed


def test_published_uncertainties():
    assert normalized_entropy(STUDENT).tolist() == printed(UNCERTAINTY, 12)


def test_entropy_is_1_for_equal_logits_and_0_for_a_certain_class():
    logits = torch.tensor([[0.3, 0.3, 0.3], [200.0, 0.0, 0.0]], dtype=torch.float64)
    assert normalized_entropy(logits).tolist() == pytest.approx([1, 0], abs=1e-12)


def test_entropy_has_a_finite_gradient_where_a_probability_underflows():
    logits = torch.tensor([[4000.0, 0.0, -4000.0]], requires_grad=True)
    normalized_entropy(logits).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_confidence_and_margin_of_known_probabilities():
    logits = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    assert confidence(logits).item() == pytest.approx(0.5, abs=1e-12)
    assert margin(logits).item() == pytest.approx(0.2, abs=1e-12)


def test_divergence_from_certain_labels_is_their_cross_entropy():
    labels = torch.tensor([2, 0, 1, 1, 0])
    found = divergence_from_labels(STUDENT, torch.nn.functional.one_hot(labels, 3))
    expected = torch.nn.functional.cross_entropy(STUDENT, labels, reduction="none")
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_divergence_from_soft_labels_is_that_of_torch():
    labels = SMALL.softmax(-1)
    expected = torch.nn.functional.kl_div(STUDENT.log_softmax(-1), labels, reduction="none").sum(-1)
    torch.testing.assert_close(divergence_from_labels(STUDENT, labels), expected, atol=1e-12, rtol=0)


def test_published_value_of_the_plug_in():
    assert dynamic_kd_loss(STUDENT, SMALL).item() == printed(0.902016608591802, 15)


def test_the_plug_in_at_a_temperature_equals_its_formula():
    loss = 0.0
    for student, teacher in zip(STUDENT, SMALL, strict=True):
        p = student.softmax(0)
        weight = -(p * (p + 1e-6).log()).sum() / torch.tensor(3.0, dtype=torch.float64).log()
        target = (teacher / 4).softmax(0)
        loss += weight * 16 * (target * (target.log() - (student / 4).softmax(0).log())).sum() / 5
    assert dynamic_kd_loss(STUDENT, SMALL, 4.0).item() == pytest.approx(loss.item(), abs=1e-12)


def test_weights_of_the_plug_in_have_no_gradient():
    student = STUDENT.clone().requires_grad_()
    dynamic_kd_loss(student, SMALL).backward()
    p = STUDENT.softmax(-1)
    weights = -(p * (p + 1e-6).log()).sum(-1, keepdim=True) / torch.tensor(3.0).double().log()
    # Of a divergence at temperature 1 the gradient is the difference of the two distributions.
    torch.testing.assert_close(student.grad, weights * (p - SMALL.softmax(-1)) / 5, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "message"),
    [
        (torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), 1.0, r"student_logits have shape \(2, 4, 3\)"),
        (torch.zeros(2, 1), torch.zeros(2, 1), 1.0, "two classes or more"),
        (torch.zeros(2, 3), torch.zeros(2, 2), 1.0, "teacher_logits"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 0.0, "temperature is 0.0"),
    ],
)
def test_the_plug_in_refuses_what_it_cannot_compare(student, teacher, temperature, message):
    with pytest.raises(ValueError, match=message):
        dynamic_kd_loss(student, teacher, temperature)

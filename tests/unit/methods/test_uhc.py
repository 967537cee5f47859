import pytest
import torch

from raydistill.methods import uhc
from toys.dynamic import printed
from toys.integration import STUDENT, TEACHERS, UNION, of_logits

PUBLISHED = 1.87373835769279


def test_published_loss():
    loss, terms = of_logits(uhc)
    assert loss.item() == printed(PUBLISHED, 14)
    assert terms["kd"] == loss


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_the_loss_is_that_of_the_students_probabilities_renormalized_over_each_teachers_classes(temperature):
    loss, terms = of_logits(uhc, temperature=temperature)
    student = (STUDENT / temperature).softmax(-1)
    for number, (logits, part) in enumerate(zip(TEACHERS, (slice(0, 2), slice(2, 5)), strict=True)):
        own = student[:, part] / student[:, part].sum(-1, keepdim=True)
        target = (logits / temperature).softmax(-1)
        expected = temperature**2 * (target * (target / own).log()).sum(-1).mean()
        assert terms[f"teacher_{number}_kd"].item() == pytest.approx(expected.item(), abs=1e-12)
    assert loss.item() == pytest.approx(sum(terms[f"teacher_{number}_kd"].item() for number in range(2)), abs=1e-12)


def test_the_weight_scales_the_loss_and_not_the_terms():
    loss, terms = of_logits(uhc, kd_alpha=0.5)
    assert loss.item() == printed(PUBLISHED / 2, 14)
    assert terms["kd"].item() == printed(PUBLISHED, 14)


def test_classes_belong_together_by_name_and_not_by_place():
    turned = (TEACHERS[1][:, [2, 0, 1]], TEACHERS[0][:, [1, 0]])
    loss, _ = of_logits(uhc, turned, labels=(("e", "c", "d"), ("b", "a")))
    assert loss.item() == printed(PUBLISHED, 14)


def test_a_class_that_two_teachers_know_is_in_both_their_parts():
    loss, _ = of_logits(uhc, labels=(("a", "b"), ("c", "b", "d")), union=UNION[:4])
    expected = torch.zeros((), dtype=torch.float64)
    for logits, ids in zip(TEACHERS, ([0, 1], [2, 1, 3]), strict=True):
        student, target = STUDENT[:, ids].softmax(-1), logits.softmax(-1)
        expected += (target * (target / student).log()).sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)

import torch

from raydistill.losses.integrated_targets import (
    agreement,
    concatenated_target,
    hard_choice,
    mixed_target,
    score_margin,
    soft_choice,
)
from toys.integration import TEACHERS

CLASSES = [torch.tensor([1, 0]), torch.tensor([3, 1, 2])]
"""Class 1 is known to both."""


def test_entries_of_one_softmax_over_all_teachers_are_added_by_class():
    entries = torch.cat(TEACHERS, dim=1).div(2).softmax(-1)
    found = concatenated_target(TEACHERS, CLASSES, 4, temperature=2.0)
    expected = torch.stack([entries[:, 1], entries[:, 0] + entries[:, 3], entries[:, 4], entries[:, 2]], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)


def test_the_mean_of_the_teachers_own_distributions_is_0_where_no_teacher_with_weight_knows_a_class():
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    own = [logits.div(3).softmax(-1) for logits in TEACHERS]
    found = mixed_target(TEACHERS, CLASSES, 4, weights=weights, temperature=3.0)
    shared = weights[:, 0] * own[0][:, 0] + weights[:, 1] * own[1][:, 1]
    expected = [weights[:, 0] * own[0][:, 1], shared, weights[:, 1] * own[1][:, 2], weights[:, 1] * own[1][:, 0]]
    torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-14, rtol=0)
    assert found[1, 2:].tolist() == [0, 0]
    torch.testing.assert_close(found.sum(-1), torch.ones(4, dtype=torch.float64), atol=1e-14, rtol=0)


def test_soft_shares_are_the_softmax_of_scores_over_their_temperature():
    scores = torch.tensor([[0.9, 0.2, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(soft_choice(scores, temperature=0.2), (scores / 0.2).softmax(-1))


def test_the_hard_choice_is_the_first_of_the_greatest_scores_also_of_a_single_row():
    scores = torch.tensor([[0.1, 0.8, 0.8], [0.9, 0.2, 0.9], [0.1, 0.2, 0.3]])
    assert hard_choice(scores).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert hard_choice(scores[2:]).tolist() == [[0, 0, 1]]


def test_the_margin_is_between_the_two_greatest_of_any_number_of_scores():
    scores = torch.tensor([[0.1, 0.9, 0.4], [0.5, 0.5, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(score_margin(scores), torch.tensor([0.5 + 1e-6, 1e-6], dtype=torch.float64))


def test_rows_agree_whose_likeliest_classes_are_the_same():
    logits = torch.tensor([[0.1, 2.0, 0.3], [1.0, 0.0, 0.0], [0.0, 0.0, 4.0]], requires_grad=True)
    found = agreement(logits, torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.0, 0.4, 0.6]]))
    assert found.tolist() == [1, 0, 1]
    assert not found.requires_grad

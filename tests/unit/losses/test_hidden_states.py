import pytest
import torch
from torch.nn.functional import cosine_embedding_loss

from raydistill.losses.hidden_states import cosine_distance
from raydistill.losses.reduction import mean_over


def states(seed: int) -> torch.Tensor:
    return torch.randn(11, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_cosine_distance_is_zero_one_and_two_for_equal_orthogonal_and_opposite_vectors():
    x = torch.tensor([[3.0, 0.0]] * 3, dtype=torch.float64)
    y = torch.tensor([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(cosine_distance(x, y), torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))


def test_mean_cosine_distance_and_gradient_equal_torchs_cosine_embedding_loss():
    ours, theirs = states(0).requires_grad_(), states(0).requires_grad_()
    loss = mean_over(cosine_distance(ours, states(1)), torch.tensor(11.0))
    expected = cosine_embedding_loss(theirs, states(1), torch.ones(11, dtype=torch.float64))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_zero_vector_has_distance_one_and_a_finite_gradient():
    zero = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    distance = cosine_distance(zero, states(0)[:1])
    distance.sum().backward()
    assert distance.item() == 1.0
    assert torch.isfinite(zero.grad).all()


def test_different_widths_are_refused():
    with pytest.raises(ValueError, match="equal widths"):
        cosine_distance(states(0), states(0)[:, :1])


def test_mean_over_divides_by_the_count_that_is_given_not_by_the_rows_at_hand():
    assert mean_over(torch.ones(3), torch.tensor(12.0, dtype=torch.float64)).item() == 0.25

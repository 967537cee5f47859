import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.losses.soft_targets import kl_divergence, squared_error

ROWS, LABELLED, VOCABULARY, WIDTH, TEACHER_WIDTH = 13, 5, 17, 6, 4
WEIGHTS = {"kl": 0.7, "ce": 1.3, "mse": 0.01}


class Inputs:
    def __init__(self, dtype: torch.dtype = torch.float64, bias: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

        self.states = normal(ROWS, WIDTH).requires_grad_()
        self.weight = normal(VOCABULARY, WIDTH).requires_grad_()
        self.bias = normal(VOCABULARY).requires_grad_() if bias else None
        self.teacher_states = normal(ROWS, TEACHER_WIDTH)
        self.teacher_projection = (normal(VOCABULARY, TEACHER_WIDTH), normal(VOCABULARY))
        self.labels = torch.randint(VOCABULARY, (LABELLED,), generator=generator)

    @property
    def differentiable(self) -> list[torch.Tensor]:
        return [tensor for tensor in (self.states, self.weight, self.bias) if tensor is not None]

    def losses(self, weights=WEIGHTS, chunk_rows=4):
        return vocabulary_losses(
            self.states,
            (self.weight, self.bias),
            self.teacher_states,
            self.teacher_projection,
            weights=weights,
            labels=self.labels,
            temperature=2.0,
            chunk_rows=chunk_rows,
        )

    def full_losses(self) -> dict[str, torch.Tensor]:
        logits = torch.nn.functional.linear(self.states, self.weight, self.bias)
        teacher_logits = torch.nn.functional.linear(self.teacher_states, *self.teacher_projection)
        return {
            "kl": kl_divergence(logits, teacher_logits, temperature=2.0).sum(),
            "ce": cross_entropy(logits[:LABELLED], self.labels, reduction="sum"),
            "mse": squared_error(logits, teacher_logits).sum(),
        }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("terms", [("kl",), ("ce",), ("mse",), ("kl", "ce"), ("kl", "ce", "mse")])
def test_sums_and_gradients_equal_losses_of_full_logits(terms, bias):
    inputs = Inputs(bias=bias)
    weights = {term: WEIGHTS[term] for term in terms}
    total, sums = inputs.losses(weights)
    full = inputs.full_losses()
    assert set(sums) == set(terms)
    for term in terms:
        torch.testing.assert_close(sums[term], full[term].detach(), rtol=1e-12, atol=1e-12)
    expected = sum(weights[term] * full[term] for term in terms)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(3 * total, inputs.differentiable)
    for gradient, wanted in zip(gradients, torch.autograd.grad(3 * expected, inputs.differentiable), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


def test_terms_whose_weight_is_zero_add_nothing_to_total_and_gradients():
    inputs = Inputs()
    total, sums = inputs.losses({"kl": 0.0, "mse": 0.0, "ce": 1.3})
    expected, _ = inputs.losses({"ce": 1.3})
    assert sums["kl"] > 0
    torch.testing.assert_close(total, expected, rtol=1e-13, atol=0)
    gradients = zip(
        torch.autograd.grad(total, inputs.differentiable),
        torch.autograd.grad(expected, inputs.differentiable),
        strict=True,
    )
    for gradient, wanted in gradients:
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


def test_gradients_by_hand_pass_gradcheck():
    inputs = Inputs()

    def total(states, weight, bias):
        inputs.states, inputs.weight, inputs.bias = states, weight, bias
        return inputs.losses()[0]

    assert torch.autograd.gradcheck(total, tuple(inputs.differentiable))


@pytest.mark.parametrize("chunk_rows", [1, 4, LABELLED, ROWS, 100])
def test_chunk_size_does_not_change_results(chunk_rows):
    inputs = Inputs()
    total, sums = inputs.losses(chunk_rows=chunk_rows)
    expected, expected_sums = inputs.losses(chunk_rows=3)
    torch.testing.assert_close(total, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(sums, expected_sums, rtol=1e-13, atol=1e-13)
    gradients = zip(
        torch.autograd.grad(total, inputs.differentiable),
        torch.autograd.grad(expected, inputs.differentiable),
        strict=True,
    )
    for gradient, wanted in gradients:
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that a tensor made in its scope had."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in torch.utils._pytree.tree_leaves(result):
            if isinstance(made, torch.Tensor):
                self.numel = max(self.numel, made.numel())
        return result


def test_no_tensor_of_all_rows_by_vocabulary_is_made():
    rows, vocabulary, width, chunk_rows = 64, 50, 3, 8
    states = torch.randn(rows, width, requires_grad=True)
    projection = (torch.randn(vocabulary, width, requires_grad=True), torch.randn(vocabulary, requires_grad=True))
    teacher = (torch.randn(rows, width), (torch.randn(vocabulary, width), None))
    with LargestTensor() as chunked:
        total, _ = vocabulary_losses(
            states,
            projection,
            *teacher,
            weights=dict.fromkeys(WEIGHTS, 1.0),
            labels=torch.zeros(20, dtype=torch.int64),
            chunk_rows=chunk_rows,
        )
        total.backward()
    padded_vocabulary = 64
    assert chunked.numel == chunk_rows * padded_vocabulary
    with LargestTensor() as full:
        (states @ projection[0].T).logsumexp(-1).sum().backward()
    assert full.numel == rows * vocabulary


def test_weights_may_be_tensors_of_any_float_dtype():
    inputs = Inputs(torch.float32)
    as_tensors = {term: torch.tensor(weight, dtype=torch.float64) for term, weight in WEIGHTS.items()}
    total, _ = inputs.losses(as_tensors)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, inputs.losses()[0])


def test_bfloat16_inputs_have_float32_sums_and_gradients_of_their_own_dtype():
    inputs, exact = Inputs(torch.bfloat16), Inputs()
    total, sums = inputs.losses()
    assert {total.dtype, *(value.dtype for value in sums.values())} == {torch.float32}
    torch.testing.assert_close(total.double(), exact.losses()[0], rtol=0.02, atol=0)
    total.backward()
    assert {tensor.grad.dtype for tensor in inputs.differentiable} == {torch.bfloat16}


def test_no_rows_give_zero_losses_and_zero_gradients():
    inputs = Inputs()
    states = torch.zeros(0, WIDTH, dtype=torch.float64, requires_grad=True)
    total, sums = vocabulary_losses(
        states, (inputs.weight, inputs.bias), weights={"ce": 1.0}, labels=torch.zeros(0, dtype=torch.int64)
    )
    total.backward()
    assert total.item() == sums["ce"].item() == 0
    assert inputs.weight.grad.abs().sum() == 0


def test_a_frozen_weight_gets_no_gradient_and_no_grad_mode_keeps_none():
    inputs = Inputs()
    inputs.weight.requires_grad_(False)
    inputs.losses()[0].backward()
    assert inputs.weight.grad is None
    assert inputs.states.grad is not None
    with torch.no_grad():
        assert not inputs.losses()[0].requires_grad


def test_unknown_terms_and_missing_inputs_are_refused():
    inputs = Inputs()
    with pytest.raises(ValueError, match="choices: kl, ce, mse"):
        inputs.losses({"nll": 1.0})
    with pytest.raises(ValueError, match="labels are None"):
        vocabulary_losses(inputs.states, (inputs.weight, None), weights={"ce": 1.0})
    with pytest.raises(ValueError, match="there is no teacher"):
        vocabulary_losses(inputs.states, (inputs.weight, None), weights={"kl": 1.0})

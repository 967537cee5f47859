"""The paths through the chunked head that depend on sizes, dtypes and devices."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

from raydistill.losses import chunked_head, head_chunk
from raydistill.losses.chunked_head import default_chunk_rows, vocabulary_losses
from raydistill.losses.soft_targets import kl_divergence, squared_error

ROWS, LABELLED, WIDTH, TEMPERATURE = 29, 11, 6, 1.7
WEIGHTS = {"kl": 0.7, "ce": 1.3, "mse": 0.02}


def inputs(vocabulary=100, dtype=torch.float64, scale=1.0, rows=ROWS, labelled=LABELLED):
    """States, projection and labels of a student, and states and projection of a teacher."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return (scale * torch.randn(*shape, dtype=torch.float64, generator=generator)).to(dtype)

    student = [
        tensor.requires_grad_() for tensor in (normal(rows, WIDTH), normal(vocabulary, WIDTH), normal(vocabulary))
    ]
    teacher = normal(rows, WIDTH), (normal(vocabulary, WIDTH), normal(vocabulary))
    return student, teacher, torch.randint(vocabulary, (labelled,), generator=generator)


def chunked(student, teacher, labels, weights=WEIGHTS, **options):
    states, weight, bias = student
    return vocabulary_losses(
        states, (weight, bias), *teacher, weights=weights, labels=labels, temperature=TEMPERATURE, **options
    )


def full(student, teacher, labels, weights=WEIGHTS):
    """Total of the plain formulas on the logits of all rows."""
    logits, teacher_logits = linear(*student), linear(teacher[0], *teacher[1])
    terms = {
        "kl": lambda: kl_divergence(logits, teacher_logits, temperature=TEMPERATURE).sum(),
        "mse": lambda: squared_error(logits, teacher_logits).sum(),
        "ce": lambda: cross_entropy(logits[: labels.shape[0]], labels, reduction="sum"),
    }
    return sum(weight * terms[term]() for term, weight in weights.items())


def largest_error(gradients, wanted):
    """Largest difference of gradients as a share of the largest entry, the worst over tensors."""
    return max(
        ((gradient - of).abs().max() / of.abs().max()).item() for gradient, of in zip(gradients, wanted, strict=True)
    )


def shrink(monkeypatch, slab_rows=3, tile=7):
    """Make slabs and tiles small enough for toy sizes to have several."""
    padded_row_bytes = 112 * torch.float64.itemsize
    monkeypatch.setattr(head_chunk, "_SLAB_BYTES", slab_rows * padded_row_bytes)
    monkeypatch.setattr(head_chunk, "_TILE_COLUMNS", tile)


@pytest.mark.parametrize("labelled", [0, 1, 8, ROWS])
@pytest.mark.parametrize("terms", [("kl", "ce"), ("ce",), ("kl", "mse"), ("mse", "ce"), ("kl", "ce", "mse")])
def test_slabs_and_tiles_change_no_loss_and_no_gradient(monkeypatch, terms, labelled):
    shrink(monkeypatch)
    weights = {term: WEIGHTS[term] for term in terms}
    student, teacher, labels = inputs(labelled=labelled)
    total, _ = chunked(student, teacher, labels, weights, chunk_rows=8)
    expected = full(student, teacher, labels, weights)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(total, student)
    if labelled == 0 and terms == ("ce",):
        assert all(gradient.abs().max() == 0 for gradient in gradients)
    else:
        assert largest_error(gradients, torch.autograd.grad(expected, student)) < 1e-10


@pytest.mark.parametrize("vocabulary", [1, 16, 96, 97])
def test_padding_of_the_vocabulary_to_whole_cache_lines_changes_nothing(vocabulary):
    student, teacher, labels = inputs(vocabulary)
    total, _ = chunked(student, teacher, labels)
    expected = full(student, teacher, labels)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(total, student)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, student), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-12)


def test_float32_gradients_are_within_1e_5_of_float64_plain_formulas_of_a_real_vocabulary():
    sizes = {"vocabulary": 30522, "scale": 1.5}
    exact = inputs(**sizes)
    exact_gradients = torch.autograd.grad(full(*exact), exact[0])
    narrow = inputs(dtype=torch.float32, **sizes)
    total, sums = chunked(*narrow, chunk_rows=10)
    assert largest_error(torch.autograd.grad(total, narrow[0]), exact_gradients) < 1e-5
    for term, value in chunked(*exact, chunk_rows=10)[1].items():
        torch.testing.assert_close(sums[term].double(), value, rtol=1e-5, atol=0)


def test_logits_far_apart_give_finite_losses_and_gradients():
    student, teacher, labels = inputs(dtype=torch.float32, scale=12.0)
    total, sums = chunked(student, teacher, labels)
    exact = inputs(scale=12.0)
    torch.testing.assert_close(total.double(), full(*exact), rtol=1e-5, atol=0)
    assert all(value.isfinite() for value in sums.values())
    gradients = torch.autograd.grad(total, student)
    assert largest_error(gradients, torch.autograd.grad(full(*exact), exact[0])) < 1e-5


def test_equal_models_have_no_kl():
    student, _, labels = inputs(dtype=torch.float32)
    states, weight, bias = (tensor.detach() for tensor in student)
    _, sums = chunked(student, (states, (weight, bias)), labels)
    assert sums["kl"].abs().item() == 0
    assert sums["mse"].item() == 0


def test_bfloat16_differs_from_float32_by_its_rounding():
    student, teacher, labels = inputs(vocabulary=300, dtype=torch.bfloat16)
    total, _ = chunked(student, teacher, labels, chunk_rows=10)
    gradients = torch.autograd.grad(total, student)
    wide = [tensor.detach().float().requires_grad_() for tensor in student]
    states, (weight, bias) = teacher
    expected = full(wide, (states.float(), (weight.float(), bias.float())), labels)
    # One rounding of the logits, the slopes and the gradients each, to 8 bits.
    torch.testing.assert_close(total, expected, rtol=2**-8, atol=0)
    assert largest_error([gradient.float() for gradient in gradients], torch.autograd.grad(expected, wide)) < 3 * 2**-8


@pytest.mark.parametrize("loss_scale", [1.0, 2.0**16, 2.0**20])
def test_float16_loses_no_gradient_to_weights_of_one_over_a_count(loss_scale):
    student, (states, projection), labels = inputs(vocabulary=300, dtype=torch.float16)
    of_teacher = states.float(), tuple(part.float() for part in projection)
    weights = {"kl": torch.tensor(0.25 / 20_000), "ce": torch.tensor(0.25 / 3_000)}
    total, _ = vocabulary_losses(
        student[0], (student[1], student[2]), states, projection, weights=weights, labels=labels, temperature=2.0
    )
    gradients = torch.autograd.grad(total * loss_scale, student)
    wide = [tensor.detach().float().requires_grad_() for tensor in student]
    expected, _ = vocabulary_losses(
        wide[0], (wide[1], wide[2]), *of_teacher, weights=weights, labels=labels, temperature=2.0
    )
    unscaled = [gradient.float() / loss_scale for gradient in gradients]
    # Without loss scaling the gradient itself has few of the 10 bits left.
    bound = 2**-4 if loss_scale == 1 else 4 * 2**-10
    assert largest_error(unscaled, torch.autograd.grad(expected, wide)) < bound


def test_a_gradient_sum_over_many_bfloat16_chunks_is_kept_in_float32():
    rows = 600
    student, _, labels = inputs(vocabulary=20, dtype=torch.bfloat16, rows=rows, labelled=rows)
    states, weight, bias = student
    one, _ = vocabulary_losses(states, (weight, bias), weights={"ce": 1.0}, labels=labels, chunk_rows=rows)
    many, _ = vocabulary_losses(states, (weight, bias), weights={"ce": 1.0}, labels=labels, chunk_rows=1)
    gradients = [torch.autograd.grad(total, student) for total in (many, one)]
    # Summed in bfloat16, 600 shares of one row each would be off by tens of roundings.
    assert largest_error(*gradients) <= 2**-7


def test_rows_without_a_loss_cost_no_logits_and_have_a_gradient_of_zero():
    student, _, labels = inputs()
    states, weight, bias = student
    with Shapes() as shapes:
        total, _ = vocabulary_losses(states, (weight, bias), weights={"ce": 1.0}, labels=labels)
    assert max(shape[0] for shape in shapes.seen if shape[-1:] == (112,)) == LABELLED
    total.backward()
    assert states.grad[:LABELLED].abs().amax(dim=-1).min() > 0
    assert states.grad[LABELLED:].abs().max() == 0


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor made in its scope."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen.extend(made.shape for made in torch.utils._pytree.tree_leaves(result) if hasattr(made, "shape"))
        return result


def test_chunks_are_balanced_and_share_their_buffers():
    student, teacher, labels = inputs()
    with Shapes() as shapes:
        chunked(student, teacher, labels, chunk_rows=20)
    allocated = {shape[0] for shape in shapes.seen if shape[-1:] == (112,)}
    assert max(allocated) == 15
    assert chunked_head._balanced(820, 512) == [slice(0, 410), slice(410, 820)]
    assert chunked_head._balanced(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert chunked_head._balanced(0, 2) == []


def test_a_second_backward_pass_gives_the_gradient_again_and_scales_by_its_own_factor():
    student, teacher, labels = inputs()
    total, _ = chunked(student, teacher, labels)
    once = torch.autograd.grad(total, student, retain_graph=True)
    kept = [gradient.clone() for gradient in once]
    for gradient, wanted in zip(torch.autograd.grad(-2.5 * total, student, retain_graph=True), kept, strict=True):
        torch.testing.assert_close(gradient, -2.5 * wanted, rtol=1e-14, atol=0)
    assert all(map(torch.equal, torch.autograd.grad(total, student), kept))


def test_accumulated_gradients_do_not_write_into_what_a_retained_graph_keeps():
    student, teacher, labels = inputs()
    total, _ = chunked(student, teacher, labels)
    wanted = [3 * gradient for gradient in torch.autograd.grad(total, student, retain_graph=True)]
    for _ in range(3):
        total.backward(retain_graph=True)
    for tensor, of in zip(student, wanted, strict=True):
        torch.testing.assert_close(tensor.grad, of, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("label", [-1, 100, 111])
def test_a_label_outside_the_vocabulary_is_refused_also_within_the_padding(label):
    student, teacher, labels = inputs()
    labels[3] = label
    with pytest.raises(RuntimeError, match="out of bounds"):
        chunked(student, teacher, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_but_a_cpu_is_asked_for_a_value(dtype):
    """Tensors on the meta device have no values: what waits for one, or branches on one, raises there."""
    student, teacher, labels = inputs(dtype=dtype)
    student = [tensor.detach().to("meta").requires_grad_() for tensor in student]
    states, projection = teacher
    teacher = states.to("meta"), tuple(tensor.to("meta") for tensor in projection)
    count = torch.ones((), dtype=torch.float64, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        count.item()
    weights = {term: weight / count for term, weight in WEIGHTS.items()}
    total, sums = chunked(student, teacher, labels.to("meta"), weights, chunk_rows=10)
    (2 * total).backward()
    assert {value.dtype for value in (total, *sums.values())} == {torch.float32}
    assert [tensor.grad.shape for tensor in student] == [tensor.shape for tensor in student]
    assert {tensor.grad.dtype for tensor in student} == {dtype}


@pytest.mark.parametrize("first", [True, False])
def test_a_gpu_multiplies_bfloat16_straight_into_float32(first):
    with FakeTensorMode(), Operators() as operators:
        left, right = (torch.empty(64, 32, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        into = torch.empty(64, 64, device="cuda")
        head_chunk.add_product(into, left, right.t(), first=first)
    assert "aten.mm.dtype_out" in operators.seen
    assert not {"aten._to_copy.default", "aten.copy_.default"} & operators.seen


class Operators(TorchDispatchMode):
    """Records the names of the operators called in its scope."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


def test_chunks_have_a_fixed_number_of_rows_on_a_cpu_and_of_bytes_elsewhere():
    cpu, other = torch.device("cpu"), torch.device("meta")
    assert default_chunk_rows(30522, cpu) == default_chunk_rows(128_000, cpu) == 512
    assert default_chunk_rows(32_768, other) == 4 * default_chunk_rows(131_072, other) == 2048
    assert default_chunk_rows(2**27, other) == 1

"""Vocabulary head and vocabulary losses in chunks of rows, with the gradient by hand.

Logits of more rows than a chunk has never exist: each chunk's logits become loss sums and gradients of the head's
input, weight and bias, and are dropped. The gradients are computed in the forward pass, so the backward pass reads no
weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from raydistill.losses.divergences import Divergence
from raydistill.losses.head_chunk import Member, Problem, Projection, Workspace, add_product
from raydistill.losses.reduction import accumulation_dtype
from raydistill.losses.top_k import TopK

__all__ = ["DEFAULT_CHUNK_ROWS", "TERMS", "Member", "Projection", "logits_of", "vocabulary_losses"]

TERMS = ("kl", "ce", "mse")
"""Names of the losses: KL to the teacher, cross-entropy with the labels, squared error of the logits."""

DEFAULT_CHUNK_ROWS = 512
"""Most rows of a chunk on a CPU; each chunk reads and writes the weight's gradient once more."""

DEVICE_CHUNK_BYTES = 2**28
"""Bytes of a chunk's logits in float32 on other devices, where small products leave cores idle."""


def vocabulary_losses(
    student_states: Tensor,
    student_projection: Projection,
    teacher_states: Tensor | None = None,
    teacher_projection: Projection | None = None,
    *,
    weights: Mapping[str, Tensor | float],
    labels: Tensor | None = None,
    temperature: float = 1.0,
    divergence: Divergence | None = None,
    mixture: Sequence[Member] = (),
    teacher_top_k: TopK | None = None,
    chunk_rows: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of vocabulary losses over rows, and each loss's own sum.

    Shapes: student_states (R, D), teacher_states (R, D') or None, logits (R, V) where there is no projection, labels
    (M,) with M <= R; the FIRST M rows are the labelled ones. ``weights`` has the terms to compute, of ``TERMS``, each
    times a number or 0-d tensor; a term that it lacks costs nothing. ``kl`` (at ``temperature``, times its square) and
    ``mse`` sum over all R rows, ``ce`` over the first M. ``kl`` is the forward KL divergence, or another ``divergence``
    in its place. In place of a teacher's states, ``mixture`` has several teachers, whose probabilities at
    ``temperature`` are averaged by their shares, or ``teacher_top_k`` (R, k) distributions at ``temperature``; ``mse``
    needs the states. ``chunk_rows`` is the most rows whose logits exist at once, by default what suits the device.
    Returns the weighted 0-d total, differentiable once in the student's states, weight and bias, and the detached
    unweighted 0-d sums. Raises ValueError for an unknown term or a term whose inputs are missing. In nats, ``mse`` in
    squared units of logits. Source: Hinton et al. 2015 for ``kl``; the chunks are our own.

    >>> states, weight = torch.zeros(5, 8), torch.zeros(4, 8)
    >>> loss, sums = rd.losses.vocabulary_losses(states, (weight, None), weights={"ce": 0.2}, labels=torch.arange(4))
    >>> sums["ce"].div(4).exp()
    tensor(4.)
    """
    _check(weights, labels, teacher_states, teacher_projection, teacher_top_k or mixture)
    student_projection = _as_states(student_projection, student_states)
    if teacher_states is not None and teacher_projection is not None:
        teacher_projection = _as_states(teacher_projection, teacher_states)
    compares = bool({"kl", "mse"} & set(weights))
    problem = Problem(
        teacher_states=teacher_states if compares else None,
        teacher_projection=teacher_projection if compares else None,
        labels=labels if "ce" in weights else None,
        weights=dict(weights),
        temperature=temperature,
        divergence=divergence,
        mixture=[(share, states, _as_states(its, states)) for share, states, its in mixture] if compares else [],
        teacher_top_k=teacher_top_k if compares else None,
    )
    columns = student_states.shape[1] if student_projection[0] is None else student_projection[0].shape[0]
    most = default_chunk_rows(columns, student_states.device) if chunk_rows is None else chunk_rows
    total = _ChunkedHead.apply(student_states, *student_projection, problem, most, torch.is_grad_enabled())
    return total, problem.sums


def default_chunk_rows(columns: int, device: torch.device) -> int:
    """The most rows of a chunk of logits of so many ids that suit a device."""
    if device.type == "cpu":
        return DEFAULT_CHUNK_ROWS
    return max(1, DEVICE_CHUNK_BYTES // (columns * torch.float32.itemsize))


def logits_of(states: Tensor, projection: Projection) -> Tensor:
    """Logits (R, V) of states (R, D), which are the logits where there is no projection."""
    weight, bias = projection
    return states if weight is None else linear(states, weight, bias)


def _as_states(projection: Projection, states: Tensor) -> Projection:
    """A projection in the dtype of its input, which under autocast is narrower than the weights."""
    weight, bias = (None if part is None else part.to(states.dtype) for part in projection)
    return weight, bias


def _check(
    weights: Mapping[str, Tensor | float],
    labels: Tensor | None,
    states: Tensor | None,
    projection: Projection | None,
    distributions: TopK | Sequence[Member],
) -> None:
    unknown = sorted(set(weights) - set(TERMS))
    if unknown or not weights:
        raise ValueError(f"weights name {unknown or 'no term'}; choices: {', '.join(TERMS)}")
    if "ce" in weights and labels is None:
        raise ValueError("weights name 'ce' but labels are None; pass the labels of the first rows")
    if distributions:
        if "mse" in weights or states is not None:
            raise ValueError("teacher_top_k and mixture are distributions; leave out 'mse' and a teacher's states")
    elif {"kl", "mse"} & set(weights) and (states is None or projection is None):
        raise ValueError("weights name 'kl' or 'mse' but there is no teacher; pass its states and projection")


class _ChunkedHead(torch.autograd.Function):
    """Total of ``vocabulary_losses``; keeps the gradients that its forward pass computed."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        problem: Problem,
        most: int,
        differentiate: bool,
    ) -> Tensor:
        needs = [needed and differentiate for needed in ctx.needs_input_grad[:3]]
        # Without a teacher only the labelled rows have a loss.
        rows = states.shape[0] if problem.labels is None or problem.compares else len(problem.labels)
        chunks = _balanced(rows, most)
        workspace = Workspace(
            problem, states, (weight, bias), max((chunk.stop - chunk.start for chunk in chunks), default=0)
        )
        gradients = _Gradients.empty(states, weight, bias, needs, rows)
        for chunk in chunks:
            slope = workspace.slope(chunk)
            if any(needs):
                gradients.add(chunk, slope, states, weight)
        ctx.dtype, ctx.scale = states.dtype, workspace.scale
        # A scaled gradient is rounded only once it has the scale that it is asked for.
        kept = gradients.cast(states, weight, bias) if workspace.scale is None else gradients.all()
        ctx.save_for_backward(*kept)
        total = states.new_zeros((), dtype=accumulation_dtype(states.dtype))
        for term, value in problem.sums.items():
            total = total + problem.weights[term] * value
        return total.to(accumulation_dtype(states.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        if ctx.scale is not None:
            # In float16 the product of the loss's scale and of these would be rounded to 0 or be infinite on its way.
            factor = upstream / ctx.scale
            return *(None if kept is None else (kept * factor).to(ctx.dtype) for kept in gradients), None, None, None
        # Only a CPU's number can be looked at without waiting; there, the copy of a weight's size is worth avoiding.
        if upstream.device.type != "cpu" or upstream.item() != 1:
            gradients = tuple(None if kept is None else kept * upstream.to(kept.dtype) for kept in gradients)
        return *gradients, None, None, None


def _balanced(rows: int, most: int) -> list[slice]:
    """Chunks of at most ``most`` rows and of nearly equal size."""
    if rows == 0:
        return []
    size = -(-rows // -(-rows // most))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


@dataclass
class _Gradients:
    """Gradients of the three inputs, None for those that need none; sums over chunks are kept wide."""

    states: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def empty(
        cls, states: Tensor, weight: Tensor | None, bias: Tensor | None, needs: list[bool], rows: int
    ) -> "_Gradients":
        """Of ``rows`` rows with a loss; those after them have a gradient of 0."""
        wide = accumulation_dtype(states.dtype)
        dtype = wide if states.dtype == torch.float16 else states.dtype
        states_gradient = torch.empty_like(states, dtype=dtype) if needs[0] else None
        if states_gradient is not None:
            states_gradient[rows:].zero_()
        # The first chunk overwrites the weight's gradient; with no chunk it is 0.
        allocate = torch.empty_like if rows else torch.zeros_like
        return cls(
            states_gradient,
            allocate(weight, dtype=wide) if weight is not None and needs[1] else None,
            torch.zeros_like(bias, dtype=wide) if bias is not None and needs[2] else None,
        )

    def add(self, chunk: slice, slope: Tensor, states: Tensor, weight: Tensor | None) -> None:
        """Add one chunk's part, ``slope`` being the gradient of its logits (rows, V)."""
        if self.states is not None:
            if weight is None:
                self.states[chunk] = slope
            else:
                add_product(self.states[chunk], slope, weight, first=True)
        if self.weight is not None:
            add_product(self.weight, slope.T, states[chunk], first=chunk.start == 0)
        if self.bias is not None:
            self.bias += slope.sum(dim=0, dtype=self.bias.dtype)

    def all(self) -> tuple[Tensor | None, ...]:
        """As they were summed."""
        return self.states, self.weight, self.bias

    def cast(self, states: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, ...]:
        """In the dtypes of the inputs."""
        pairs = ((self.states, states), (self.weight, weight), (self.bias, bias))
        return tuple(None if gradient is None or of is None else gradient.to(of.dtype) for gradient, of in pairs)

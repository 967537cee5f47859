"""Vocabulary head and vocabulary losses in chunks of rows, with the gradient by hand.

Logits of all rows never exist: each chunk's logits become loss sums and gradients of the head's input, weight and
bias, and are dropped. The gradients are computed in the forward pass, so the backward pass reads no weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, log_softmax

from raydistill.losses.reduction import accumulation_dtype, widen

Projection = tuple[Tensor, Tensor | None]
"""Weight (V, D) and bias (V,) or None of a vocabulary head's last linear map."""

TERMS = ("kl", "ce", "mse")
"""Names of the losses: KL to the teacher, cross-entropy with the labels, squared error of the logits."""

DEFAULT_CHUNK_ROWS = 256


def vocabulary_losses(
    student_states: Tensor,
    student_projection: Projection,
    teacher_states: Tensor | None = None,
    teacher_projection: Projection | None = None,
    *,
    weights: Mapping[str, Tensor | float],
    labels: Tensor | None = None,
    temperature: float = 1.0,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of vocabulary losses over rows, and each loss's own sum.

    Shapes: student_states (R, D), teacher_states (R, D') or None, labels (M,) with M <= R; the FIRST M rows are the
    labelled ones. ``weights`` has the terms to compute, of ``TERMS``, each times a number or 0-d tensor; a term that
    it lacks costs nothing. ``kl`` (at ``temperature``, times its square) and ``mse`` sum over all R rows, ``ce`` over
    the first M. Returns the weighted 0-d total, differentiable once in the student's states, weight and bias, and
    the detached unweighted 0-d sums. Raises ValueError for an unknown term or a term whose inputs are missing.
    """
    _check(weights, labels, teacher_states, teacher_projection)
    problem = _Problem(
        teacher_states=teacher_states if {"kl", "mse"} & set(weights) else None,
        teacher_projection=teacher_projection,
        labels=labels if "ce" in weights else None,
        weights=dict(weights),
        temperature=temperature,
        chunk_rows=chunk_rows,
        differentiate=torch.is_grad_enabled(),
    )
    total = _ChunkedHead.apply(student_states, *student_projection, problem)
    return total, problem.sums


def _check(
    weights: Mapping[str, Tensor | float], labels: Tensor | None, states: Tensor | None, projection: Projection | None
) -> None:
    unknown = sorted(set(weights) - set(TERMS))
    if unknown or not weights:
        raise ValueError(f"weights name {unknown or 'no term'}; choices: {', '.join(TERMS)}")
    if "ce" in weights and labels is None:
        raise ValueError("weights name 'ce' but labels are None; pass the labels of the first rows")
    if {"kl", "mse"} & set(weights) and (states is None or projection is None):
        raise ValueError("weights name 'kl' or 'mse' but there is no teacher; pass its states and projection")


@dataclass
class _Problem:
    """Everything that takes no gradient; the function leaves the sums of its terms here."""

    teacher_states: Tensor | None
    teacher_projection: Projection | None
    labels: Tensor | None
    weights: dict[str, Tensor | float]
    temperature: float
    chunk_rows: int
    differentiate: bool
    sums: dict[str, Tensor] = field(default_factory=dict)


class _ChunkedHead(torch.autograd.Function):
    """Total of ``vocabulary_losses``; keeps the gradients that its forward pass computed."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, problem: _Problem) -> Tensor:
        needs = [needed and problem.differentiate for needed in ctx.needs_input_grad[:3]]
        gradients = _Gradients.zeros(states, weight, bias, needs)
        sums = {term: states.new_zeros((), dtype=accumulation_dtype(states.dtype)) for term in problem.weights}
        for start in range(0, states.shape[0], problem.chunk_rows):
            chunk = slice(start, start + problem.chunk_rows)
            slope = _chunk_losses(widen(linear(states[chunk], weight, bias)), problem, chunk, sums)
            if any(needs):
                gradients.add(chunk, slope.to(states.dtype), states, weight)
        problem.sums.update(sums)
        ctx.save_for_backward(*gradients.cast(states, weight, bias))
        total = states.new_zeros((), dtype=accumulation_dtype(states.dtype))
        for term, value in sums.items():
            total = total + problem.weights[term] * value
        return total.to(accumulation_dtype(states.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if kept is None else kept * upstream.to(kept.dtype) for kept in ctx.saved_tensors)
        return *scaled, None


@dataclass
class _Gradients:
    """Gradients of the three inputs, None for those that need none; sums over chunks are kept wide."""

    states: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(cls, states: Tensor, weight: Tensor, bias: Tensor | None, needs: list[bool]) -> "_Gradients":
        wide = accumulation_dtype(states.dtype)
        return cls(
            torch.empty_like(states) if needs[0] else None,
            torch.zeros_like(weight, dtype=wide) if needs[1] else None,
            torch.zeros_like(bias, dtype=wide) if bias is not None and needs[2] else None,
        )

    def add(self, chunk: slice, slope: Tensor, states: Tensor, weight: Tensor) -> None:
        """Add one chunk's share, ``slope`` being the gradient of its logits (rows, V)."""
        if self.states is not None:
            self.states[chunk] = slope @ weight
        if self.weight is not None:
            if self.weight.dtype == slope.dtype:
                self.weight.addmm_(slope.T, states[chunk])
            else:
                self.weight += slope.T @ states[chunk]
        if self.bias is not None:
            self.bias += slope.sum(dim=0, dtype=self.bias.dtype)

    def cast(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor | None]:
        pairs = ((self.states, states), (self.weight, weight), (self.bias, bias))
        return [None if gradient is None or of is None else gradient.to(of.dtype) for gradient, of in pairs]


def _chunk_losses(logits: Tensor, problem: _Problem, chunk: slice, sums: dict[str, Tensor]) -> Tensor:
    """Add a chunk's losses to ``sums`` and return the gradient of the weighted total in its logits (rows, V)."""
    slope = None
    if problem.teacher_states is not None and problem.teacher_projection is not None:
        teacher_logits = widen(linear(problem.teacher_states[chunk], *problem.teacher_projection))
        if "kl" in sums:
            value, slope = _kl(logits, teacher_logits, problem.temperature)
            sums["kl"] += value
            slope *= problem.weights["kl"]
        if "mse" in sums:
            value, gradient = _squared_error(logits, teacher_logits)
            sums["mse"] += value
            gradient *= problem.weights["mse"]
            slope = gradient if slope is None else slope.add_(gradient)
    if slope is None:
        slope = torch.zeros_like(logits)
    labels = None if problem.labels is None else problem.labels[chunk]
    if labels is not None and labels.shape[0] > 0:
        value, gradient = _cross_entropy(logits[: labels.shape[0]], labels)
        sums["ce"] += value
        slope[: labels.shape[0]] += gradient.mul_(problem.weights["ce"])
    return slope


def _kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum of tau^2 p (log p - log q), whose gradient in the logits is tau (q - p)."""
    student = log_softmax(logits / temperature, dim=-1)
    teacher = log_softmax(teacher_logits / temperature, dim=-1)
    probabilities = teacher.exp()
    value = temperature**2 * (teacher.sub_(student).mul_(probabilities)).sum()
    return value, student.exp_().sub_(probabilities).mul_(temperature)


def _squared_error(logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of (s - t)^2, whose gradient in the logits is 2 (s - t)."""
    difference = logits - teacher_logits
    return difference.square().sum(), difference.mul_(2)


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of -log q[label], whose gradient in the logits is q - onehot(label)."""
    log_probabilities = log_softmax(logits, dim=-1)
    at_labels = labels.unsqueeze(-1)
    value = -log_probabilities.gather(-1, at_labels).sum()
    minus_one = torch.full_like(at_labels, -1, dtype=logits.dtype)
    return value, log_probabilities.exp_().scatter_add_(-1, at_labels, minus_one)

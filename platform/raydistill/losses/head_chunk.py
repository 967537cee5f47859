"""One chunk of rows of the vocabulary head: logits, sums of losses and the gradient of the logits, in shared buffers.

On a CPU the elementwise part goes over slabs of the chunk's rows; on other devices a slab is the whole chunk. No
operation waits for the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raydistill.losses.divergences import Divergence, forward_kl, logits_gradient
from raydistill.losses.reduction import accumulation_dtype
from raydistill.losses.top_k import TopK, divergence_into

Projection = tuple[Tensor | None, Tensor | None]
"""Weight (V, D) and bias (V,) or None of a vocabulary head's last linear map; no weight where states are logits."""

Member = tuple[float, Tensor, Projection]
"""One of several teachers: its share of their mixture, its states (R, D') and its projection."""

_ALIGNMENT = 16
"""Rows of the buffers are padded to a multiple of as many columns: cache lines on a CPU, tensor cores on a GPU."""

_LOWEST = -1e30
"""Logit of the columns that pad a row: finite, so that a difference of two is no NaN, and of probability 0."""

_SLAB_BYTES = 2**24
"""Bytes of a slab on a CPU: small for its third buffer to be cheap, large for threads to meet seldom.

Threads meet after every operation and, on a machine with other work, wait for each other: slabs of 2 MiB, which fit
the cache, made the whole 1.1 times slower on a quiet machine and at least 1.5 times on a busy one.
"""

_TILE_COLUMNS = 8192
"""Columns of the logits that a CPU computes at once; one product for all is 1.1 times slower."""


@dataclass
class Problem:
    """What the losses of all chunks need besides the student, and takes no gradient; ``sums`` holds the results.

    ``labels`` (M,) belong to the first M rows. Teacher is None if neither ``kl`` nor ``mse`` is among ``weights``, or
    where ``mixture`` has several or distributions at ``temperature`` are given as ``teacher_top_k``.
    """

    teacher_states: Tensor | None
    teacher_projection: Projection | None
    labels: Tensor | None
    weights: dict[str, Tensor | float]
    temperature: float
    divergence: Divergence | None = None
    """What ``kl`` measures; None is the forward KL divergence."""
    mixture: Sequence[Member] = ()
    teacher_top_k: TopK | None = None
    """The teacher's distributions of all rows, (R, k)."""
    sums: dict[str, Tensor] = field(default_factory=dict)

    @property
    def compares(self) -> bool:
        """Whether there is any teacher."""
        return self.teacher_states is not None or self.teacher_top_k is not None or bool(self.mixture)


class Workspace:
    """Buffers of all chunks of one call, and what turns a chunk's states into losses and slopes."""

    def __init__(self, problem: Problem, states: Tensor, projection: Projection, chunk_rows: int) -> None:
        self.problem, self.states, self.projection = problem, states, projection
        self.columns = states.shape[1] if projection[0] is None else projection[0].shape[0]
        wide = accumulation_dtype(states.dtype)
        padded = -(-self.columns // _ALIGNMENT) * _ALIGNMENT
        on_cpu = states.device.type == "cpu"
        self.slab_rows = max(1, _SLAB_BYTES // (padded * wide.itemsize)) if on_cpu else max(1, chunk_rows)
        self._logits = states.new_empty(chunk_rows, padded, dtype=wide)
        self._slope = torch.empty_like(self._logits)
        self._scratch = self._logits.new_empty(min(self.slab_rows, chunk_rows), padded)
        self._member = torch.empty_like(self._logits) if problem.mixture else None
        self._narrow = None if states.dtype == wide else states.new_empty(chunk_rows, padded)
        self.scale = _scale(problem, states)
        problem.sums = {term: states.new_zeros((), dtype=wide) for term in problem.weights}

    def slope(self, chunk: slice) -> Tensor:
        """Add a chunk's losses to the sums and return the gradient of their weighted sum in its logits.

        Shape (rows, V), in the states' dtype, times ``scale``; the next call overwrites it.
        """
        problem, rows = self.problem, chunk.stop - chunk.start
        logits, slope = self._logits[:rows], self._slope[:rows]
        _project(self.states[chunk], self.projection[0], logits[:, : self.columns])
        logits[:, self.columns :].fill_(_LOWEST)
        if problem.teacher_states is not None and problem.teacher_projection is not None:
            _project(problem.teacher_states[chunk], problem.teacher_projection[0], slope[:, : self.columns])
            slope[:, self.columns :].fill_(_LOWEST)
        elif problem.mixture:
            self._mix(chunk, slope)
        for start in range(0, rows, self.slab_rows):
            slab = slice(start, start + self.slab_rows)
            labels = None if problem.labels is None else problem.labels[chunk][slab]
            self._losses(logits[slab], slope[slab], labels, _rows_of(problem.teacher_top_k, chunk, slab))
        if self.scale is not None:
            slope.mul_(self.scale)
        if self._narrow is not None:
            slope = self._narrow[:rows].copy_(slope)
        return slope[:, : self.columns]

    def _mix(self, chunk: slice, out: Tensor) -> None:
        """The logarithms of the members' mean probabilities at the temperature go to ``out`` (rows, columns)."""
        assert self._member is not None
        for number, (share, states, (weight, bias)) in enumerate(self.problem.mixture):
            into = self._member[: out.shape[0]] if number else out
            _project(states[chunk], weight, into[:, : self.columns])
            into[:, self.columns :].fill_(_LOWEST)
            _temper(into[:, : self.columns], bias, self.problem.temperature)
            into += math.log(share) - into.logsumexp(dim=-1, keepdim=True)
            if number:
                torch.logaddexp(out, into, out=out)

    def _losses(self, logits: Tensor, slope: Tensor, labels: Tensor | None, top_k: TopK | None) -> None:
        """Losses of a slab; ``slope`` comes with the teacher's products and leaves with the gradient of the logits."""
        problem = self.problem
        temperature = problem.temperature if problem.compares else 1.0
        scratch = self._scratch[: slope.shape[0]]
        if problem.teacher_projection is not None:
            _temper(slope[:, : self.columns], problem.teacher_projection[1], temperature)
        _temper(logits[:, : self.columns], self.projection[1], temperature)
        if top_k is not None:
            self._diverge_from_top_k(logits, top_k, out=slope)
        elif problem.compares:
            self._distances(logits, slope, scratch)
        if labels is not None and labels.shape[0] > 0:
            labelled = logits[: labels.shape[0]]
            if temperature != 1.0:
                labelled.mul_(temperature)
            if not problem.compares:
                self._cross_entropy(labelled, labels, slope)
            else:
                slope[: labels.shape[0]].add_(self._cross_entropy(labelled, labels, scratch[: labels.shape[0]]))

    def _distances(self, student: Tensor, slope: Tensor, scratch: Tensor) -> None:
        """``kl`` and ``mse`` of logits over temperature; ``slope`` holds the teacher's, then the gradient.

        With p the teacher's and q the student's distribution, KL is the mean under p of the differences of logits plus
        the difference of the logarithms of both normalizers; its gradient, times tau squared, is tau (q - p).
        """
        weights, sums, tau = self.problem.weights, self.problem.sums, self.problem.temperature
        if "kl" not in weights:
            difference = slope.sub_(student)
            sums["mse"] += tau**2 * torch.dot(difference.flatten(), difference.flatten())
            difference.mul_(-2 * tau * weights["mse"])
            return
        if self.problem.divergence is not None:
            self._diverge(student[:, : self.columns], slope[:, : self.columns], self.problem.divergence)
            return
        teacher = torch.softmax(slope, dim=-1, out=scratch)
        teacher_normalizers = _log_normalizers(slope, teacher)
        difference = slope.sub_(student)
        sums["kl"] += tau**2 * torch.dot(teacher.flatten(), difference.flatten())
        pull = None
        if "mse" in weights:
            sums["mse"] += tau**2 * torch.dot(difference.flatten(), difference.flatten())
            pull = difference * (-2 * tau * weights["mse"])
        torch.softmax(student, dim=-1, out=slope)
        sums["kl"] += tau**2 * (_log_normalizers(student, slope) - teacher_normalizers).sum()
        slope.sub_(teacher).mul_(tau * weights["kl"])
        if pull is not None:
            slope += pull

    def _diverge(self, student: Tensor, slope: Tensor, divergence: Divergence) -> None:
        """``kl`` by another divergence, and ``mse``, of logits over temperature; ``slope`` as above."""
        weights, sums, tau = self.problem.weights, self.problem.sums, self.problem.temperature
        log_q = torch.log_softmax(student, dim=-1)
        values, slope_in_q = divergence(log_q, torch.log_softmax(slope, dim=-1))
        sums["kl"] += tau**2 * values.sum()
        gradient = logits_gradient(log_q, slope_in_q).mul_(tau * weights["kl"])
        if "mse" in weights:
            difference = slope - student
            sums["mse"] += tau**2 * difference.square().sum()
            gradient -= difference.mul_(2 * tau * weights["mse"])
        slope.copy_(gradient)

    def _diverge_from_top_k(self, student: Tensor, teacher: TopK, *, out: Tensor) -> None:
        """``kl`` of logits over temperature to what is kept of the teacher; the gradient goes to ``out``."""
        tau, divergence = self.problem.temperature, self.problem.divergence or forward_kl
        values = divergence_into(out, student, teacher, divergence, scale=tau * self.problem.weights["kl"])
        self.problem.sums["kl"] += tau**2 * values.sum()

    def _cross_entropy(self, logits: Tensor, labels: Tensor, out: Tensor) -> Tensor:
        """Sum of -log q[label]; its gradient, of weight times q - onehot(label), goes to ``out``."""
        at_labels = labels.unsqueeze(-1)
        torch.softmax(logits, dim=-1, out=out)
        at_label = logits[:, : self.columns].gather(-1, at_labels).squeeze(-1)
        self.problem.sums["ce"] += (_log_normalizers(logits, out) - at_label).sum()
        minus_one = torch.full_like(at_labels, -1, dtype=out.dtype)
        return out.scatter_add_(-1, at_labels, minus_one).mul_(self.problem.weights["ce"])


def _scale(problem: Problem, states: Tensor) -> Tensor | None:
    """What slopes are multiplied by before they are rounded to float16, which has no small numbers; None elsewhere.

    Weights are one over a count of rows, so that most slopes would be rounded to 0; times this they are near 1.
    """
    if states.dtype != torch.float16:
        return None
    weights = [states.new_ones((), dtype=torch.float32) * weight for weight in problem.weights.values()]
    return 1 / torch.stack(weights).max().clamp(min=torch.finfo(torch.float32).tiny)


def _rows_of(top_k: TopK | None, chunk: slice, slab: slice) -> TopK | None:
    return None if top_k is None else TopK(*(part[chunk][slab] for part in top_k))


def add_product(into: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """Write ``left @ right`` to ``into`` if it is the first of a sum, else add it; ``into`` may be of a wider dtype."""
    if into.dtype == left.dtype:
        into.addmm_(left, right, beta=0.0 if first else 1.0)
    elif first:
        _product(left, right, into)
    else:
        into += _product(left, right, torch.empty_like(into))


def _product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """``left @ right`` in the dtype of ``out``, which is theirs or a wider one."""
    if out.dtype == left.dtype:
        return torch.mm(left, right, out=out)
    if left.device.type == "cuda":
        return torch.mm(left, right, out.dtype, out=out)
    return out.copy_(left @ right)


def _project(states: Tensor, weight: Tensor | None, out: Tensor) -> None:
    """``states @ weight.T`` to ``out``, or states that are logits."""
    if weight is None:
        out.copy_(states)
        return
    tile = _TILE_COLUMNS if out.device.type == "cpu" else weight.shape[0]
    for start in range(0, weight.shape[0], tile):
        _product(states, weight[start : start + tile].T, out[:, start : start + tile])


def _temper(products: Tensor, bias: Tensor | None, temperature: float) -> None:
    """Turn products of states and weights into logits over temperature, in place."""
    if bias is not None:
        torch.add(bias.to(products.dtype) / temperature, products, alpha=1 / temperature, out=products)
    elif temperature != 1.0:
        products.mul_(1 / temperature)


def _log_normalizers(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials of each row (rows,): the largest logit is at the largest probability."""
    return logits.amax(dim=-1) - probabilities.amax(dim=-1).log()

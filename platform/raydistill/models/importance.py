"""How much attention heads and feed-forward neurons matter: |d loss / d mask| with every mask at 1.

Source: StarK, "Sparse teachers can be dense with knowledge" (EMNLP 2022); code GeneZC/StarK @ ac1e8d1. Expressiveness
is of the loss with the true labels, student-friendliness of the distillation loss of a student, whose gradient flows
through the teacher's logits alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.models.kept_units import num_neurons
from raydistill.models.predictions import predict
from raydistill.models.unit_masks import check_units, units_seen
from raydistill.user_error import UserError

EXPRESSIVENESS, FRIENDLINESS = "expressiveness", "friendliness"
"""What a unit can be scored by: the loss with the labels, and the distillation loss of a student."""
NORM_EPSILON = 1e-7
"""Added to the norm that a block's scores are divided by, as published."""


@dataclass(frozen=True)
class Scores:
    """One number a unit, the higher the more it matters."""

    heads: Tensor
    """(L, H), of L blocks with H heads."""
    neurons: Tensor
    """(L, F), of L blocks with F neurons."""


@dataclass(frozen=True)
class RowGradients:
    """d loss / d mask of each row's own loss, signed, in float32 or wider."""

    heads: Tensor
    """(B, L, H)."""
    neurons: Tensor
    """(B, L, F)."""

    def take(self, rows: Tensor) -> "RowGradients":
        """Those of the rows (K,) int64 alone, such as without a sampler's filling."""
        return RowGradients(self.heads.index_select(0, rows), self.neurons.index_select(0, rows))


def row_gradients(
    model: nn.Module, batch: Batch, *, head: str, losses: Callable[[Tensor], Mapping[str, Tensor]]
) -> dict[str, RowGradients]:
    """Gradients of every row of a prepared batch, from one forward of ``model`` and one backward a loss.

    ``losses`` makes of the logits (N, C) named losses, one value (N,) a label each, whose mean over a row's labels is
    the row's loss. A row's gradient does not depend on the rest of the batch. Leaves the model in evaluation mode and
    its gradients as they were. Raises ValueError for a model without units, or that is pruned already.
    """
    check_units(model.config)
    model.eval()
    products = _Products(model.config, Layout.of(batch["attention_mask"], batch["token_index"]))
    with torch.enable_grad(), units_seen(model, products.of_heads, products.of_neurons):
        logits = predict(model, batch, head=head).logits
        named = losses(logits)
        share = _share_of_row(batch, head, logits.shape[0])
        found = {}
        for number, (name, loss) in enumerate(named.items(), start=1):
            total = (loss * share.to(loss)).sum()
            found[name] = products.backward(total, retain_graph=number < len(named))
    return found


def _share_of_row(batch: Batch, head: str, count: int) -> Tensor:
    """(N,) float64: 1 over the number of labels of each label's row, for N of them."""
    device = batch["input_ids"].device
    if head == "token_classification":
        row = batch["label_index"].div(batch["input_ids"].shape[1], rounding_mode="floor")
        counts = torch.zeros(batch.num_rows, dtype=torch.float64, device=device)
        counts = counts.index_add(0, row, torch.ones(count, dtype=torch.float64, device=device))
        return 1 / counts.index_select(0, row)
    return torch.full((count,), batch.num_rows / count, dtype=torch.float64, device=device)


class _Products:
    """Sums over a row's states of unit times gradient, which is the gradient of the unit's mask at 1."""

    def __init__(self, config: Any, layout: Layout) -> None:
        self._layout = layout
        self._sizes = (int(config.num_hidden_layers), int(config.num_attention_heads), num_neurons(config))
        self._heads: dict[int, Tensor] = {}
        self._neurons: dict[int, Tensor] = {}
        self._first: Tensor | None = None

    def of_heads(self, number: int, states: Tensor) -> Tensor:
        """Watch the heads' states (1, R, H * d) of a block."""
        return self._watch(number, states, self._heads, heads=self._sizes[1])

    def of_neurons(self, number: int, states: Tensor) -> Tensor:
        """Watch the neurons (1, R, F) of a block."""
        return self._watch(number, states, self._neurons, heads=None)

    def _watch(self, number: int, states: Tensor, found: dict[int, Tensor], *, heads: int | None) -> Tensor:
        if self._first is None:
            # The backward pass ends here: what lies below has no unit.
            states = states.detach().requires_grad_()
            self._first = states
        values = states.detach()[0]

        def keep(gradient: Tensor) -> None:
            found[number] = self._by_row(values, gradient[0], heads)

        states.register_hook(keep)
        return states

    def _by_row(self, values: Tensor, gradient: Tensor, heads: int | None) -> Tensor:
        """Values and their gradient (R, D) to sums (B, heads), or (B, D) of neurons."""
        wide = torch.promote_types(values.dtype, torch.float32)
        product = values.to(wide) * gradient.to(wide)
        if heads is not None:
            product = product.unflatten(-1, (heads, -1)).sum(-1)
        sums = product.new_zeros(self._layout.num_rows, product.shape[-1])
        return sums.index_add(0, self._layout.row, product)

    def backward(self, loss: Tensor, *, retain_graph: bool) -> RowGradients:
        """The gradients of one loss."""
        assert self._first is not None
        torch.autograd.grad(loss, [self._first], retain_graph=retain_graph)
        heads, neurons = (
            torch.stack([of_block[number] for number in range(self._sizes[0])], dim=1)
            for of_block in (self._heads, self._neurons)
        )
        self._heads.clear()
        self._neurons.clear()
        return RowGradients(heads, neurons)


class ScoreSums:
    """Scores summed over batches, and over ranks with ``merge``; plain tensors on the CPU, so it can be sent.

    By default the sum over rows of |gradient|, which does not depend on batches. ``score_batch_size`` reproduces the
    published sum over batches of |mean gradient|: rows are grouped by their position in the data, this many a group,
    whatever batch they came in.
    """

    def __init__(self, *, score_batch_size: int | None = None) -> None:
        check_score_batch_size(score_batch_size)
        self.score_batch_size = score_batch_size
        self.num_rows = 0
        self._sums: Scores | None = None
        self._open: dict[int, tuple[int, Scores]] = {}

    def add(self, gradients: RowGradients, positions: Tensor) -> None:
        """Add the rows of a batch; ``positions`` (B,) int64 are their places in the data, each added once.

        Waits for the device.
        """
        heads, neurons = (part.detach().cpu().double() for part in (gradients.heads, gradients.neurons))
        self.num_rows += heads.shape[0]
        if self.score_batch_size is None:
            self._sums = _plus(self._sums, Scores(heads.abs().sum(0), neurons.abs().sum(0)))
            return
        group = positions.cpu().div(self.score_batch_size, rounding_mode="floor")
        for number in group.unique().tolist():
            rows = group == number
            self._join(number, int(rows.sum()), Scores(heads[rows].sum(0), neurons[rows].sum(0)))

    def merge(self, other: "ScoreSums") -> None:
        """Add what another rank has summed of other rows."""
        assert other.score_batch_size == self.score_batch_size
        self.num_rows += other.num_rows
        if other._sums is not None:
            self._sums = _plus(self._sums, other._sums)
        for number, (count, sums) in other._open.items():
            self._join(number, count, sums)

    def _join(self, number: int, count: int, sums: Scores) -> None:
        """Add rows to a group; a group that is full becomes part of the sums."""
        assert self.score_batch_size is not None
        before, open_sums = self._open.pop(number, (0, None))
        count, sums = before + count, _plus(open_sums, sums)
        if count < self.score_batch_size:
            self._open[number] = (count, sums)
        else:
            self._sums = _plus(self._sums, _mean_size(count, sums))

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors by name, for a file; ``of_tensors`` makes of them what adds up to the same bits."""
        found = {"num_rows": torch.tensor(self.num_rows)}
        if self._sums is not None:
            found |= _named("sums", self._sums)
        for number, (count, sums) in self._open.items():
            found |= {f"open.{number}.count": torch.tensor(count), **_named(f"open.{number}", sums)}
        return found

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], *, score_batch_size: int | None = None) -> "ScoreSums":
        """What ``tensors`` gave, or without any, nothing summed yet."""
        made = cls(score_batch_size=score_batch_size)
        if tensors:
            made.num_rows = int(tensors["num_rows"])
            made._sums = _read("sums", tensors)
        for name, count in tensors.items():
            if name.endswith(".count"):
                group = name.removesuffix(".count")
                sums = _read(group, tensors)
                assert sums is not None
                made._open[int(group.removeprefix("open."))] = (int(count), sums)
        return made

    def scores(self) -> Scores:
        """The sums so far, the last group of the data counted with the rows that it has; float64.

        Raises ValueError when there is no row, and when a score is no number.
        """
        found = self._sums
        for number in sorted(self._open):
            found = _plus(found, _mean_size(*self._open[number]))
        if found is None:
            raise UserError("there is no row to score heads and neurons with; give a corpus that has rows")
        if not bool(found.heads.isfinite().all() and found.neurons.isfinite().all()):
            raise UserError("scores are not finite; score in fp32, or look for a model whose loss is finite")
        return found


def check_score_batch_size(score_batch_size: int | None) -> None:
    """Raise ValueError for a group of no row."""
    if score_batch_size is not None and score_batch_size < 1:
        raise UserError(f"score_batch_size is {score_batch_size}; it must be at least 1, or null for single rows")


def _named(name: str, scores: Scores) -> dict[str, Tensor]:
    return {f"{name}.heads": scores.heads, f"{name}.neurons": scores.neurons}


def _read(name: str, tensors: Mapping[str, Tensor]) -> Scores | None:
    if f"{name}.heads" not in tensors:
        return None
    return Scores(tensors[f"{name}.heads"], tensors[f"{name}.neurons"])


def _plus(first: Scores | None, second: Scores) -> Scores:
    return second if first is None else Scores(first.heads + second.heads, first.neurons + second.neurons)


def _mean_size(count: int, sums: Scores) -> Scores:
    return Scores((sums.heads / count).abs(), (sums.neurons / count).abs())


def normalized(scores: Scores) -> Scores:
    """Scores divided by their Euclidean norm in each block, heads and neurons apart, as published."""
    return Scores(_normalized(scores.heads), _normalized(scores.neurons))


def _normalized(scores: Tensor) -> Tensor:
    return scores / (scores.norm(dim=-1, keepdim=True) + NORM_EPSILON)


def check_lam(lam: float) -> None:
    """Raise ValueError for a share outside [0, 1]."""
    if not 0 <= lam <= 1:
        raise UserError(f"lam is {lam}; it must be between 0, friendliness alone, and 1, expressiveness alone")


def interpolated(scores: Mapping[str, Scores], *, lam: float) -> Scores:
    """``lam`` times the normalized expressiveness and ``1 - lam`` times the normalized friendliness.

    Raises ValueError for ``lam`` outside [0, 1] and for ``lam`` below 1 without friendliness.
    """
    check_lam(lam)
    expressive = normalized(scores[EXPRESSIVENESS])
    if lam == 1:
        return expressive
    if FRIENDLINESS not in scores:
        raise UserError(f"lam is {lam}, but units were scored without a student; give a student, or set lam to 1")
    friendly = normalized(scores[FRIENDLINESS])
    heads, neurons = (
        lam * first + (1 - lam) * second
        for first, second in ((expressive.heads, friendly.heads), (expressive.neurons, friendly.neurons))
    )
    return Scores(heads, neurons)

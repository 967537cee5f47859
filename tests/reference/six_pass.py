"""The causal distillation step as six whole forward passes, written from the formulas of the published system.

Independent of the package under test: the models' own forward passes, forward hooks for the interventions, logits of
every position, and sums over boolean masks. Slow on purpose.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Variable = Mapping[int, list[int]]
"""Columns that are interchanged, by block."""


@dataclass(frozen=True)
class Example:
    """One batch: ids (B, T) and masks (B, T) of the base and of its source, labels (B, T) with -100 for no label.

    Position masks say what is interchanged; both have equally many True in each row, paired in order.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    positions: Tensor
    source_ids: Tensor
    source_mask: Tensor
    source_positions: Tensor


@dataclass(frozen=True)
class Setting:
    """Weights by term, temperature, and 0 to read the input of a written block or 1 to read its output."""

    alphas: Mapping[str, float]
    temperature: float = 2.0
    site_offset: int = 0
    read_shift: int = 0
    """For negative controls: read this many blocks deeper in the student than the definition says."""


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gave: logits (B, T, V) and hidden states, each (B, T, D), embeddings first."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]
    last_hidden_state: Tensor


def block_list(model: nn.Module) -> nn.ModuleList:
    return model.bert.encoder.layer if hasattr(model, "bert") else model.distilbert.transformer.layer


def head_input_module(model: nn.Module) -> nn.Module:
    return model.cls if hasattr(model, "bert") else model.vocab_transform


def run(model: nn.Module, ids: Tensor, mask: Tensor, writes: Mapping[int, Callable[[Tensor], Tensor]]) -> Outputs:
    """One forward pass; ``writes`` replace the outputs of blocks."""
    seen: list[Tensor] = []
    hooks = [head_input_module(model).register_forward_pre_hook(lambda module, args: seen.append(args[0]))]
    for layer, replace in writes.items():
        hooks.append(
            block_list(model)[layer].register_forward_hook(lambda m, a, output, replace=replace: replace(output))
        )
    try:
        result = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    finally:
        for hook in hooks:
            hook.remove()
    (last,) = seen
    return Outputs(result.logits, result.hidden_states, last)


def write(values: Tensor, positions: Tensor, columns: list[int]) -> Callable[[Tensor], Tensor]:
    """A function that overwrites some columns at True positions by rows of values, in row-major order."""

    def replace(output: Tensor) -> Tensor:
        replaced = output.clone()
        for column_number, column in enumerate(columns):
            of_column = output[:, :, column].clone()
            of_column[positions] = values[:, column_number]
            replaced[:, :, column] = of_column
        return replaced

    return replace


def three_passes(model: nn.Module, example: Example, variable: Variable, offset: int) -> tuple[Outputs, Outputs]:
    """Base and counterfactual outputs; the source pass runs in between."""
    base = run(model, example.ids, example.mask, {})
    source = run(model, example.source_ids, example.source_mask, {})
    writes = {}
    for layer, columns in variable.items():
        values = source.hidden_states[layer + offset][example.source_positions][:, columns]
        writes[layer] = write(values, example.positions, columns)
    return base, run(model, example.ids, example.mask, writes)


def tempered_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """tau^2 sum_v p (log p - log q) of each row."""
    p = torch.softmax(teacher / temperature, dim=-1)
    log_q = student / temperature - torch.logsumexp(student / temperature, dim=-1, keepdim=True)
    log_p = teacher / temperature - torch.logsumexp(teacher / temperature, dim=-1, keepdim=True)
    return temperature**2 * (p * (log_p - log_q)).sum(dim=-1)


def one_minus_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    dot = (student * teacher).sum(dim=-1)
    return 1 - dot / torch.sqrt(((student**2).sum(dim=-1) + 1e-12) * ((teacher**2).sum(dim=-1) + 1e-12))


def causal_loss(
    student: nn.Module,
    teacher: nn.Module,
    example: Example,
    variables: tuple[Variable, Variable],
    setting: Setting,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted total and every term as a mean; ``variables`` are the teacher's and the student's."""
    with torch.no_grad():
        teacher_base, teacher_swapped = three_passes(teacher, example, variables[0], setting.site_offset)
    offset = setting.site_offset + setting.read_shift
    base, swapped = three_passes(student, example, variables[1], offset)
    tokens, labelled, tau = example.mask, example.labels != -100, setting.temperature
    nll = torch.logsumexp(base.logits[labelled], dim=-1) - base.logits[labelled].gather(
        -1, example.labels[labelled].unsqueeze(-1)
    ).squeeze(-1)
    terms = {
        "ce": tempered_kl(base.logits[tokens], teacher_base.logits[tokens], tau).mean(),
        "mlm": nll.mean(),
        "cos": one_minus_cosine(base.last_hidden_state[tokens], teacher_base.last_hidden_state[tokens]).mean(),
        "causal_ce": tempered_kl(swapped.logits[tokens], teacher_swapped.logits[tokens], tau).mean(),
        "causal_cos": one_minus_cosine(
            swapped.last_hidden_state[tokens], teacher_swapped.last_hidden_state[tokens]
        ).mean(),
    }
    if setting.alphas.get("mse"):
        # Like the published code, which compares raw logits only when that is weighted.
        terms["mse"] = ((base.logits[tokens] - teacher_base.logits[tokens]) ** 2).sum(dim=-1).mean()
    return sum(alpha * terms[name] for name, alpha in setting.alphas.items() if alpha), terms

"""The causal distillation step as six whole forward passes, written from the formulas of the published system.

Independent of the package under test: the models' own forward passes, forward hooks for the interventions, logits of
every position, and sums over boolean masks. Slow on purpose.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Variable = Mapping[int, list[int]]
"""Columns that are interchanged, by block."""

BLOCKS = {
    "bert": "bert.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "roberta": "roberta.encoder.layer",
    "gpt2": "transformer.h",
    "llama": "model.layers",
}
"""The list of blocks in a model, by model type."""

HEADS = {"bert": "cls", "distilbert": "vocab_transform", "roberta": "lm_head", "gpt2": "lm_head", "llama": "lm_head"}
"""The module whose input is the last hidden state, by model type; decoders normalize before it."""

INTERVENED = ("causal_ce", "causal_cos")


@dataclass(frozen=True)
class Side:
    """Rows of one side: ids, real tokens, labels with -100 for none, interchanged positions; (B, T) each.

    A label stands where the state is that predicts it.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Example:
    """A base and the source whose activations it receives, row by row; without interventions there is no source.

    Both sides have equally many True positions in each row, paired in order.
    """

    base: Side
    source: Side | None = None

    def exchanged(self) -> "Example":
        """The source as base and the base as source."""
        assert self.source is not None
        return Example(self.source, self.base)


@dataclass(frozen=True)
class Setting:
    """Weights by term, temperature, where to read, where to compare, and how to intervene."""

    alphas: Mapping[str, float]
    temperature: float = 2.0
    site_offset: int = 0
    """0 reads the input of a written block, 1 reads its output."""
    only_labelled: bool = False
    """Compare logits at labelled positions only."""
    swap_tokens: bool = False
    """Exchange ids and no activation."""
    crossway: bool = False
    """The mean over both directions."""
    read_shift: int = 0
    """For negative controls: read this many blocks deeper in the student than the definition says."""
    write_shift: int = 0
    """For negative controls: write this many blocks deeper in the student than the definition says."""


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gave: logits (B, T, V) and the last hidden state (B, T, D).

    ``hidden_states`` are the input of the first block and every block's output, which the next block takes. The last
    of them is not yet normalized in decoders.
    """

    logits: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...]


def block_list(model: nn.Module) -> nn.ModuleList:
    return model.get_submodule(BLOCKS[model.config.model_type])


def run(model: nn.Module, ids: Tensor, mask: Tensor, writes: Mapping[int, Callable[[Tensor], Tensor]]) -> Outputs:
    """One forward pass; ``writes`` replace the outputs of blocks."""
    hidden_states: list[Tensor] = []
    last: list[Tensor] = []

    def write_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        number = len(hidden_states) - 1
        hidden_states.append(writes[number](output) if number in writes else output)
        return hidden_states[-1]

    blocks = block_list(model)
    head = model.get_submodule(HEADS[model.config.model_type])
    hooks = [blocks[0].register_forward_pre_hook(lambda module, args: hidden_states.append(args[0]))]
    hooks += [block.register_forward_hook(write_output) for block in blocks]
    hooks.append(head.register_forward_pre_hook(lambda module, args: last.append(args[0])))
    try:
        result = model(input_ids=ids, attention_mask=mask.long(), **more_inputs(model, mask))
    finally:
        for hook in hooks:
            hook.remove()
    assert len(hidden_states) == len(blocks) + 1
    (last_hidden_state,) = last
    return Outputs(result.logits, last_hidden_state, tuple(hidden_states))


def more_inputs(model: nn.Module, mask: Tensor) -> dict[str, Any]:
    """RoBERTa's positions by the mask, since by itself it takes a real token that is the padding id for padding."""
    if model.config.model_type == "roberta":
        return {"position_ids": mask.cumsum(dim=1) * mask + model.config.pad_token_id}
    return {"use_cache": False} if model.config.model_type in ("gpt2", "llama") else {}


def write(values: Tensor, positions: Tensor, columns: list[int]) -> Callable[[Tensor], Tensor]:
    """A function that overwrites some columns at True positions by rows of values, in row-major order."""

    def replace(output: Tensor) -> Tensor:
        rows = output[positions]
        rows[:, columns] = values
        replaced = output.clone()
        replaced[positions] = rows
        return replaced

    return replace


def three_passes(
    model: nn.Module, example: Example, variable: Variable, offset: int, write_shift: int = 0
) -> tuple[Outputs, Outputs]:
    """Base and counterfactual outputs; the source pass runs in between.

    ``offset`` 0 reads the input of a written block, 1 its output.
    """
    base, source = example.base, example.source
    of_base, of_source = run(model, base.ids, base.mask, {}), run(model, source.ids, source.mask, {})
    writes = {}
    for layer, columns in variable.items():
        values = of_source.hidden_states[layer + offset][source.positions][:, columns]
        writes[layer + write_shift] = write(values, base.positions, columns)
    return of_base, run(model, base.ids, base.mask, writes)


def two_passes_with_swapped_tokens(model: nn.Module, example: Example) -> tuple[Outputs, Outputs]:
    """Outputs for the base, and for the base with the source's ids at the interchanged positions."""
    base, source = example.base, example.source
    swapped = base.ids.clone()
    swapped[base.positions] = source.ids[source.positions]
    return run(model, base.ids, base.mask, {}), run(model, swapped, base.mask, {})


def tempered_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """tau^2 sum_v p (log p - log q) of each row."""
    p = torch.softmax(teacher / temperature, dim=-1)
    log_q = student / temperature - torch.logsumexp(student / temperature, dim=-1, keepdim=True)
    log_p = teacher / temperature - torch.logsumexp(teacher / temperature, dim=-1, keepdim=True)
    return temperature**2 * (p * (log_p - log_q)).sum(dim=-1)


def one_minus_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    dot = (student * teacher).sum(dim=-1)
    return 1 - dot / torch.sqrt(((student**2).sum(dim=-1) + 1e-12) * ((teacher**2).sum(dim=-1) + 1e-12))


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.logsumexp(logits, dim=-1) - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def term_values(
    student: tuple[Outputs, Outputs | None], teacher: tuple[Outputs, Outputs | None], rows: Side, setting: Setting
) -> dict[str, Tensor]:
    """Every weighted term as a mean, from the base and counterfactual outputs of both models."""
    (base, swapped), (of_teacher, teacher_swapped) = student, teacher
    tokens, labelled, tau = rows.mask, rows.labels != -100, setting.temperature
    compared = labelled if setting.only_labelled else tokens
    formulas = {
        "ce": lambda: tempered_kl(base.logits[compared], of_teacher.logits[compared], tau),
        "mlm": lambda: negative_log_likelihood(base.logits[labelled], rows.labels[labelled]),
        "clm": lambda: negative_log_likelihood(base.logits[labelled], rows.labels[labelled]),
        "mse": lambda: ((base.logits[compared] - of_teacher.logits[compared]) ** 2).sum(dim=-1),
        "cos": lambda: one_minus_cosine(base.last_hidden_state[tokens], of_teacher.last_hidden_state[tokens]),
        "causal_ce": lambda: tempered_kl(swapped.logits[compared], teacher_swapped.logits[compared], tau),
        "causal_cos": lambda: one_minus_cosine(
            swapped.last_hidden_state[tokens], teacher_swapped.last_hidden_state[tokens]
        ),
    }
    return {name: formulas[name]().mean() for name, alpha in setting.alphas.items() if alpha}


def causal_loss(
    student: nn.Module,
    teacher: nn.Module,
    example: Example,
    variables: tuple[Variable, Variable],
    setting: Setting,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted total and every weighted term; ``variables`` are the teacher's and the student's."""
    directions = [example, example.exchanged()] if setting.crossway else [example]
    found = [_terms_of_one_direction(student, teacher, direction, variables, setting) for direction in directions]
    terms = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    return sum(setting.alphas[name] * term for name, term in terms.items()), terms


def _terms_of_one_direction(
    student: nn.Module, teacher: nn.Module, example: Example, variables: tuple[Variable, Variable], setting: Setting
) -> dict[str, Tensor]:
    offset = setting.site_offset
    with torch.no_grad():
        of_teacher = _passes(teacher, example, setting, (variables[0], offset))
    where = (variables[1], offset + setting.read_shift, setting.write_shift)
    of_student = _passes(student, example, setting, where)
    return term_values(of_student, of_teacher, example.base, setting)


def _passes(
    model: nn.Module, example: Example, setting: Setting, where: tuple[Any, ...]
) -> tuple[Outputs, Outputs | None]:
    """Base outputs, and counterfactual ones where a term with a weight compares them."""
    if not any(setting.alphas.get(name) for name in INTERVENED):
        return run(model, example.base.ids, example.base.mask, {}), None
    if setting.swap_tokens:
        return two_passes_with_swapped_tokens(model, example)
    return three_passes(model, example, *where)

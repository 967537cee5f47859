"""The causal distillation step of a BERT classifier as six whole forward passes on padded rows.

Independent of the package under test: transformers' own forward pass, hooks on the encoder's layers, boolean masks and
a permutation of the batch. Slow on purpose. Written from the formulas of the published task-specific system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rows:
    """Ids, real tokens, segments, interchanged positions: (B, T) each; class ids (B,)."""

    ids: Tensor
    mask: Tensor
    segments: Tensor
    positions: Tensor
    labels: Tensor

    def permuted(self, order: Tensor, positions: Tensor) -> "Rows":
        """The rows ``order`` (B,) in that order, with other positions, which stand in that order already."""
        return Rows(self.ids[order], self.mask[order], self.segments[order], positions, self.labels[order])


@dataclass(frozen=True)
class Setting:
    """Weights, temperature and what is done under intervention."""

    alpha: float
    gamma: float
    beta: float = 0.0
    temperature: float = 10.0
    per_class: bool = True
    """Divide divergences by the number of classes as well."""
    read_depth: int = 1
    """1 reads the output of the written block, 0 its input; 2 is for negative controls."""
    write_shift: int = 0
    """For negative controls: the student writes this many blocks deeper."""
    compared: tuple[Sequence[int], Sequence[int]] = ((), ())
    """Teacher's and student's blocks whose CLS outputs are compared."""
    normalizes: bool = False
    mode: str = "diito"
    """``diito``, or the ablations ``pair`` and ``augment``."""


@dataclass(frozen=True)
class Outputs:
    """Logits (B, C), the input of each block and the output of the last, (B, T, D) each."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]

    def cls(self, blocks: Sequence[int], normalizes: bool) -> Tensor:
        """First states of the outputs of blocks, (B, L, D)."""
        states = torch.stack([self.hidden_states[block + 1][:, 0] for block in blocks], dim=1)
        return states / states.norm(dim=-1, keepdim=True) if normalizes else states


def run(model: nn.Module, rows: Rows, writes: Mapping[int, tuple[Tensor, Tensor]]) -> Outputs:
    """One forward pass; ``writes`` has for a block positions (B, T) of its output and their new values (P, D)."""
    hidden_states: list[Tensor] = []

    def after(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            if number in writes:
                positions, values = writes[number]
                states = states.clone()
                states[positions] = values
            hidden_states.append(states)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook

    layers = model.bert.encoder.layer
    hooks = [layers[0].register_forward_pre_hook(lambda module, args: hidden_states.append(args[0]))]
    hooks += [layer.register_forward_hook(after(number)) for number, layer in enumerate(layers)]
    try:
        result = model(input_ids=rows.ids, attention_mask=rows.mask.long(), token_type_ids=rows.segments)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(hidden_states) == len(layers) + 1
    return Outputs(result.logits, tuple(hidden_states))


def under_intervention(
    model: nn.Module, base: Rows, source: Rows, blocks: Sequence[int], read_depth: int, write_shift: int = 0
) -> Outputs:
    """The base's pass with the source's states at its positions in the outputs of ``blocks``."""
    of_source = run(model, source, {})
    values = {block: of_source.hidden_states[block + read_depth][source.positions] for block in blocks}
    return run(model, base, {block + write_shift: (base.positions, value) for block, value in values.items()})


def exchanged(base: Rows, source: Rows) -> Rows:
    """The base with the source's ids and segments at its positions."""
    ids, segments = base.ids.clone(), base.segments.clone()
    ids[base.positions] = source.ids[source.positions]
    segments[base.positions] = source.segments[source.positions]
    return Rows(ids, base.mask, segments, base.positions, base.labels)


def soft_loss(student: Outputs, teacher: Outputs, setting: Setting) -> Tensor:
    tau = setting.temperature
    p = torch.softmax(teacher.logits / tau, dim=-1)
    log_ratio = torch.log_softmax(teacher.logits / tau, dim=-1) - torch.log_softmax(student.logits / tau, dim=-1)
    summed = tau**2 * (p * log_ratio).sum()
    return summed / p.numel() if setting.per_class else summed / len(p)


def pkd_loss(student: Outputs, teacher: Outputs, setting: Setting) -> Tensor:
    of_teacher, of_student = setting.compared
    difference = student.cls(of_student, setting.normalizes) - teacher.cls(of_teacher, setting.normalizes)
    return (difference**2).mean()


def terms_of_base(student: Outputs, teacher: Outputs, rows: Rows, setting: Setting) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of the terms of one ordinary pass."""
    true = -torch.log_softmax(student.logits, dim=-1)[torch.arange(len(rows.labels)), rows.labels].mean()
    found = {"ce": (1 - setting.alpha, true), "kd": (setting.alpha, soft_loss(student, teacher, setting))}
    if setting.beta:
        found["pkd"] = (setting.beta, pkd_loss(student, teacher, setting))
    return found


def causal_task_loss(
    student: nn.Module,
    teacher: nn.Module,
    base: Rows,
    source: Rows,
    blocks: tuple[Sequence[int], Sequence[int]],
    setting: Setting,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total and terms of a step; ``blocks`` are the teacher's and the student's that are written."""
    with torch.no_grad():
        of_teacher = run(teacher, base, {})
    terms = terms_of_base(run(student, base, {}), of_teacher, base, setting)
    agreement = {}
    if setting.mode == "pair":
        with torch.no_grad():
            of_source = run(teacher, source, {})
        again = terms_of_base(run(student, source, {}), of_source, source, setting)
        terms |= {f"pair_{name}": value for name, value in again.items()}
    elif setting.gamma:
        if setting.mode == "augment":
            swapped = exchanged(base, source)
            with torch.no_grad():
                of_teacher = run(teacher, swapped, {})
            of_student = run(student, swapped, {})
        else:
            with torch.no_grad():
                of_teacher = under_intervention(teacher, base, source, blocks[0], min(setting.read_depth, 1))
            where = (blocks[1], setting.read_depth, setting.write_shift)
            of_student = under_intervention(student, base, source, *where)
        terms["causal_kd"] = (setting.gamma, soft_loss(of_student, of_teacher, setting))
        if setting.beta:
            terms["causal_pkd"] = (setting.beta, pkd_loss(of_student, of_teacher, setting))
        equal = of_student.logits.argmax(-1) == of_teacher.logits.argmax(-1)
        agreement["causal_agreement"] = equal.double().mean()
    total = sum(weight * value for weight, value in terms.values())
    return total, {name: value for name, (weight, value) in terms.items() if weight} | agreement

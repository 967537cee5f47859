"""Which parameters are decayed, and which train at a rate of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class GroupRule:
    """How the parameters of a module are stepped that has this as its attribute ``group_rule``."""

    learning_rate: float | None = None
    """The greatest rate, which follows the schedule of the others; None for that of the others."""
    bias_decay: float | None = 0.0
    """Weight decay of biases and of the weights of norms; None for that of matrices."""


_PLAIN = GroupRule()


def parameter_groups(
    model: nn.Module, *, weight_decay: float, learning_rate: float | None = None
) -> list[dict[str, Any]]:
    """Every trainable parameter in one group: decayed, or not (biases and the weights of norms), for each rule.

    ``rate_scale`` of a group is by what the learning rate of a step is multiplied for it; ``learning_rate`` is the
    greatest one, needed where a module has another. Deviation: the published code looks for ``LayerNorm`` in names and
    so decays DistilBERT's layer norms.
    """
    modules = list(model.modules())
    undecayed = {
        id(parameter)
        for module in modules
        for name, parameter in module.named_parameters(recurse=False)
        if name.endswith("bias") or "norm" in type(module).__name__.lower()
    }
    rule_of = {id(parameter): rule for module, rule in _rules(modules) for parameter in module.parameters()}
    groups: list[dict[str, Any]] = []
    for rule in dict.fromkeys([_PLAIN, *rule_of.values()]):
        own = [p for p in model.parameters() if p.requires_grad and rule_of.get(id(p), _PLAIN) == rule]
        scale = _rate_scale(rule, learning_rate)
        bias_decay = weight_decay if rule.bias_decay is None else rule.bias_decay
        for decay, is_undecayed in ((weight_decay, False), (bias_decay, True)):
            parameters = [p for p in own if (id(p) in undecayed) == is_undecayed]
            groups.append({"params": parameters, "weight_decay": decay, "rate_scale": scale})
    return [group for group in groups if group["params"]]


def _rules(modules: Sequence[nn.Module]) -> list[tuple[nn.Module, GroupRule]]:
    found = [(module, getattr(module, "group_rule", None)) for module in modules]
    return [(module, rule) for module, rule in found if isinstance(rule, GroupRule)]


def _rate_scale(rule: GroupRule, learning_rate: float | None) -> float:
    if rule.learning_rate is None:
        return 1.0
    assert learning_rate is not None, "a module has a rate of its own"
    return rule.learning_rate / learning_rate

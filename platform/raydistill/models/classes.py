"""Which output of a classifier is which class: by the names in its configuration, never by position."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from raydistill.models.blocks import family_of

_NO_NAME = re.compile(r"LABEL_\d+")
"""What transformers calls classes that were not named."""


def with_classes(config: Any, labels: Sequence[str]) -> Any:
    """A copy of a configuration with one output for each name in ``labels``, or a single one, a score, for none."""
    changed = copy.deepcopy(config)
    changed.num_labels = max(1, len(labels))
    changed.id2label = dict(enumerate(labels or ["score"]))
    changed.label2id = {name: number for number, name in changed.id2label.items()}
    changed.problem_type = "single_label_classification" if labels else "regression"
    return changed


def class_order(config: Any, labels: Sequence[str], *, names: Sequence[str] = ()) -> list[int]:
    """For each name in ``labels`` the output of a checkpoint that stands for it.

    ``names`` says what the checkpoint's outputs are, in their order, where its configuration does not. Raises
    ValueError when neither does, or for other classes than ``labels``.
    """
    found = list(names) or [config.id2label[number] for number in sorted(config.id2label)]
    if not labels:
        if config.num_labels != 1:
            raise ValueError(f"the checkpoint has {config.num_labels} classes, the corpus scores; choose another")
        return [0]
    if len(found) != config.num_labels:
        raise ValueError(f"labels names {len(found)} classes, the checkpoint has {config.num_labels}; name each output")
    if all(_NO_NAME.fullmatch(str(name)) for name in found):
        raise ValueError(
            f"the checkpoint calls its classes {', '.join(map(str, found))}; say what they are in their order, such as "
            f"labels: [{', '.join(labels)}]"
        )
    if sorted(found) != sorted(labels):
        raise ValueError(
            f"the checkpoint has the classes {', '.join(map(str, found))}, the corpus {', '.join(labels)}; "
            "choose another checkpoint, or name its outputs in labels"
        )
    return [found.index(name) for name in labels]


@torch.no_grad()
def reorder_classes(model: nn.Module, head: str, order: Sequence[int]) -> None:
    """Let output ``i`` of a model's named head be what output ``order[i]`` was."""
    config: Any = model.config
    output = model.get_submodule(family_of(config.model_type).OUTPUTS[head])
    for parameter in output.parameters():
        parameter.copy_(parameter[torch.tensor(order, device=parameter.device)].clone())


@torch.no_grad()
def redraw_classes(model: nn.Module, head: str, *, seed: int) -> None:
    """Start the outputs of a model's named head anew, from ``seed``: what they had learned is of other classes.

    As many classes as before could not be told from the same ones by the weights' shapes.
    """
    config: Any = model.config
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.get_submodule(family_of(config.model_type).OUTPUTS[head]).parameters():
        if parameter.dim() == 1:
            parameter.zero_()
        else:
            drawn = torch.randn(parameter.shape, generator=generator) * getattr(config, "initializer_range", 0.02)
            parameter.copy_(drawn)

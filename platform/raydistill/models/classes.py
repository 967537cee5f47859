"""Which output of a classifier is which class: by the names in its configuration, never by position."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from raydistill.models.blocks import family_of
from raydistill.user_error import UserError

_NO_NAME = re.compile(r"LABEL_\d+")
"""What transformers calls classes that were not named."""

Said = Sequence[str | None] | Mapping[str, str | None]
"""What a user says that the outputs of a checkpoint are: their names in their order, or other names by their own."""
Names = Sequence[str | None]
"""What each output of a checkpoint stands for, None for one that is left out; empty where its configuration tells."""


def with_classes(config: Any, labels: Sequence[str]) -> Any:
    """A copy of a configuration with one output for each name in ``labels``, or a single one, a score, for none."""
    changed = copy.deepcopy(config)
    _set_classes(changed, labels)
    return changed


def _set_classes(config: Any, labels: Sequence[str]) -> None:
    config.num_labels = max(1, len(labels))
    config.id2label = dict(enumerate(labels or ["score"]))
    config.label2id = {name: number for number, name in config.id2label.items()}
    config.problem_type = "single_label_classification" if labels else "regression"


def output_names(config: Any, said: Said) -> tuple[str | None, ...]:
    """What the outputs of a checkpoint stand for, in their order, given what a user says; () where nothing is said.

    With a map outputs that it does not have keep their own names. Raises ValueError for one that the checkpoint lacks.
    """
    if not isinstance(said, Mapping) or not said:
        return tuple(said)
    own = list(map(str, _own_names(config)))
    for name in said:
        if name not in own:
            raise UserError(f"labels maps {name!r}, which is not a class of the checkpoint; it has {_listed(own)}")
    return tuple(said.get(name, name) for name in own)


def class_order(config: Any, labels: Sequence[str], *, names: Names = ()) -> list[int]:
    """For each name in ``labels`` the output of a checkpoint that stands for it.

    ``names`` says what the checkpoint's outputs are, where its configuration does not. Raises ValueError when neither
    does, for other classes than ``labels``, and for outputs that do not exclude each other.
    """
    _check_kind(config, labels)
    if not labels:
        if config.num_labels != 1:
            raise UserError(
                f"the checkpoint has {config.num_labels} classes, but the corpus has scores; choose another"
            )
        return [0]
    found = _found(config, names, labels)
    if sorted(map(str, _kept(found))) != sorted(labels):
        raise UserError(
            f"the checkpoint has the classes {_listed(_kept(found))}, but the corpus has {_listed(labels)}; "
            "choose another checkpoint, or name its outputs in labels"
        )
    return [found.index(name) for name in labels]


def known_labels(config: Any, labels: Sequence[str], *, names: Names = ()) -> tuple[str, ...]:
    """Those of ``labels`` that outputs of a checkpoint stand for, in the order of ``labels``; () for scores.

    ``names`` as in ``class_order``. Raises ValueError for a checkpoint that has none of them, a single one, or others.
    """
    if not labels:
        class_order(config, labels)
        return ()
    _check_kind(config, labels)
    found = _kept(_found(config, names, labels))
    others = [name for name in found if name not in labels]
    if len(others) == len(found):
        raise UserError(
            f"the checkpoint has the classes {_listed(found) or 'none'}, but the corpus has {_listed(labels)}, with "
            "none in common; choose another checkpoint, or name its outputs in labels"
        )
    if others:
        raise UserError(
            f"the checkpoint has the classes {_listed(others)}, which the corpus lacks; it has {_listed(labels)}; map "
            f"each in labels to the corpus's name, or leave it out, such as labels: {{{others[0]}: null}}"
        )
    if len(found) < 2:
        raise UserError(
            f"the checkpoint has the class {found[0]} only, whose probability is always 1; choose one of two or more"
        )
    return tuple(name for name in labels if name in found)


def _found(config: Any, names: Names, labels: Sequence[str]) -> list[str | None]:
    """What each output stands for; raises ValueError where nobody says it, or two stand for one class."""
    found = list(names) or _own_names(config)
    if len(found) != config.num_labels:
        raise UserError(f"labels names {len(found)} classes, the checkpoint has {config.num_labels}; name each output")
    if all(_NO_NAME.fullmatch(str(name)) for name in found):
        raise UserError(
            f"the checkpoint calls its classes {_listed(found)}; say what they are in their order, such as "
            f"labels: [{_listed(labels)}] beside it, or once under the job's labels"
        )
    kept = _kept(found)
    twice = [name for name in kept if kept.count(name) > 1]
    if twice:
        raise UserError(f"two outputs of the checkpoint stand for the class {twice[0]}; give each in labels its own")
    return found


def _check_kind(config: Any, labels: Sequence[str]) -> None:
    kind = getattr(config, "problem_type", None)
    if labels and kind not in (None, "single_label_classification"):
        raise UserError(
            f"the checkpoint's problem_type is {kind}, but the corpus has one class for each row; choose a checkpoint "
            "whose classes exclude each other, or write head: new"
        )


def class_names(config: Any) -> tuple[str, ...]:
    """Names of a classifier's outputs in their order; raises ValueError where its configuration contradicts itself."""
    return tuple(map(str, _own_names(config)))


def _own_names(config: Any) -> list[str | None]:
    """Names of the outputs in their order; raises ValueError where the configuration contradicts itself."""
    numbers = sorted(config.id2label)
    if numbers != list(range(len(numbers))):
        raise UserError(
            f"the checkpoint's id2label has the ids {_listed(map(str, numbers))}, not 0 to {len(numbers) - 1}; correct "
            "its config.json, or name its outputs in their order in labels"
        )
    told = getattr(config, "label2id", None) or {}
    for number in numbers:
        name = config.id2label[number]
        if int(told.get(name, number)) != number:
            raise UserError(
                f"the checkpoint's id2label says that {name} is output {number}, its label2id says {told[name]}; "
                "correct its config.json, or name its outputs in their order in labels"
            )
    return [config.id2label[number] for number in numbers]


def _kept(names: Iterable[str | None]) -> list[str]:
    return [name for name in names if name is not None]


def _listed(names: Iterable[str | None]) -> str:
    return ", ".join(map(str, names))


@torch.no_grad()
def reorder_classes(model: nn.Module, head: str, order: Sequence[int]) -> None:
    """Let output ``i`` of a model's named head be what output ``order[i]`` was."""
    for parameter in _output_of(model, head).parameters():
        parameter.copy_(parameter[torch.tensor(order, device=parameter.device)].clone())


@torch.no_grad()
def keep_classes(model: Any, head: str, order: Sequence[int], labels: Sequence[str]) -> None:
    """Leave of the outputs of a model's named head those in ``order``, in that order, which stand for ``labels``."""
    output = _output_of(model, head)
    for name, parameter in list(output.named_parameters(recurse=False)):
        kept = parameter.detach()[torch.tensor(order, device=parameter.device)].clone()
        setattr(output, name, nn.Parameter(kept, parameter.requires_grad))
    output.out_features = len(order)
    _set_classes(model.config, labels)
    model.num_labels = model.config.num_labels


@torch.no_grad()
def redraw_classes(model: nn.Module, head: str, *, seed: int) -> None:
    """Start the outputs of a model's named head anew, from ``seed``: what they had learned is of other classes.

    As many classes as before could not be told from the same ones by the weights' shapes.
    """
    config: Any = model.config
    generator = torch.Generator().manual_seed(seed)
    for parameter in _output_of(model, head).parameters():
        if parameter.dim() == 1:
            parameter.zero_()
        else:
            drawn = torch.randn(parameter.shape, generator=generator) * getattr(config, "initializer_range", 0.02)
            parameter.copy_(drawn)


def _output_of(model: Any, head: str) -> Any:
    return family_of(model.config, head).output_layer(model, head)

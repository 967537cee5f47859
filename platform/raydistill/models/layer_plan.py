"""In which order a model's blocks run, how often, and with query and key exchanged or not: shared layers.

A plan is a list of steps (block, swap). ``config.raydistill_layer_plan`` keeps it, so that it is saved and loaded with
the model, whose ``num_hidden_layers`` stays the number of blocks that have weights. Blocks that run twice are the same
parameters; so are query and key that are exchanged, whose scores are then those of the plain block transposed.

Source: Pea-KD, "Parameter-efficient and accurate knowledge distillation on BERT"; code snudm-starlab/Pea-KD @ 0375288
and Anonym96/Pea-KD, whose names stand beside the plans below.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from raydistill import draws
from raydistill.discovery import unknown_choice
from raydistill.user_error import UserError

KEY = "raydistill_layer_plan"
"""Attribute of a transformers configuration that holds the plan, a list of [block, swap]."""

DRAWN = "drawn"
"""In place of True or False: exchanged in some training steps, the same for all runs of the block in a step."""

Step = tuple[int, bool | str]
"""A block, from 0, and whether its query and key are exchanged: True, False or ``drawn``."""

LayerPlan = tuple[Step, ...]


def _all(num_layers: int, swap: bool | str = False) -> LayerPlan:
    return tuple((layer, swap) for layer in range(num_layers))


def _each_twice(num_layers: int, first: bool, second: bool) -> LayerPlan:
    return tuple((layer, swap) for layer in range(num_layers) for swap in (first, second))


_PLANS: dict[str, Callable[[int], LayerPlan]] = {
    "original": _all,
    "sps": lambda n: _all(n) + _all(n, True),
    "sps_no_shuffle": lambda n: _all(n) + _all(n),
    "sps2": lambda n: _all(n) + _all(n, True),
    # Ablations: EC with both halves or the lower one swapped, SPS_1, EC_Adj with the second or both swapped, SPS_sim,
    # ER.
    "all_shuffled": lambda n: _all(n, True) + _all(n, True),
    "lower_shuffled": lambda n: _all(n, True) + _all(n),
    "adjacent": lambda n: _each_twice(n, False, False),
    "adjacent_shuffled": lambda n: _each_twice(n, False, True),
    "adjacent_all_shuffled": lambda n: _each_twice(n, True, True),
    "palindrome": lambda n: _all(n) + _all(n, True)[::-1],
    "stochastic": lambda n: _all(n, DRAWN) + _all(n, DRAWN),
}
_OF_SIX: dict[str, LayerPlan] = {
    "sps": _all(6) + _all(6, True)[3:],
    "sps_no_shuffle": _all(6) + _all(6)[3:],
    "sps2": _all(6) + _all(6, True)[:3],
}
"""Plans of 6 blocks that repeat three alone: the upper ones, with ``sps2`` the lower ones."""

NAMES = tuple(_PLANS)
"""Names of plans."""


def check_form(value: str | Sequence[Any]) -> None:
    """Raise ValueError for what is no plan of any model: an unknown name, or no list of [block, swap]."""
    if not isinstance(value, str):
        _checked(value, None)
    elif value not in _PLANS:
        raise UserError(unknown_choice("layer_plan", value, list(NAMES)) + ", or a list of [block, swap]")


def make_plan(value: str | Sequence[Sequence[Any]], num_layers: int, *, half_of_six: bool = True) -> LayerPlan:
    """The plan of a name, or a list of [block, swap], for a model of ``num_layers`` blocks.

    ``half_of_six`` lets ``sps``, ``sps_no_shuffle`` and ``sps2`` repeat three of 6 blocks alone, as published, in
    place of all. Raises ValueError for an unknown name, an empty list and a block that the model does not have.
    """
    if isinstance(value, str):
        check_form(value)
        special = half_of_six and num_layers == 6 and value in _OF_SIX
        return _OF_SIX[value] if special else _PLANS[value](num_layers)
    return _checked(value, num_layers)


def _checked(steps: Sequence[Any], num_layers: int | None) -> LayerPlan:
    if not steps:
        raise UserError("layer_plan is empty; give at least one [block, swap]")
    for step in steps:
        if not isinstance(step, list | tuple) or len(step) != 2 or step[1] not in (True, False, DRAWN):
            raise UserError(f"layer_plan has {step!r}; write [block, true], [block, false] or [block, {DRAWN}]")
        if not isinstance(step[0], int) or step[0] < 0:
            raise UserError(f"layer_plan has block {step[0]!r}; blocks are numbers from 0")
        if num_layers is not None and step[0] >= num_layers:
            raise UserError(f"layer_plan has block {step[0]!r}; the student has blocks 0 to {num_layers - 1}")
    return tuple((layer, swap if swap == DRAWN else bool(swap)) for layer, swap in steps)


def plan_of(config: Any) -> LayerPlan | None:
    """The plan in a model's configuration, None for a model whose blocks run once in their order.

    Raises ValueError for one that does not fit the model.
    """
    steps = getattr(config, KEY, None)
    return None if steps is None else _checked(steps, config.num_hidden_layers)


def set_plan(config: Any, plan: LayerPlan | None) -> None:
    """Write a plan into a configuration; None takes the one it has away."""
    if plan is not None:
        setattr(config, KEY, [list(step) for step in plan])
    elif hasattr(config, KEY):
        delattr(config, KEY)


def num_steps(config: Any) -> int:
    """Blocks that a model runs one after another, its depth: with a plan its steps."""
    plan = plan_of(config)
    return int(config.num_hidden_layers) if plan is None else len(plan)


def is_drawn(plan: LayerPlan | None) -> bool:
    """Whether what is exchanged depends on the training step."""
    return plan is not None and any(swap == DRAWN for _, swap in plan)


def drawn_blocks(num_layers: int, *, seed: int, step: int) -> frozenset[int]:
    """Blocks whose drawn query and key are exchanged in an optimizer step, counted from 0: none in the even ones.

    A function of seed and step alone, so all micro-batches and ranks have the same.
    """
    if step % 2 == 0:
        return frozenset()
    swapped = draws.uniform("layer_plan", seed, step, range(num_layers)) < 0.5
    return frozenset(int(layer) for layer in swapped.nonzero()[0])


def plain(plan: LayerPlan, swapped: frozenset[int] = frozenset()) -> tuple[tuple[int, bool], ...]:
    """The plan with every drawn step decided: exchanged for the blocks in ``swapped``."""
    return tuple((layer, layer in swapped if swap == DRAWN else bool(swap)) for layer, swap in plan)


def shown(plan: LayerPlan) -> str:
    """A plan in one line, such as ``0 1 0* 1*``; a star marks exchanged query and key, a ``?`` drawn ones."""
    marks = {True: "*", False: "", DRAWN: "?"}
    return " ".join(f"{layer}{marks[swap]}" for layer, swap in plan)


@contextmanager
def exchanged(layer: Any, names: tuple[str, str]) -> Iterator[None]:
    """Inside, the two named submodules of a block stand in each other's place.

    They are called as modules, so their hooks fire, and nothing is copied.
    """
    first, second = names
    owner = layer.get_submodule(first.rpartition(".")[0])
    one, other = first.rpartition(".")[2], second.rpartition(".")[2]
    before = getattr(owner, one), getattr(owner, other)
    setattr(owner, one, before[1])
    setattr(owner, other, before[0])
    try:
        yield
    finally:
        setattr(owner, one, before[0])
        setattr(owner, other, before[1])

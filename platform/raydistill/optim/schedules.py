"""Learning-rate schedules as multipliers of the step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What schedules are made from; each reads what it needs."""

    num_steps: int
    warmup_proportion: float
    power: float = 1.0
    num_cycles: int = 1

    @property
    def warmup(self) -> int:
        """Steps of the warm-up, rounded up."""
        return math.ceil(self.warmup_proportion * self.num_steps)

    def progress(self, step: int) -> float:
        """Share of the steps after the warm-up that lie before ``step``, from 0 to 1."""
        return min(1.0, max(0.0, (step - self.warmup) / max(1, self.num_steps - self.warmup)))


def linear_warmup_decay(step: int, *, num_steps: int, warmup_proportion: float) -> float:
    """Multiplier in [0, 1] of optimizer step ``step`` (from 0): from 0 up over the warm-up, then linearly to 0.

    Warm-up takes ceil(proportion * num_steps) steps; the first step's multiplier is 0 when there is a warm-up.
    Source: the published causal recipe, the schedule of transformers.
    """
    shape = Shape(num_steps, warmup_proportion)
    if step < shape.warmup:
        return step / max(1, shape.warmup)
    return max(0.0, (num_steps - step) / max(1, num_steps - shape.warmup))


def linear_published(step: int, *, num_steps: int, warmup_proportion: float) -> float:
    """BertAdam's multiplier: x / w below w, else (x - 1) / (w - 1), of x = step / num_steps and the proportion w.

    Equals ``linear_warmup_decay`` where w * num_steps is a whole number; elsewhere the peak lies between two steps.
    """
    done = step / num_steps
    if done < warmup_proportion:
        return done / warmup_proportion
    return max(0.0, (done - 1) / (warmup_proportion - 1))


def _linear(step: int, shape: Shape) -> float:
    return linear_warmup_decay(step, num_steps=shape.num_steps, warmup_proportion=shape.warmup_proportion)


def _linear_published(step: int, shape: Shape) -> float:
    return linear_published(step, num_steps=shape.num_steps, warmup_proportion=shape.warmup_proportion)


def _linear_squared(step: int, shape: Shape) -> float:
    return _linear_published(step, shape) ** 2


def _cosine(step: int, shape: Shape) -> float:
    return _risen(step, shape) * 0.5 * (1 + math.cos(math.pi * shape.progress(step)))


def _cosine_with_restarts(step: int, shape: Shape) -> float:
    progress = shape.progress(step)
    if progress >= 1:
        return 0.0
    return _risen(step, shape) * 0.5 * (1 + math.cos(math.pi * (shape.num_cycles * progress % 1)))


def _polynomial(step: int, shape: Shape) -> float:
    return float(_risen(step, shape) * (1 - shape.progress(step)) ** shape.power)


def _constant(step: int, shape: Shape) -> float:
    return 1.0


def _risen(step: int, shape: Shape) -> float:
    """The warm-up alone: from 0 to 1, then 1."""
    return min(1.0, step / shape.warmup) if shape.warmup else 1.0


SCHEDULES: Mapping[str, Callable[[int, Shape], float]] = {
    "linear": _linear,
    "linear_published": _linear_published,
    "linear_squared": _linear_squared,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _risen,
}
"""Multiplier of optimizer step ``step`` (from 0) by name of the schedule.

All but the second and the third are those of transformers. ``linear_squared`` is the published fine-tuning of Pea-KD,
which applies its schedule twice. Deviation: ``polynomial`` ends at 0, not at a rate of 1e-7.
"""

"""Learning-rate schedules as multipliers of the step."""

import math


def linear_warmup_decay(step: int, *, num_steps: int, warmup_proportion: float) -> float:
    """Multiplier in [0, 1] of optimizer step ``step`` (from 0): from 0 up over the warm-up, then linearly to 0.

    Warm-up takes ceil(proportion * num_steps) steps; the first step's multiplier is 0 when there is a warm-up.
    Source: the published causal recipe, the schedule of transformers.
    """
    warmup = math.ceil(warmup_proportion * num_steps)
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (num_steps - step) / max(1, num_steps - warmup))

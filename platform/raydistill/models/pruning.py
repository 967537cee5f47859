"""Which attention heads and feed-forward neurons to keep, and models without the others.

Source: StarK, "Sparse teachers can be dense with knowledge" (EMNLP 2022); code GeneZC/StarK @ ac1e8d1. A sub-layer
that keeps no unit is removed with the bias of its output: what is left of it is its layer norm. A sub-layer whose
units are all masked to zero still adds that bias.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from raydistill.models.importance import Scores
from raydistill.models.kept_units import KeptUnits, check_kept, set_kept
from raydistill.models.small_shapes import shrink
from raydistill.models.unit_masks import check_units
from raydistill.user_error import UserError


def check_levels(levels: Sequence[float]) -> None:
    """Raise ValueError for levels that are none, below 0, 100 or more, or given twice."""
    if not levels:
        raise UserError("levels is empty; name at least one sparsity in percent")
    for level in levels:
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 <= level < 100:
            raise UserError(f"levels has {level!r}; a sparsity is in percent, from 0 to less than 100")
    twice = [level for level in levels if list(levels).count(level) > 1]
    if twice:
        raise UserError(f"levels has {twice[0]} twice; give each sparsity once")


def kept_units(scores: Scores, level: float, *, head_size: int = 1, multiple_of: int = 1) -> KeptUnits:
    """The units that stay when ``level`` percent of all heads, and of all neurons, with the lowest scores go.

    Heads and neurons are ranked apart, each over all blocks. Of equal scores those of earlier blocks go first, in a
    block those with higher numbers. With ``multiple_of`` 8, as published, the width that goes in a block, neurons, or
    heads times ``head_size``, is rounded to a multiple of 8, and a sub-layer of less than that is removed. Raises
    ValueError where that would leave part of a head.
    """
    check_levels([level])
    return KeptUnits(
        _kept(scores.heads, level, size=head_size, multiple_of=multiple_of),
        _kept(scores.neurons, level, size=1, multiple_of=multiple_of),
    )


def removed_counts(scores: Tensor, level: float) -> list[int]:
    """How many units of each block, by scores (L, U), are among the lowest ``level`` percent of all blocks together.

    That share is rounded as Python rounds, halves to the even number.
    """
    in_order = scores.sort(dim=-1, descending=True, stable=True).values
    count = round(level / 100 * scores.numel())
    lowest = in_order.flatten().sort(stable=True).indices[:count]
    return lowest.div(scores.shape[-1], rounding_mode="floor").bincount(minlength=scores.shape[0]).tolist()


def _kept(scores: Tensor, level: float, *, size: int, multiple_of: int) -> tuple[tuple[int, ...], ...]:
    order = scores.sort(dim=-1, descending=True, stable=True).indices.tolist()
    return tuple(
        tuple(sorted(units[: kept_count(len(units), removed, size=size, multiple_of=multiple_of)]))
        for units, removed in zip(order, removed_counts(scores, level), strict=True)
    )


def kept_count(units: int, removed: int, *, size: int, multiple_of: int) -> int:
    """Units that a block keeps when the width that goes, ``size`` a unit, is rounded to a multiple.

    Raises ValueError where that would leave part of a unit.
    """
    width = units * size - multiple_of * round(removed * size / multiple_of)
    if width < multiple_of:
        return 0
    if width % size:
        raise UserError(
            f"heads are {size} wide, and multiples of {multiple_of} would cut one in two; set multiple_of to 1"
        )
    return width // size


def pruned(model: nn.Module, kept: KeptUnits) -> nn.Module:
    """A copy of a model, in evaluation mode, that has the kept units alone, in their order, and records them.

    Its other units are gone: it is smaller and faster. Raises ValueError for units that the model lacks, and as
    ``check_units`` does, for one that is pruned already.
    """
    check_units(model.config)
    check_kept(model.config, kept)
    made = copy.deepcopy(model).eval()
    set_kept(made.config, kept)
    shrink(made, kept)
    return made

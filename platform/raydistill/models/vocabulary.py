"""The ids that a vocabulary head's losses are over: those of the tokenizer, where the head has more rows than it.

Heads are padded to round sizes, one model's to another than that of a model with the same tokenizer. What both say of
the ids that the tokenizer has can be compared; the rest stands for nothing.
"""

from typing import Any

from torch import Tensor, nn

from raydistill.models.blocks import Blocks

_NUM_IDS = "raydistill_num_ids"


def limit_ids(model: nn.Module, num_ids: int) -> None:
    """From now on ``head_at`` gives a model's first ``num_ids`` ids alone; nothing of it is stored with the model."""
    setattr(model, _NUM_IDS, num_ids)


def head_at(
    blocks: Blocks, end: Any, places: Tensor, states: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Inputs (P, D') of the vocabulary projection at packed places (P,), and the projection, its rows beyond the ids of
    ``limit_ids`` left out.

    ``end`` and ``states`` are those of ``Blocks.head_rows``. Without a projection the inputs are logits (P, V).
    """
    rows, (weight, bias) = blocks.head_rows(end, places, states), blocks.head_projection()
    num_ids = getattr(blocks.model, _NUM_IDS, None)
    if num_ids is None or num_ids >= (rows.shape[1] if weight is None else weight.shape[0]):
        return rows, (weight, bias)
    if weight is None:
        return rows[:, :num_ids], (None, None)
    return rows, (weight[:num_ids], None if bias is None else bias[:num_ids])

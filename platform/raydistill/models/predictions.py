"""What a model with any head but a vocabulary says of a batch: a row of logits for each thing it classifies."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.models.blocks import Blocks, blocks_of
from raydistill.models.vocabulary import head_at
from raydistill.user_error import UserError


@dataclass(frozen=True)
class Prediction:
    """Logits and, where they were asked for, the hidden states on the way to them."""

    logits: Tensor
    """(N, C); of a sequence N is the number of rows, of tokens that of labels, of answers twice the number of rows:
    the first tokens of all rows over their padded width, then the last ones."""
    states: tuple[Tensor, ...]
    """hs[0] to hs[L], each (R, D) packed; ``hs[k]`` is the input of block k. Empty where they were not asked for."""
    layout: Layout
    pooled: Tensor
    """(B,) int64: numbers of the packed states that stand for their rows, see ``Blocks.pooled_places``."""
    last_states: Tensor | None = None
    """(R, D) the last hidden states of transformers, of a decoder normalized. None where no states were asked for."""

    def pooled_states(self, number: int) -> Tensor:
        """States (B, D) of hs[number] that stand for their rows."""
        return self.states[number].index_select(0, self.pooled)

    @property
    def hidden_states(self) -> list[Tensor]:
        """hs[0] to hs[L] as transformers returns them: the last ones of a decoder are normalized."""
        assert self.last_states is not None
        return [*self.states[:-1], self.last_states]


class LogitsModel(nn.Module):
    """A model of which nothing but its logits is to be had, such as an exported one; it has no blocks."""

    def logits(self, batch: Batch) -> Tensor:
        """Logits of a prepared batch, as ``Prediction.logits`` has them."""
        raise NotImplementedError


def predict(model: nn.Module, batch: Batch, *, head: str, with_states: bool = False) -> Prediction:
    """Run a model with the named head on a prepared batch, on its real tokens alone.

    Reads ``input_ids``, ``attention_mask``, ``token_index``, ``token_types`` where there are any, and for
    ``token_classification`` ``label_index``. Raises ValueError for another head than the three that classify.
    """
    if isinstance(model, LogitsModel):
        layout = Layout.of(batch["attention_mask"], batch["token_index"])
        return Prediction(model.logits(batch), (), layout, pooled=layout.row.new_empty(0))
    blocks = blocks_of(model)
    blocks.draw_plan(seed=batch.seed, step=batch.step)
    layout, ids, end, states = _run(blocks, batch, with_states=with_states)
    pooled = blocks.pooled_places(layout, ids)
    if head == "sequence_classification":
        logits = blocks.sequence_logits(end, pooled, layout)
    elif head == "token_classification":
        logits = blocks.token_logits_at(end, layout.places(batch["label_index"]))
    elif head == "question_answering":
        logits = spread_spans(blocks.span_logits_of(end), layout)
    else:
        choices = "sequence_classification, token_classification, question_answering"
        raise UserError(f"head is {head!r}; choices: {choices}")
    return Prediction(logits, states, layout, pooled, blocks.states_of(end) if with_states else None)


def at_labels(
    model: nn.Module, batch: Batch, index: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Inputs (M, D') of a model's vocabulary projection at the labels of a batch, and the projection.

    ``index`` (M,) has other flat positions in place of the labels'. Of a ``LogitsModel`` the logits (M, V), which no
    projection follows.
    """
    if isinstance(model, LogitsModel):
        return model.logits(batch if index is None else batch.with_columns(label_index=index)), (None, None)
    blocks = blocks_of(model)
    layout, _, end, _ = _run(blocks, batch, with_states=False)
    places = layout.places(batch["label_index"] if index is None else index)
    return head_at(blocks, end, places)


def _run(blocks: Blocks, batch: Batch, *, with_states: bool) -> tuple[Layout, Tensor, Any, tuple[Tensor, ...]]:
    """Where the real tokens of a batch stand, their ids, and a pass over them: its end, and states if asked for."""
    layout = Layout.of(batch["attention_mask"], batch["token_index"])
    ids = layout.take(batch["input_ids"])
    return layout, ids, *blocks.forward(ids, layout, batch.get("token_types"), with_states=with_states)


def spread_spans(logits: Tensor, layout: Layout) -> Tensor:
    """Logits (R, 2) of the tokens to (2 * B, T), those of padding too small to count."""
    # Far below every logit, and finite after any temperature from a quarter up.
    least = max(torch.finfo(logits.dtype).min / 4, -1e30)
    places = layout.num_rows * layout.width
    spread = logits.new_full((2, places), least).index_copy(1, layout.index, logits.T)
    return spread.reshape(2 * layout.num_rows, layout.width)

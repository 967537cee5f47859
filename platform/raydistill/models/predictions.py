"""What a model with any head but a vocabulary says of a batch: a row of logits for each thing it classifies."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.models.blocks import Blocks, blocks_of
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

    def pooled_states(self, number: int) -> Tensor:
        """States (B, D) of hs[number] that stand for their rows."""
        return self.states[number].index_select(0, self.pooled)


def predict(model: nn.Module, batch: Batch, *, head: str, with_states: bool = False) -> Prediction:
    """Run a model with the named head on a prepared batch, on its real tokens alone.

    Reads ``input_ids``, ``attention_mask``, ``token_index``, ``token_types`` where there are any, and for
    ``token_classification`` ``label_index``. Raises ValueError for another head than the three that classify.
    """
    blocks = blocks_of(model)
    blocks.draw_plan(seed=batch.seed, step=batch.step)
    layout = Layout.of(batch["attention_mask"], batch["token_index"])
    ids = layout.take(batch["input_ids"])
    states = [blocks.embed(ids, layout, batch.get("token_types"))]
    if with_states:
        for number in range(blocks.num_blocks):
            states.append(blocks.run(states[-1], layout, number, number + 1))
    else:
        states.append(blocks.run(states[-1], layout, 0, blocks.num_blocks))
    pooled = blocks.pooled_places(layout, ids)
    if head == "sequence_classification":
        logits = sequence_logits(blocks, states[-1], pooled)
    elif head == "token_classification":
        labelled = states[-1].index_select(0, layout.places(batch["label_index"]))
        logits = blocks.token_logits(blocks.last_states(labelled))
    elif head == "question_answering":
        logits = _spread_spans(blocks.span_logits(blocks.last_states(states[-1])), layout)
    else:
        choices = "sequence_classification, token_classification, question_answering"
        raise UserError(f"head is {head!r}; choices: {choices}")
    return Prediction(logits, tuple(states) if with_states else (), layout, pooled)


def sequence_logits(blocks: Blocks, hidden: Tensor, pooled: Tensor) -> Tensor:
    """Logits (B, C) of rows, from the last block's output (R, D) and the rows' ``pooled_places`` (B,) in it."""
    return blocks.class_logits(blocks.last_states(hidden.index_select(0, pooled)))


def _spread_spans(logits: Tensor, layout: Layout) -> Tensor:
    """Logits (R, 2) of the tokens to (2 * B, T), those of padding too small to count."""
    # Far below every logit, and finite after any temperature from a quarter up.
    least = max(torch.finfo(logits.dtype).min / 4, -1e30)
    places = layout.num_rows * layout.width
    spread = logits.new_full((2, places), least).index_copy(1, layout.index, logits.T)
    return spread.reshape(2 * layout.num_rows, layout.width)

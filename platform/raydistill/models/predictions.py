"""What a model with any head but a vocabulary says of a batch: a row of logits for each thing it classifies."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.models.blocks import Blocks, blocks_of


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
    """(B,) int64: numbers of the packed states that stand for their rows, CLS for encoders."""

    def pooled_states(self, number: int) -> Tensor:
        """States (B, D) of hs[number] that stand for their rows."""
        return self.states[number].index_select(0, self.pooled)


def predict(model: nn.Module, batch: Batch, *, head: str, with_states: bool = False) -> Prediction:
    """Run a model with the named head on a prepared batch, on its real tokens alone.

    Reads ``input_ids``, ``attention_mask``, ``token_index``, ``lengths``, ``token_types`` where there are any, and for
    ``token_classification`` ``label_index``.
    """
    blocks = blocks_of(model)
    blocks.draw_plan(seed=batch.seed, step=batch.step)
    layout = Layout.of(batch["attention_mask"], batch["token_index"])
    token_types = batch.get("token_types")
    states = [blocks.embed(layout.take(batch["input_ids"]), layout, token_types)]
    if with_states:
        for number in range(blocks.num_blocks):
            states.append(blocks.run(states[-1], layout, number, number + 1))
    else:
        states.append(blocks.run(states[-1], layout, 0, blocks.num_blocks))
    pooled = blocks.pooled_places(layout, batch["lengths"])
    logits = logits_of(blocks, states[-1], batch, layout, head=head)
    return Prediction(logits, tuple(states) if with_states else (), layout, pooled)


def logits_of(blocks: Blocks, hidden: Tensor, batch: Batch, layout: Layout, *, head: str) -> Tensor:
    """Logits (N, C), as in ``Prediction``, of the last block's output (R, D).

    Raises ValueError for another head than the three that classify.
    """
    if head == "sequence_classification":
        pooled = blocks.pooled_places(layout, batch["lengths"])
        return blocks.class_logits(blocks.last_states(hidden.index_select(0, pooled)))
    if head == "token_classification":
        places = layout.places(batch["label_index"])
        return blocks.token_logits(blocks.last_states(hidden.index_select(0, places)))
    if head == "question_answering":
        return _spread_spans(blocks.span_logits(blocks.last_states(hidden)), layout)
    raise ValueError(f"head is {head!r}; choices: sequence_classification, token_classification, question_answering")


def _spread_spans(logits: Tensor, layout: Layout) -> Tensor:
    """Logits (R, 2) of the tokens to (2 * B, T), those of padding too small to count."""
    # Far below every logit, and finite after any temperature from a quarter up.
    least = max(torch.finfo(logits.dtype).min / 4, -1e30)
    places = layout.num_rows * layout.width
    spread = logits.new_full((2, places), least).index_copy(1, layout.index, logits.T)
    return spread.reshape(2 * layout.num_rows, layout.width)

"""Causal language modeling: each token is predicted from those before it in its row.

Radford et al. 2019; rows as in the published ``LmSeqsDataset`` of DistilBERT and Causal-Distill. For a prompt with
its completion the completion is predicted, for messages what the assistant says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.batch import PARTNER, Batch
from raydistill.options import LATER
from raydistill.tasks import _instructions, _text_rows
from raydistill.tasks._base import Column, LabelledRow, TaskBase
from raydistill.tasks._instructions import LOSS_SPANS
from raydistill.tasks._text_rows import Ends, Row, cut_between, whole_rows
from raydistill.tasks._token_scores import GREATER_IS_BETTER, token_metrics, token_rows, token_sums
from raydistill.tasks._tokenizing import length_limit
from raydistill.user_error import UserError

__all__ = ["Config", "EncodeConfig", "Task", "check_tokenizer", "columns", "cut", "drop_reasons"]

TooLong = Literal["cut_prompt_left", "cut_completion_right", "drop"]


@dataclass(frozen=True)
class Config:
    """Which tokens are predicted."""

    train_on_prompt: bool = field(default=False, metadata=LATER)
    """Whether prompts, and what others than the assistant say, are predicted too. In plain texts all tokens are."""


@dataclass(frozen=True)
class EncodeConfig(_text_rows.EncodeConfig):
    """How texts become rows; defaults are the published ones."""

    pack: bool = False
    """Whether texts, each with its end token, are joined and cut into rows of ``max_length`` tokens. Only texts that
    are read together, up to 1,000 or 16 million characters, are joined; the last row of them is shorter."""
    instructions: bool = field(default=False, metadata=LATER)
    """Whether examples are prompts with completions, or messages. It is set automatically if the source names such
    columns. Then ``min_length`` drops nothing, and rows are not split."""
    too_long: TooLong = field(default="cut_prompt_left", metadata=LATER)
    """What happens to a row of instructions with more than ``max_length`` tokens; all such rows are counted.
    ``cut_prompt_left`` leaves out its first tokens but bos, or the whole row if its last completion does not fit.
    ``cut_completion_right`` leaves out its last tokens, or the whole row if no token of a completion fits. ``drop``
    leaves out the row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pack and self.instructions:
            raise UserError("pack joins texts, but prompts stay apart, and padding is not computed; leave pack out")


def check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError when a tokenizer lacks the special token that the task needs."""
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no eos token; task clm needs a causal model's tokenizer")


def columns(config: EncodeConfig) -> dict[str, Column]:
    """Where a row of instructions has its completions; rows of text have nothing beside their ids."""
    return dict(_instructions.COLUMNS) if config.instructions else {}


def drop_reasons(rows: Sequence[Row], tokenizer: Any, config: EncodeConfig) -> list[str | None]:
    """For each row why it is left out, ``short`` or ``unknown``; None for one that is kept."""
    return _text_rows.drop_reasons(rows, tokenizer, replace(config, min_length=2) if config.instructions else config)


def cut(examples: Sequence[Mapping[str, Any]], tokenizer: Any, config: EncodeConfig) -> list[Row] | list[LabelledRow]:
    """Rows ``bos ... eos`` before any is dropped, long ones split so that each part has both; int32 or int64.

    A tokenizer without bos has its eos in both places, as GPT-2's are the same token. Examples are read as those of
    task ``mlm`` are. Packed rows are ``... eos bos ... eos bos ...`` (with one token where both are the same).
    Deviation: the published code puts a space before and after each text, which byte-level tokenizers encode.
    Instructions: see ``_instructions.rows_of``.
    """
    last = tokenizer.eos_token_id
    first = last if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ends = Ends(first, last, ("bos", "eos"))
    limit = length_limit(tokenizer, config.max_length)
    if config.instructions:
        return _instructions.rows_of(examples, tokenizer, ends, limit=limit, too_long=config.too_long)
    if not config.pack:
        return cut_between(examples, tokenizer, config, ends)
    # Without its two special tokens nothing is left of an empty text.
    texts = [row for row in whole_rows(examples, tokenizer, ends) if len(row) > 2]
    if first == last:
        texts = [*(row[:1] for row in texts[:1]), *(row[1:] for row in texts)]
    stream = np.concatenate([np.empty(0, dtype=np.int64), *texts])
    return [stream[start : start + limit] for start in range(0, len(stream), limit)]


class Task(TaskBase[Config]):
    """Writes ``labels`` and ``label_index``: the state at each token but a row's last predicts the next token.

    Of instructions these are the tokens of completions alone, unless prompts are trained on. ``label_index`` has the
    places of the states that predict, ``labels`` the ids that stand one place further; the same under ``partner_*``
    where there are partners.
    """

    HEAD = "causal_lm"
    ROW_METRICS = tuple(GREATER_IS_BETTER)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Label every row; neither rows nor partners change."""
        columns: dict[str, Tensor] = {}
        for prefix in ("", PARTNER) if PARTNER + "input_ids" in batch else ("",):
            ids = batch[prefix + "input_ids"]
            predicts = np.arange(ids.shape[1]) < batch[prefix + "lengths"].numpy()[:, None] - 1
            if prefix + LOSS_SPANS in batch and not self.config.train_on_prompt:
                predicts[:, :-1] &= _instructions.with_loss(batch, prefix)[:, 1:]
            index = torch.from_numpy(np.flatnonzero(predicts))
            columns |= {prefix + "label_index": index, prefix + "labels": ids.flatten()[index + 1]}
        return batch.with_columns(**columns)

    @classmethod
    def higher_is_better(cls, config: Config, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """Loss and perplexity are better when smaller, accuracy when greater."""
        return dict(GREATER_IS_BETTER)

    def score(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Summed cross-entropy in nats (``loss``), ``correct`` answers and ``tokens``, over all predicted tokens."""
        return token_sums(student, batch)

    def score_rows(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The same sums for each row."""
        return token_rows(student, batch)

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """``loss`` is the mean cross-entropy of predicted tokens in nats, ``perplexity`` its exponential, ``accuracy``
        the share of them whose most likely id is right, ``tokens`` their number.
        """
        return token_metrics(sums, nothing="no validation token is predicted; hold out more text")

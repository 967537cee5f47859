"""Masked language modeling: BERT's task, with masks weighted towards rare tokens.

Devlin et al. 2019, sec. 3.1; weighting as published with DistilBERT (Sanh et al. 2019) and Causal-Distill.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.batch import PARTNER, Batch
from raydistill.options import LATER
from raydistill.tasks import _text_rows
from raydistill.tasks._base import SHORT, Encoding, TaskBase
from raydistill.tasks._masking import Masking
from raydistill.tasks._text_rows import Row, columns, masked_ends, whole_rows
from raydistill.tasks._token_scores import GREATER_IS_BETTER, token_metrics, token_rows, token_sums
from raydistill.tasks._tokenizing import length_limit
from raydistill.user_error import UserError

__all__ = ["Config", "EncodeConfig", "Task", "check_tokenizer", "columns", "cut", "drop_reasons"]


_STORED = "teacher_0_top_k_"
"""How the columns of a batch are called that hold the masks under which a teacher was asked."""


@dataclass(frozen=True)
class Config:
    """Which tokens are masked and how; defaults are the published ones, but for ``sampling``."""

    mask_probability: float = 0.15
    """The fraction of a row's tokens that become targets, special tokens counted."""
    sampling: str = "row"
    """``row`` draws the targets of each row alone; ``batch`` draws those of a whole micro-batch at once, as published,
    so that rows of rare tokens have more of them and a row's masks depend on its neighbors."""
    smoothing: float = 0.7
    """A token is chosen with weight count ** -smoothing, so that rare tokens are chosen more often."""
    mask: float = 0.8
    """The fraction of the targets replaced by the mask token."""
    keep: float = 0.1
    """The fraction of the targets left as they are."""
    random: float = 0.1
    """The fraction of the targets replaced by a uniform token id."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_probability < 1:
            raise UserError(f"mask_probability is {self.mask_probability}; it must be between 0 and 1")
        if self.sampling not in ("row", "batch"):
            raise UserError(f"sampling is {self.sampling!r}; choices: row, batch (published)")
        if self.smoothing < 0:
            raise UserError(f"smoothing is {self.smoothing}; it must not be negative")
        shares = (self.mask, self.keep, self.random)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise UserError(f"mask, keep and random are {', '.join(map(str, shares))}; they must add up to 1")


@dataclass(frozen=True)
class EncodeConfig(_text_rows.EncodeConfig):
    """How texts become rows; defaults are the published ones."""

    pack: bool = field(default=False, metadata=LATER)
    """Whether texts, each between CLS and SEP, are joined and cut into rows of ``max_length`` tokens, as in the
    published evaluation of perplexity. Only texts that are read together, up to 1,000 or 16 million characters, are
    joined; what is left of them is dropped as short."""

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = _text_rows.EncodeConfig(self.max_length)
        if self.pack and (self.min_length, self.max_unknown) != (usual.min_length, usual.max_unknown):
            raise UserError("pack cuts all texts into rows of max_length tokens; leave min_length and max_unknown out")


def cut(examples: Sequence[Mapping[str, Any]], tokenizer: Any, config: EncodeConfig) -> list[Row]:
    """The rows before any is dropped, see ``_text_rows.encode``; packed ones of ``max_length`` tokens, int64.

    Source of packed rows: the published ``run_mlm.py``, ``group_texts``.
    """
    if not config.pack:
        return _text_rows.cut(examples, tokenizer, config)
    limit = length_limit(tokenizer, config.max_length)
    stream = np.concatenate([np.empty(0, dtype=np.int64), *whole_rows(examples, tokenizer, masked_ends(tokenizer))])
    return [stream[start : start + limit] for start in range(0, len(stream), limit)]


def drop_reasons(rows: Sequence[Row], tokenizer: Any, config: EncodeConfig) -> list[str | None]:
    """For each row why it is left out, ``short`` or ``unknown``; None for one that is kept.

    Of packed rows it is what is left behind others, as published: a single row stays, however short.
    """
    if not config.pack:
        return _text_rows.drop_reasons(rows, tokenizer, config)
    limit = length_limit(tokenizer, config.max_length)
    return [SHORT if len(rows) > 1 and len(row) < limit else None for row in rows]


def check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError when a tokenizer lacks a special token that the task needs."""
    missing = [role for role in ("cls", "sep", "mask", "pad") if getattr(tokenizer, f"{role}_token_id") is None]
    if missing:
        raise UserError(f"the tokenizer has no {', '.join(missing)} token; task mlm needs a masked model's tokenizer")


class Task(TaskBase[Config]):
    """Chooses targets and replaces them; writes ``input_ids``, ``labels`` and ``label_index``, of partners too.

    A row of n tokens has floor(p * n + u) targets, u uniform from the row's key, so a batch has p of its tokens on
    average. Deviation: the published draw is one over a whole micro-batch, of ceil(p * n) targets for n tokens in
    all, which makes a row's masks depend on its neighbors; ``sampling: batch`` draws so.
    """

    HEAD = "masked_lm"
    READS_TOKEN_COUNTS = True
    ROW_METRICS = tuple(GREATER_IS_BETTER)

    def __init__(self, config: Config, encoding: Encoding) -> None:
        super().__init__(config, encoding)
        self._masking = Masking(config, encoding)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Mask the rows and, when there are any, their partners, by independent draws.

        Rows with stored answers of a teacher get the masks that it saw, the same in all epochs.
        """
        columns: dict[str, Tensor] = {}
        for prefix in ("", PARTNER) if PARTNER + "input_ids" in batch else ("",):
            is_stored = not prefix and _STORED + "places" in batch
            input_ids, index = _stored_mask(batch) if is_stored else self._masking(batch, prefix)
            labels = batch[prefix + "input_ids"].flatten()[index]
            columns |= {prefix + "input_ids": input_ids, prefix + "label_index": index, prefix + "labels": labels}
        return batch.with_columns(**columns)

    @classmethod
    def batch_dependent(cls, config: Config) -> bool:
        """Whether one draw chooses the targets of a whole micro-batch."""
        return config.sampling == "batch"

    @classmethod
    def higher_is_better(cls, config: Config, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """Loss and perplexity are better when smaller, accuracy when greater."""
        return dict(GREATER_IS_BETTER)

    def score(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Summed cross-entropy in nats (``loss``), ``correct`` answers and ``tokens``, all at masked tokens."""
        return token_sums(student, batch)

    def score_rows(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The same sums for each row."""
        return token_rows(student, batch)

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """``loss`` is the mean cross-entropy at masked tokens in nats, ``perplexity`` its exponential, ``accuracy`` the
        share of masked tokens whose most likely id is right, ``tokens`` the number of masked tokens.
        """
        nothing = "no validation token is masked; hold out more text, or raise task.mask_probability"
        return token_metrics(sums, nothing=nothing)


def _stored_mask(batch: Batch) -> tuple[Tensor, Tensor]:
    """Masked ids (B, T) and flat indices (M,) of the targets, ascending, as they were when a teacher was asked."""
    ids, places = batch["input_ids"], batch[_STORED + "places"]
    rows = torch.arange(ids.shape[0]).repeat_interleave(batch[_STORED + "places_lengths"])
    index = rows * ids.shape[1] + places
    return ids.flatten().index_copy(0, index, batch[_STORED + "inputs"]).view_as(ids), index

"""From a padded batch of transformers, as a data collator makes it, to the packed columns that methods read.

Source: the labels are those of transformers' models. A label of -100 counts nowhere, and the labels of a causal
language model stand at the tokens that they name, one place after the state that predicts them.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raydistill.batch import PARTNER, Batch
from raydistill.user_error import UserError

IGNORED = -100
"""Label of what has none."""
COLUMNS = ("input_ids", "attention_mask", "token_type_ids", "labels", "start_positions", "end_positions")
"""What is read of a padded batch, of the partners of its rows too, under ``partner_*``."""
_REFUSED = ("inputs_embeds", "position_ids")
_STORED = re.compile(r"teacher_\d+_\w+")
_SEED_BITS = 62


def drawn_seed(generator: torch.Generator | None) -> int:
    """A seed for the draws of one batch, from a generator, by default torch's own on the CPU."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**_SEED_BITS, (), generator=generator, device=device))


def packed_batch(padded: Mapping[str, Any], *, head: str, scores: bool, **keys: int) -> Batch:
    """Rows on the CPU with the columns of ``raydistill.batch``, for models with this head.

    ``padded`` has ``input_ids`` (B, T) int64 and may have ``attention_mask`` (B, T), 1 at real tokens, on any side;
    ``token_type_ids`` (B, T); labels as the head's model of transformers takes them; ``row_id`` (B,), by default the
    rows' numbers from 0; the partner of each row, padded for itself, under ``partner_*``; and stored outputs of
    teachers, such as ``teacher_0_logits`` (B, C). What else it has is not read. ``scores`` says that labels are
    numbers, not classes. ``keys`` are those of the batch's draws. Raises ValueError for a row without a token, for
    other shapes, and for ``inputs_embeds`` or ``position_ids``, which no model would be given.
    """
    refused = [name for name in _REFUSED if padded.get(name) is not None]
    if refused:
        raise UserError(f"the batch has {refused[0]}, which methods do not read; give input_ids alone")
    columns = _columns(padded, "", head=head, scores=scores)
    if padded.get(PARTNER + "input_ids") is not None:
        columns |= _columns(padded, PARTNER, head=head, scores=scores)
    rows = columns["input_ids"].shape[0]
    of_rows = {name: _tensor(column) for name, column in padded.items() if _STORED.fullmatch(name)}
    given = padded.get("row_id")
    of_rows["row_id"] = torch.arange(rows) if given is None else _tensor(given).long().flatten()
    if PARTNER + "input_ids" in columns:
        of_rows[PARTNER + "lengths"] = columns[PARTNER + "lengths"]
    for name, column in of_rows.items():
        if column.shape[0] != rows:
            raise UserError(f"{name} is of {column.shape[0]} rows, input_ids of {rows}; give one for each row")
    return Batch(columns | of_rows, **keys)


def _tensor(column: Any) -> Tensor:
    return torch.as_tensor(column).detach().cpu()


def _columns(padded: Mapping[str, Any], prefix: str, *, head: str, scores: bool) -> dict[str, Tensor]:
    """The columns of the rows, or with a prefix of their partners, under the prefix."""
    found = {name: _tensor(padded[prefix + name]) for name in COLUMNS if padded.get(prefix + name) is not None}
    if "input_ids" not in found:
        raise UserError(f"the batch has no {prefix}input_ids; give what a tokenizer returns, padded, as tensors")
    ids = found["input_ids"]
    if ids.dim() != 2 or ids.numel() == 0:
        raise UserError(f"{prefix}input_ids has shape {tuple(ids.shape)}; it must be (rows, tokens)")
    mask = found.get("attention_mask", torch.ones_like(ids)).bool()
    for name in ("attention_mask", "token_type_ids"):
        if name in found and found[name].shape != ids.shape:
            raise UserError(f"{prefix}{name} has shape {tuple(found[name].shape)}, input_ids {tuple(ids.shape)}")
    lengths = mask.sum(dim=1)
    if not bool(lengths.all()):
        raise UserError(f"row {int(lengths.argmin())} of {prefix}input_ids has no token; leave it out")
    # Real tokens first, in their order, wherever the padding stood.
    order = torch.argsort(mask, dim=1, descending=True, stable=True)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    columns = {
        "input_ids": ids.long().gather(1, order),
        "attention_mask": mask,
        "lengths": lengths,
        "token_index": mask.flatten().nonzero().squeeze(1),
    }
    types = found.get("token_type_ids")
    # Where all are 0 every model is given the types that it takes by itself.
    if types is not None and bool((types * found.get("attention_mask", 1)).any()):
        columns["token_types"] = types.long().gather(1, order)[mask]
    columns |= _LABELS.get(head, _row_labels)(found, mask, order, scores)
    return {prefix + name: column for name, column in columns.items()}


def _row_labels(found: Mapping[str, Tensor], mask: Tensor, order: Tensor, scores: bool) -> dict[str, Tensor]:
    """A class or a score of each row."""
    labels = found.get("labels")
    if labels is None:
        return {}
    if labels.numel() != mask.shape[0]:
        raise UserError(f"labels has shape {tuple(labels.shape)}; it must have one class or score for each row")
    labels = labels.flatten()
    if not scores and labels.is_floating_point():
        raise UserError("labels are numbers with a fraction, but the student has classes; give class ids")
    return {"labels": labels.float() if scores else labels.long()}


def _token_labels(found: Mapping[str, Tensor], mask: Tensor, order: Tensor, scores: bool) -> dict[str, Tensor]:
    """A class, or an id, of each token that has one."""
    return _at_tokens(found, mask, order, shift=0)


def _next_labels(found: Mapping[str, Tensor], mask: Tensor, order: Tensor, scores: bool) -> dict[str, Tensor]:
    """The id that follows each token, where it has a label."""
    return _at_tokens(found, mask, order, shift=1)


def _at_tokens(found: Mapping[str, Tensor], mask: Tensor, order: Tensor, *, shift: int) -> dict[str, Tensor]:
    labels = found.get("labels")
    if labels is None:
        return {}
    if labels.shape != mask.shape:
        raise UserError(f"labels has shape {tuple(labels.shape)}, input_ids {tuple(mask.shape)}; label each token")
    labels = labels.long().gather(1, order)
    labelled = mask & (labels != IGNORED)
    labelled[:, :shift] = False
    places = labelled.flatten().nonzero().squeeze(1)
    return {"label_index": places - shift, "labels": labels.flatten()[places]}


def _span_labels(found: Mapping[str, Tensor], mask: Tensor, order: Tensor, scores: bool) -> dict[str, Tensor]:
    """The first tokens of all rows' answers, then the last ones."""
    if "start_positions" not in found or "end_positions" not in found:
        return {}
    # From a place among the padded ones to that among the packed ones.
    place_of = torch.argsort(order, dim=1)
    positions = torch.cat([found[name].flatten().long() for name in ("start_positions", "end_positions")])
    if not bool(((positions >= 0) & (positions < mask.shape[1])).all()):
        raise UserError(f"an answer starts or ends outside of the {mask.shape[1]} places of a row; cut it off before")
    return {"labels": torch.cat([place_of, place_of]).gather(1, positions[:, None]).squeeze(1)}


_LABELS = {
    "masked_lm": _token_labels,
    "causal_lm": _next_labels,
    "token_classification": _token_labels,
    "question_answering": _span_labels,
}

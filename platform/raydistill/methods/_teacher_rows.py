"""Batches whose rows have different teachers, by the corpus that each is of: what each teacher is asked about."""

import torch
from torch import Tensor

from raydistill.batch import Batch, labels_first
from raydistill.user_error import UserError

_COLUMNS = ("input_ids", "attention_mask", "token_index", "row_id")


def with_teacher_rows(batch: Batch, num_teachers: int, *, at_all: bool, labelled: bool) -> Batch:
    """The batch with the rows of each teacher under ``taught_<n>_*``; runs on the CPU, so that no device is waited for.

    Beside the usual columns of these rows there are ``index`` and ``own_index`` (P,), the flat positions that are
    compared, at all tokens or at labels alone, in the batch and among these rows, and ``labels`` (M,) of the first M of
    them. A teacher without a row gets the first one and no position: all ranks call their models equally often.
    Raises UserError for a batch that does not tell whose its rows are.
    """
    if "teacher_number" not in batch:
        raise UserError(
            "method.teacher_of names corpora, but the batch does not tell which corpus its rows are from; use it in "
            "a job, or give build one teacher"
        )
    width, numbers = batch["input_ids"].shape[1], batch["teacher_number"]
    index = batch["label_index"]
    if at_all:
        index = labels_first(batch) if labelled else batch["token_index"]
    columns: dict[str, Tensor] = {}
    for number in range(num_teachers):
        is_taught = numbers == number
        here = index[is_taught[index // width]]
        if not bool(is_taught.any()):
            is_taught = torch.arange(len(numbers)) == 0
        place = is_taught.cumsum(0) - 1

        def own(flat: Tensor, place: Tensor = place) -> Tensor:
            return place[flat // width] * width + flat % width

        found = {name: batch[name][is_taught] for name in ("input_ids", "attention_mask", "row_id")}
        tokens = batch["token_index"]
        found |= {"token_index": own(tokens[is_taught[tokens // width]]), "index": here, "own_index": own(here)}
        found["labels"] = batch["labels"][(numbers == number)[batch["label_index"] // width]]
        columns |= {f"{_prefix(number)}{name}": column for name, column in found.items()}
    return batch.with_columns(**columns)


def rows_of(batch: Batch, number: int) -> Batch:
    """What a teacher is asked about, as a batch of its own."""
    columns = {name: batch[_prefix(number) + name] for name in _COLUMNS}
    return Batch(columns, seed=batch.seed, epoch=batch.epoch, step=batch.step, micro_batch=batch.micro_batch)


def of_teacher(batch: Batch, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """``index``, ``own_index`` and ``labels`` of a teacher."""
    index, own, labels = (batch[_prefix(number) + name] for name in ("index", "own_index", "labels"))
    return index, own, labels


def _prefix(number: int) -> str:
    return f"taught_{number}_"

"""Tags of words, such as those of named entities: the word's first token has its tag.

Devlin et al. 2019, sec. 5.3; entities are counted as seqeval does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raydistill.batch import Batch
from raydistill.models.predictions import predict
from raydistill.tasks._base import NO_WORD, Column, LabelledRow, TaskBase
from raydistill.tasks._entities import check_tags, entity_counts, entity_metrics, entity_types, in_order
from raydistill.tasks._long_texts import batches, first_words, head
from raydistill.tasks._packed import pack, unpack
from raydistill.tasks._row_scores import SEEN, by_row, seen_rows
from raydistill.tasks._tokenizing import check_filler, length_limit, plain_backend
from raydistill.user_error import UserError

__all__ = ["Config", "EncodeConfig", "Task", "check_tokenizer", "columns", "cut", "drop_reasons", "labels_of"]

NO_TAG = -100
"""Stands at tokens that are not the first of a word."""
_NOTHING = "no validation row has a tag; hold out more text"
_TAGS = ("tags", "predicted_tags")
_AUTO = ("auto",)


@dataclass(frozen=True)
class EncodeConfig:
    """What the tags are, and how long rows may be."""

    labels: tuple[str, ...] = _AUTO
    """The tags in the order of their ids, such as O, B-PER, I-PER: IOB1, IOB2 or IOBES. ``auto``: the tags that the
    data have, O first and the others by their types."""
    max_length: int | None = None
    """The maximum length of a row, special tokens included; words beyond it are left out. None: the tokenizer's
    limit."""

    @property
    def finds_labels(self) -> bool:
        """Whether the tags are still to be found in the data."""
        return self.labels == _AUTO

    def __post_init__(self) -> None:
        if not self.finds_labels:
            check_tags(self.labels)
        if self.max_length is not None and self.max_length < 3:
            raise UserError(f"max_length is {self.max_length}; it must be at least 3")


@dataclass(frozen=True)
class Config:
    """Tagging has no options."""


def labels_of(examples: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The tags of some examples in an order that depends on them alone; raises ValueError for what are no tags."""
    found = in_order({label for example in examples for label in example.get("labels", ())})
    check_tags(found)
    return found


def check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError when a tokenizer lacks a special token that the task needs."""
    check_filler(tokenizer)


def columns(config: EncodeConfig) -> dict[str, Column]:
    """A tag's id for each token, ``NO_TAG`` where there is none, and how many words of a sentence have no token."""
    return {"tag": Column("int16", "token"), "lost_words": Column("int32")}


def cut(examples: Sequence[Mapping[str, Any]], tokenizer: Any, config: EncodeConfig) -> list[LabelledRow]:
    """One row an example, which has ``words`` and ``labels``.

    Words are lost that do not fit in, and those of which the tokenizer makes nothing. Raises ValueError for an example
    without words or with a tag that the encoding does not name.
    """
    tags = [_tag_ids(example, config.labels) for example in examples]
    return _rows([example["words"] for example in examples], tags, tokenizer, config)


def word_rows(sentences: Sequence[Sequence[str]], tokenizer: Any, config: EncodeConfig) -> list[LabelledRow]:
    """As ``cut`` of sentences without tags: for a word's tag stands its place in the sentence."""
    return _rows(sentences, [np.arange(len(words)) for words in sentences], tokenizer, config)


def _rows(
    sentences: Sequence[Sequence[str]], tags: Sequence[NDArray[Any]], tokenizer: Any, config: EncodeConfig
) -> list[LabelledRow]:
    backend = plain_backend(tokenizer)
    room = length_limit(tokenizer, config.max_length) - backend.num_special_tokens_to_add(False)
    space = " " if _marks_spaces(backend) else ""
    words = (
        first_words([space + head(word, backend, num_tokens=room) for word in sentence], backend, num_tokens=room)
        for sentence in sentences
    )
    encodings = (
        encoding
        for batch in batches(words)
        for encoding in backend.encode_batch(batch, is_pretokenized=True, add_special_tokens=False)
    )
    return [_row(encoding, of_row, backend, room) for encoding, of_row in zip(encodings, tags, strict=True)]


def _marks_spaces(backend: Any) -> bool:
    """Whether a space is part of the word after it, so that words by themselves would be taken for parts of words."""
    splitter = backend.pre_tokenizer
    # The letter stands for a space in vocabularies of bytes.
    return splitter is not None and any("\u0120" in piece for piece, _ in splitter.pre_tokenize_str("a b"))


def _tag_ids(example: Mapping[str, Any], labels: Sequence[str]) -> NDArray[np.int16]:
    if "words" not in example or "labels" not in example:
        raise UserError(f"an example has {', '.join(example) or 'no key'}; this task reads words and labels")
    if len(example["words"]) != len(example["labels"]):
        raise UserError(f"an example has {len(example['words'])} words and {len(example['labels'])} labels")
    unknown = [label for label in example["labels"] if label not in labels]
    if unknown:
        raise UserError(f"a word has the label {unknown[0]!r}; encoding.labels names {', '.join(labels)}")
    number = {label: place for place, label in enumerate(labels)}
    return np.array([number[label] for label in example["labels"]], dtype=np.int16)


def _row(encoding: Any, tags: NDArray[Any], backend: Any, room: int) -> LabelledRow:
    encoding.truncate(max(0, room))
    whole = backend.post_process(encoding, None, True)
    # Special tokens are of no word.
    words = np.array([-1 if word is None else word for word in whole.word_ids], dtype=np.int64)
    is_first = (words >= 0) & (words != np.concatenate([[-1], words[:-1]]))
    tag = np.full(len(words), NO_TAG, dtype=tags.dtype)
    tag[is_first] = tags[words[is_first]]
    lost = len(tags) - int(is_first.sum())
    return LabelledRow(np.array(whole.ids, dtype=np.int64), {"tag": tag, "lost_words": lost})


def drop_reasons(rows: Sequence[NDArray[Any]], tokenizer: Any, config: EncodeConfig) -> list[str | None]:
    """Rows that have only special tokens are left out."""
    least = tokenizer.backend_tokenizer.num_special_tokens_to_add(False)
    return [None if len(row) > least else NO_WORD for row in rows]


class Task(TaskBase[Config]):
    """The first token of each word is a target; writes ``labels`` and ``label_index`` (M,)."""

    HEAD = "token_classification"

    def prepare_batch(self, batch: Batch) -> Batch:
        """Nothing is drawn."""
        has_tag = batch["tag"] != NO_TAG
        return batch.with_columns(labels=batch["tag"][has_tag], label_index=batch["token_index"][has_tag])

    @classmethod
    def higher_is_better(cls, config: Config, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """All metrics but the loss are better when greater."""
        return {**dict.fromkeys(("f1", "precision", "recall", "accuracy"), True), "loss": False}

    @classmethod
    def figures(cls, config: Config, labels: Sequence[str]) -> dict[str, bool | None]:
        """Also the ``f1`` of each type of entities, and numbers of ``entities``, ``words`` and ``lost_words``."""
        of_types = {f"f1_{name}": True for name in entity_types(labels)}
        counts = dict.fromkeys(("entities", "words", "lost_words"))
        return {**super().figures(config, labels), **of_types, **counts}

    @torch.no_grad()
    def score(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Counts of words and, by type, of entities; and the tags of each row."""
        logits, labels = predict(student, batch, head=self.HEAD).logits, batch["labels"]
        predicted = logits.argmax(-1)
        rows = batch["label_index"] // batch["attention_mask"].shape[1]
        sizes = torch.bincount(rows, minlength=batch.num_rows).tolist()
        ids = [[part.tolist() for part in of_words.cpu().split(sizes)] for of_words in (labels, predicted)]
        true, guessed = ([self._tags(row) for row in rows_of] for rows_of in ids)
        counts = entity_counts(true, guessed, entity_types(self.encoding.labels))
        packed = {name: self._packed(rows_of).to(labels.device) for name, rows_of in zip(_TAGS, ids, strict=True)}
        # Summed in float64, so that the cut into batches does not show.
        loss = cross_entropy(logits.float(), labels, reduction="none").double().sum()
        return {
            "loss": loss,
            "correct": (predicted == labels).sum().double(),
            "words": torch.full_like(loss, labels.shape[0]),
            "lost_words": batch["lost_words"].sum().double(),
            **{name: torch.from_numpy(count).to(loss.device) for name, count in counts.items()},
            **by_row(batch, self.encoding.num_rows, packed),
        }

    def _tags(self, ids: Sequence[int]) -> list[str]:
        return [self.encoding.labels[place] for place in ids]

    @property
    def _bits(self) -> int:
        """Bits of a tag's id, and of one number more."""
        return len(self.encoding.labels).bit_length()

    def _packed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Ids of each row's tags, of which a row has not more than tokens."""
        return torch.from_numpy(pack(rows, width=self.encoding.max_length, bits=self._bits))

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Micro ``f1``, ``precision`` and ``recall`` of entities, the ``f1_<type>`` of each type, the ``accuracy`` of
        words, and the mean ``loss`` in nats; numbers of ``entities``, ``words`` and ``lost_words``.

        Words that are lost count nowhere else, as published.
        """
        words = float(sums["words"])
        if words == 0:
            raise UserError(_NOTHING)
        return {
            **entity_metrics(sums, entity_types(self.encoding.labels)),
            "accuracy": float(sums["correct"]) / words,
            "loss": float(sums["loss"]) / words,
            "words": words,
            "lost_words": float(sums["lost_words"]),
        }

    def predictions(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """``row_id``, and as ``label`` and ``prediction`` the tags of the row's words, parted by spaces."""
        found = seen_rows({name: sums[name] for name in (SEEN, *_TAGS)}, nothing=_NOTHING)
        return {
            "row_id": found["row_id"].astype(np.int64),
            "label": self._written(found["tags"]),
            "prediction": self._written(found["predicted_tags"]),
        }

    def _written(self, packed: NDArray[np.float64]) -> list[str]:
        return [" ".join(self._tags(row)) for row in unpack(packed, bits=self._bits)]

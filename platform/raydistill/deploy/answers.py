"""What a model answers to examples, by its head: rows of token ids in, columns of answers out.

One class a head. ``rows`` makes of examples the rows that a model reads, ``batch`` a batch of some of them, and
``columns`` the answers of what it said.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import log_softmax

from raydistill.batch import Batch, collate
from raydistill.losses.chunked_head import DEFAULT_CHUNK_ROWS, logits_of
from raydistill.models.classes import class_names
from raydistill.models.predictions import at_labels, predict
from raydistill.tasks import ner, qa
from raydistill.tasks._base import LabelledRow
from raydistill.tasks._class_metrics import predictions_of
from raydistill.tasks._long_texts import encodings, head
from raydistill.tasks._pair_rows import encode_pairs, token_types
from raydistill.tasks._spans import best_span
from raydistill.tasks._tokenizing import filler_id, length_limit, plain_backend, role_ids
from raydistill.user_error import UserError

Example = Mapping[str, Any]
Columns = dict[str, Sequence[Any]]
LOST = None
"""The tag of a word that does not fit in."""


class Answers(ABC):
    """How a head is asked; ``READS`` and ``MAY_READ`` name the columns of an example."""

    READS: ClassVar[tuple[str, ...]] = ("text",)
    MAY_READ: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, tokenizer: Any, *, max_length: int | None) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.max_length = length_limit(tokenizer, max_length)
        self._pad_id = filler_id(role_ids(tokenizer))

    @abstractmethod
    def rows(self, examples: Sequence[Example]) -> list[LabelledRow]:
        """The rows of the examples, one each unless ``columns`` joins several; ``example`` is among their values."""

    def batch(self, rows: Sequence[LabelledRow]) -> Batch:
        """A batch of rows as ``predict`` reads it, with the token types of pairs."""
        batch = collate([row.ids for row in rows], range(len(rows)), pad_id=self._pad_id)
        second = torch.tensor([row.values.get("second", len(row.ids)) for row in rows])
        width = batch["attention_mask"].shape[1]
        types = token_types(batch["token_index"], second, batch["lengths"], width=width)
        return batch.with_columns(token_types=types) if bool(types.any()) else batch

    @abstractmethod
    def said(self, model: nn.Module, batch: Batch) -> list[Any]:
        """What a model says of each row of a batch."""

    @abstractmethod
    def columns(self, examples: Sequence[Example], rows: Sequence[LabelledRow], said: Sequence[Any]) -> Columns:
        """Columns of answers, one value an example."""


class ClassAnswers(Answers):
    """``prediction``, the class or the score, and ``probability.<class>`` of each class."""

    MAY_READ = ("text_pair",)

    def __init__(self, config: Any, tokenizer: Any, *, max_length: int | None) -> None:
        super().__init__(config, tokenizer, max_length=max_length)
        if getattr(config, "problem_type", None) == "multi_label_classification":
            raise UserError("the model gives each text any number of classes (problem_type multi_label_classification)")
        self._names = class_names(config) if config.num_labels > 1 else ()

    def rows(self, examples: Sequence[Example]) -> list[LabelledRow]:
        """See ``Answers``."""
        pairs = encode_pairs(examples, self.tokenizer, max_length=self.max_length)
        return [LabelledRow(pair.ids, {"second": pair.second}) for pair in pairs]

    def said(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Logits (C,) of each row."""
        return list(predict(model, batch, head="sequence_classification").logits.float().cpu().numpy())

    def columns(self, examples: Sequence[Example], rows: Sequence[LabelledRow], said: Sequence[Any]) -> Columns:
        """See ``Answers``."""
        logits = np.stack(said) if said else np.zeros((0, max(1, len(self._names))), dtype=np.float32)
        found = predictions_of(np.arange(len(logits)), logits, None, self._names)
        return {name: list(values) for name, values in found.items() if name != "row_id"}


class TagAnswers(Answers):
    """``prediction``: a tag for each of ``words``, or of the words of a text that white space parts; null where a word
    does not fit in."""

    READS = ("words",)

    def rows(self, examples: Sequence[Example]) -> list[LabelledRow]:
        """See ``Answers``; a word's place stands where a corpus has its tag."""
        self._names = class_names(self.config)
        options = ner.EncodeConfig(max_length=self.max_length)
        return ner.word_rows([list(one["words"]) for one in examples], self.tokenizer, options)

    def batch(self, rows: Sequence[LabelledRow]) -> Batch:
        """See ``Answers``."""
        batch = super().batch(rows)
        words = np.concatenate([row.values["tag"] for row in rows])
        index = batch["token_index"][torch.from_numpy(words != ner.NO_TAG)]
        return batch.with_columns(label_index=index)

    def said(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Numbers of the tags of each row's words."""
        best = predict(model, batch, head="token_classification").logits.argmax(-1).cpu()
        rows = batch["label_index"] // batch["attention_mask"].shape[1]
        return [part.tolist() for part in best.split(torch.bincount(rows, minlength=batch.num_rows).tolist())]

    def columns(self, examples: Sequence[Example], rows: Sequence[LabelledRow], said: Sequence[Any]) -> Columns:
        """See ``Answers``."""
        tags = []
        for example, row, numbers in zip(examples, rows, said, strict=True):
            of_words: list[str | None] = [LOST] * len(example["words"])
            places = row.values["tag"][row.values["tag"] != ner.NO_TAG]
            for place, number in zip(places.tolist(), numbers, strict=True):
                of_words[place] = self._names[number]
            tags.append(of_words)
        return {"prediction": tags}


class SpanAnswers(Answers):
    """``prediction``: the likeliest answer of all windows of a context; ``score``: the sum of its two logits;
    ``score_of_none``: the least sum of the first token's, which stands for no answer."""

    READS = ("question", "context")

    def rows(self, examples: Sequence[Example]) -> list[LabelledRow]:
        """See ``Answers``: the windows of each example in order."""
        options = qa.EncodeConfig(max_length=self.max_length, stride=min(128, max(0, self.max_length - 6)))
        nothing: dict[str, list[Any]] = {"text": [], "answer_start": []}
        asked = [{**example, "answers": nothing, "id": number} for number, example in enumerate(examples)]
        rows = qa.cut(asked, self.tokenizer, options)
        numbers = np.cumsum([row.values["window"] == 0 for row in rows]) - 1
        return [
            LabelledRow(row.ids, {**row.values, "example": number})
            for row, number in zip(rows, numbers.tolist(), strict=True)
        ]

    def said(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Logits (2, R) of each row's tokens, of first and of last ones."""
        logits = (
            predict(model, batch, head="question_answering")
            .logits.double()
            .cpu()
            .numpy()
            .reshape(2, batch.num_rows, -1)
        )
        return [logits[:, number, :size] for number, size in enumerate(batch["lengths"].tolist())]

    def columns(self, examples: Sequence[Example], rows: Sequence[LabelledRow], said: Sequence[Any]) -> Columns:
        """See ``Answers``."""
        answers: list[str] = [""] * len(examples)
        best, none = [-math.inf] * len(examples), [math.inf] * len(examples)
        for row, (first, last) in zip(rows, said, strict=True):
            number, values = row.values["example"], row.values
            none[number] = min(none[number], float(first[0] + last[0]))
            options = qa.Config()
            inside = values["text_start"] >= 0
            span = best_span(first, last, inside, n_best=options.n_best, max_length=options.max_answer_length)
            if span is not None and span.score > best[number]:
                text = "".join(map(chr, values["text"].tolist()))
                best[number] = span.score
                answers[number] = text[values["text_start"][span.first] : values["text_end"][span.last]]
        return {"prediction": answers, "score": best, "score_of_none": none}


class MaskAnswers(Answers):
    """``prediction``: the likeliest token for each mask token of a text, and its ``probability``."""

    def rows(self, examples: Sequence[Example]) -> list[LabelledRow]:
        """See ``Answers``; a text's masks are those that its own letters spell, such as ``[MASK]``."""
        return [LabelledRow(row.ids, {}) for row in encode_pairs(examples, self.tokenizer, max_length=self.max_length)]

    def batch(self, rows: Sequence[LabelledRow]) -> Batch:
        """See ``Answers``."""
        batch = super().batch(rows)
        places = batch["token_index"]
        is_mask = batch["input_ids"].flatten()[places] == self.tokenizer.mask_token_id
        return batch.with_columns(label_index=places[is_mask])

    def said(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Tokens and probabilities of each row's masks."""
        states, projection = at_labels(model, batch)
        found = [logits_of(part, projection).float().softmax(-1).max(-1) for part in states.split(DEFAULT_CHUNK_ROWS)]
        best = [
            (float(p), int(token)) for part in found for p, token in zip(*map(torch.Tensor.tolist, part), strict=True)
        ]
        rows = batch["label_index"] // batch["attention_mask"].shape[1]
        left = iter(best)
        return [[next(left) for _ in range(count)] for count in torch.bincount(rows, minlength=batch.num_rows).tolist()]

    def columns(self, examples: Sequence[Example], rows: Sequence[LabelledRow], said: Sequence[Any]) -> Columns:
        """See ``Answers``."""
        return {
            "prediction": [[self.tokenizer.decode([token]).strip() for _, token in one] for one in said],
            "probability": [[probability for probability, _ in one] for one in said],
        }


class TextAnswers(Answers):
    """``log_likelihood`` of a text in nats, its ``tokens`` that are predicted, and its ``perplexity``."""

    def rows(self, examples: Sequence[Example]) -> list[LabelledRow]:
        """See ``Answers``: the tokens with the tokenizer's own special ones, cut at the end."""
        backend = plain_backend(self.tokenizer)
        texts = (head(str(example["text"]), backend, num_tokens=self.max_length) for example in examples)
        rows = []
        for encoding in encodings(texts, backend):
            encoding.truncate(max(0, self.max_length - backend.num_special_tokens_to_add(False)))
            ids = np.array(backend.post_process(encoding, None, True).ids, dtype=np.int64)
            rows.append(LabelledRow(ids if len(ids) else np.array([self._pad_id]), {}))
        return rows

    def batch(self, rows: Sequence[LabelledRow]) -> Batch:
        """See ``Answers``: every token but a row's first is a label."""
        batch = super().batch(rows)
        width = batch["attention_mask"].shape[1]
        places = batch["token_index"]
        is_label = places % width > 0
        targets = batch["input_ids"].flatten()[places[is_label]]
        return batch.with_columns(labels=targets, label_index=places[is_label] - 1)

    def said(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Log-likelihood and number of labels of each row; logits of all labels never exist at once."""
        states, projection = at_labels(model, batch)
        found = [
            log_softmax(logits_of(part, projection).float(), dim=-1).gather(1, labels[:, None])[:, 0].double()
            for part, labels in zip(
                states.split(DEFAULT_CHUNK_ROWS), batch["labels"].split(DEFAULT_CHUNK_ROWS), strict=True
            )
        ]
        rows = batch["label_index"] // batch["attention_mask"].shape[1]
        values = torch.cat(found) if found else states.new_zeros(0, dtype=torch.float64)
        sums = values.new_zeros(batch.num_rows).index_add(0, rows, values)
        counts = torch.bincount(rows, minlength=batch.num_rows)
        return list(zip(sums.tolist(), counts.tolist(), strict=True))

    def columns(self, examples: Sequence[Example], rows: Sequence[LabelledRow], said: Sequence[Any]) -> Columns:
        """See ``Answers``."""
        return {
            "log_likelihood": [likelihood for likelihood, _ in said],
            "tokens": [count for _, count in said],
            "perplexity": [
                math.exp(min(700.0, -likelihood / count)) if count else math.nan for likelihood, count in said
            ],
        }


ANSWERS: dict[str, type[Answers]] = {
    "sequence_classification": ClassAnswers,
    "token_classification": TagAnswers,
    "question_answering": SpanAnswers,
    "masked_lm": MaskAnswers,
    "causal_lm": TextAnswers,
}
"""How each head is asked."""

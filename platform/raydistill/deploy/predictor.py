"""A model that answers about texts: loaded once from a checkpoint folder, then asked as often as one likes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raydistill.batch import Batch
from raydistill.deploy.answers import ANSWERS, Columns, Example
from raydistill.deploy.exported import ExportedModel, is_exported
from raydistill.models import checks
from raydistill.models.load import DTYPES, head_in, load_config, load_model, load_tokenizer, stored_head
from raydistill.tasks._base import LabelledRow
from raydistill.user_error import UserError


class Predictor:
    """A checkpoint with its tokenizer: transformers' files with safetensors weights, or an export of ours.

    Shapes and units: texts in, one value a text in each column out; probabilities are in [0, 1], likelihoods in nats.
    What a head gives stands at the classes of ``raydistill.deploy.answers``. Raises UserError, a ValueError of one
    line, for what cannot be loaded or read. Source: the heads of transformers; answers of questions are chosen as in
    its examples.

    >>> Predictor("student").predict(["a fine film", "a bore"])["prediction"]  # doctest: +SKIP
    ['positive', 'negative']
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
        precision: str = "fp32",
        device: str | None = None,
    ) -> None:
        """Load what lies in ``folder``.

        ``max_length`` cuts longer rows, by default at what model and tokenizer take; ``precision`` is one of
        ``DTYPES``; ``device`` by default a GPU where there is one. Raises UserError for a folder without a model, one
        without a tokenizer, and numbers out of range.
        """
        if precision not in DTYPES:
            raise UserError(f"precision is {precision!r}; choices: {', '.join(DTYPES)}")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        config = load_config(folder)
        self.head = stored_head(config) if is_exported(folder) else head_in(folder)
        tokenizer = load_tokenizer(folder)
        limits = [limit for limit in (max_length, tokenizer.model_max_length, checks.max_length(config)) if limit]
        self._answers = ANSWERS[self.head](config, tokenizer, max_length=int(min(limits)))
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._batch_size = batch_size
        if not is_exported(folder):
            self._model = load_model(folder, head=self.head, dtype=DTYPES[precision]).to(self._device)
        else:
            self._model = ExportedModel(folder, head=self.head)

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that an example must have."""
        return self._answers.READS

    @property
    def may_read(self) -> tuple[str, ...]:
        """Columns that an example may have."""
        return self._answers.MAY_READ

    @torch.no_grad()
    def predict(self, examples: Sequence[str | Example], *, called: str = "example", start: int = 0) -> Columns:
        """Columns of answers, one value an example in the order of the examples; see the classes of ``answers``.

        An example is a text, or a mapping of the columns that ``reads`` names. Raises UserError for one that lacks any,
        which it says is ``called`` so, with its number from ``start`` on.
        """
        asked = [self._checked(f"{called} {number}", one) for number, one in enumerate(examples, start)]
        rows = self._answers.rows(asked)
        said: list[Any] = [None] * len(rows)
        for places, batch in self._batches(rows):
            for place, one in zip(places, self._answers.said(self._model, batch.to(self._device)), strict=True):
                said[place] = one
        return self._answers.columns(asked, rows, said)

    def batches(self, examples: Sequence[str | Example]) -> Iterator[Batch]:
        """The batches that the model is given, the shortest rows first."""
        asked = [self._checked(f"example {number}", one) for number, one in enumerate(examples)]
        yield from (batch for _, batch in self._batches(self._answers.rows(asked)))

    def _batches(self, rows: Sequence[LabelledRow]) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Batches and the numbers of their rows; rows of like length, which waste least padding, stand together."""
        order = np.argsort([len(row.ids) for row in rows], kind="stable")
        for start in range(0, len(rows), self._batch_size):
            places = order[start : start + self._batch_size]
            yield places, self._answers.batch([rows[place] for place in places])

    def _checked(self, place: str, example: str | Example) -> Example:
        if isinstance(example, str):
            example = {"text": example}
        if "words" in self.reads and "words" not in example and isinstance(example.get("text"), str):
            example = {"words": example["text"].split()}
        for column in self.reads:
            if not isinstance(example, Mapping) or column not in example:
                raise UserError(f"{place} has no {column}; the model's {self.head} head reads it")
        for column in ("text", "text_pair", "question", "context"):
            if column in example and not isinstance(example[column], str):
                raise UserError(f"{place} has {example[column]!r} as {column}, which is not text")
        if "words" in self.reads and not (
            isinstance(example["words"], Sequence) and all(isinstance(word, str) for word in example["words"])
        ):
            raise UserError(f"{place} has {example['words']!r} as words, which is not a list of texts")
        return example

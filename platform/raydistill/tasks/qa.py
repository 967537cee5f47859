"""Answers that are a piece of a text: the first and the last token of the answer to a question.

Devlin et al. 2019, sec. 4.2 and 4.3. Long contexts are cut into windows that share tokens.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raydistill.batch import Batch
from raydistill.models.predictions import predict
from raydistill.tasks._answers import match
from raydistill.tasks._base import Column, LabelledRow, TaskBase
from raydistill.tasks._long_texts import LONGEST_WHOLE, encodings, head
from raydistill.tasks._packed import pack_texts, unpack_texts
from raydistill.tasks._row_scores import by_row, seen_rows
from raydistill.tasks._spans import Window, answer_place, best_span, windows
from raydistill.tasks._tokenizing import check_filler, length_limit, plain_backend
from raydistill.user_error import UserError

__all__ = ["Config", "EncodeConfig", "Task", "check_tokenizer", "columns", "cut", "drop_reasons"]

_KEY_BITS = 52
"""Of what tells questions from each other: as many as a float64 keeps exactly."""
_NO_ANSWER = -1e30
"""Score of a window in which no tokens can be an answer."""
_TEXT_BYTES = 120
"""How much of an answer predictions tell."""
_NOTHING = "no validation row has a question; hold out more text"


@dataclass(frozen=True)
class EncodeConfig:
    """How long rows may be, and how windows lie; defaults are the published ones."""

    max_length: int | None = 384
    """The maximum length of a row: special tokens, the question and a piece of the context. None: the tokenizer's
    limit."""
    stride: int = 128
    """The number of tokens of the context that a window shares with the one before."""

    def __post_init__(self) -> None:
        if self.stride < 0:
            raise UserError(f"stride is {self.stride}; it must be at least 0")
        if self.max_length is not None and self.max_length < self.stride + 6:
            raise UserError(
                f"max_length is {self.max_length} and stride {self.stride}; max_length must be at least "
                f"{self.stride + 6}, the stride and 6"
            )


@dataclass(frozen=True)
class Config:
    """How answers are chosen; defaults are the published ones."""

    n_best: int = 20
    """How many of the likeliest first tokens and last tokens of a window are paired."""
    max_answer_length: int = 30
    """The maximum number of tokens of an answer."""
    unanswerable: bool = False
    """Whether questions may have no answer, as in SQuAD 2.0; the first token, CLS, then stands for that."""
    null_threshold: float = 0.0
    """No answer is given if CLS scores higher than the best answer by more than this, in sums of two logits."""

    def __post_init__(self) -> None:
        for name in ("n_best", "max_answer_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")


def check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError when a tokenizer lacks a special token that the task needs."""
    check_filler(tokenizer)


def columns(config: EncodeConfig) -> dict[str, Column]:
    """The answer's place in a window, and what it takes to score one.

    ``start`` and ``end`` are the first and last token of the first answer, 0 without one; ``second`` is where the
    context starts. ``question`` tells questions from each other, ``window`` counts a question's windows from 0 and
    ``windows`` says how many it has. ``text`` has the code points of the window's piece of the context, in which
    tokens reach from ``text_start`` to before ``text_end``, -1 outside the context; ``answers`` those of all answers
    as a JSON list.
    """
    row, token, text = Column("int32"), Column("int32", "token"), Column("int32", "list")
    return {
        **dict.fromkeys(("start", "end", "second", "window", "windows"), row),
        "question": Column("int64"),
        **dict.fromkeys(("text_start", "text_end"), token),
        **dict.fromkeys(("text", "answers"), text),
    }


def cut(examples: Sequence[Mapping[str, Any]], tokenizer: Any, config: EncodeConfig) -> list[LabelledRow]:
    """The windows of each example in order.

    An example has ``question``, ``context``, ``answers`` (a mapping of ``text`` and ``answer_start``, lists; empty
    without an answer), and may have ``id``. Questions lose white space at their start. Raises ValueError for an
    example that lacks one of these.
    """
    for example in examples:
        _check(example)
    limit = length_limit(tokenizer, config.max_length)
    backend = plain_backend(tokenizer)
    questions = [example["question"].lstrip() for example in examples]
    first = encodings((head(question, backend, num_tokens=limit) for question in questions), backend)
    second = encodings([example["context"] for example in examples], backend, with_offsets=True)
    rows: list[LabelledRow] = []
    for example, question, context in zip(examples, first, second, strict=True):
        found = list(windows(question, context, backend, limit=limit, stride=config.stride))
        shared = {"question": _key(example), "windows": len(found), "answers": _code_points(_answers(example))}
        for number, window in enumerate(found):
            rows.append(LabelledRow(window.ids, {**shared, "window": number, **_values(window, example)}))
    return rows


def _check(example: Mapping[str, Any]) -> None:
    missing = {"question", "context", "answers"} - example.keys()
    if missing:
        raise UserError(
            f"an example has {', '.join(example) or 'no key'}; this task reads question, context and answers"
        )
    if len(example["context"]) > LONGEST_WHOLE:
        raise UserError(
            f"a context has {len(example['context'])} characters, {example['context'][:40]!r}…; one of more than "
            f"{LONGEST_WHOLE} is not read, so part it"
        )
    answers = example["answers"]
    if not isinstance(answers, Mapping) or len(answers.get("text", [])) != len(answers.get("answer_start", [])):
        raise UserError(f"an example has the answers {answers!r}; give equally many in text and answer_start")


def _key(example: Mapping[str, Any]) -> int:
    """The same for all windows of an example, and another for each other one."""
    content = json.dumps([str(example.get("id", "")), example["question"], example["context"]])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> (64 - _KEY_BITS)


def _answers(example: Mapping[str, Any]) -> str:
    return json.dumps(list(example["answers"]["text"]))


def _code_points(text: str) -> NDArray[np.int32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<i4")


def _values(window: Window, example: Mapping[str, Any]) -> dict[str, Any]:
    """What a window's row has of its own."""
    answers = example["answers"]
    start, end = 0, 0
    if len(answers["text"]):
        first = int(answers["answer_start"][0])
        start, end = answer_place(window, first, first + len(answers["text"][0]))
    in_context = window.starts >= 0
    base, stop = (int(window.starts[in_context].min()), int(window.ends.max())) if in_context.any() else (0, 0)
    return {
        "start": start,
        "end": end,
        "second": window.second,
        "text_start": np.where(in_context, window.starts - base, -1),
        "text_end": np.where(in_context, window.ends - base, -1),
        "text": _code_points(example["context"][base:stop]),
    }


def drop_reasons(rows: Sequence[NDArray[Any]], tokenizer: Any, config: EncodeConfig) -> list[str | None]:
    """No row is left out."""
    return [None] * len(rows)


_SCORES = ("best", "none", "exact", "f1", "empty_matches", "has_answer")
"""Of a window: scores of the best answer and of none, how well that answer matches, whether none does, whether there is
one."""


class _Row(NamedTuple):
    """What scoring a row takes; tokens without padding."""

    first_logits: NDArray[np.float64]
    last_logits: NDArray[np.float64]
    text_start: NDArray[np.int64]
    text_end: NDArray[np.int64]
    text: str
    answers: list[str]


class Task(TaskBase[Config]):
    """Labels are the first tokens of all rows, then the last ones: ``labels`` (2B,); writes ``token_types``."""

    HEAD = "question_answering"
    ROW_METRICS = ("exact_match", "f1")

    def prepare_batch(self, batch: Batch) -> Batch:
        """Nothing is drawn."""
        width = batch["attention_mask"].shape[1]
        places = batch["token_index"]
        token_types = (places % width >= batch["second"][places // width]).long()
        return batch.with_columns(labels=torch.cat([batch["start"], batch["end"]]), token_types=token_types)

    @classmethod
    def higher_is_better(cls, config: Config, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """All metrics but the loss are better when greater."""
        return {"f1": True, "exact_match": True, "loss": False}

    @torch.no_grad()
    def score(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Of each window its best answer, how likely that is, how likely none is, and how well either matches."""
        logits = predict(student, batch, head=self.HEAD).logits
        loss = cross_entropy(logits.float(), batch["labels"], reduction="none").double()
        rows = list(_rows(batch, logits))
        texts, scores = zip(*map(self._answered, rows), strict=True)
        of_rows = torch.from_numpy(np.array(scores)).to(batch["row_id"].device)
        values = {name: of_rows[:, place] for place, name in enumerate(_SCORES)}
        answers = [row.answers[0] if row.answers else "" for row in rows]
        for name, written in (("label", answers), ("prediction", texts)):
            values[name] = torch.from_numpy(pack_texts(written, num_bytes=_TEXT_BYTES)).to(of_rows.device)
        of_example = {name: batch[name] for name in ("question", "window", "windows")}
        row_loss = loss.reshape(2, -1).mean(dim=0)
        return by_row(batch, self.encoding.num_rows, {**values, **of_example, "loss": row_loss})

    def _answered(self, row: _Row) -> tuple[str, tuple[float, ...]]:
        """The best answer, and what ``_SCORES`` names."""
        span = best_span(
            row.first_logits,
            row.last_logits,
            row.text_start >= 0,
            n_best=self.config.n_best,
            max_length=self.config.max_answer_length,
        )
        text = "" if span is None else row.text[row.text_start[span.first] : row.text_end[span.last]]
        best = _NO_ANSWER if span is None else span.score
        empty_matches, _ = match("", row.answers)
        none = row.first_logits[0] + row.last_logits[0]
        return text, (best, none, *match(text, row.answers), empty_matches, float(len(row.answers) > 0))

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """``f1`` and ``exact_match``, means over questions in [0, 1], and the mean ``loss`` of windows in nats.

        Only questions count whose windows were all scored: of a sample of rows, those with long contexts are then
        fewer than they should be. ``questions`` is their number, ``partial_questions`` that of the others. Where
        questions may have no answer, ``answerable_f1``, ``answerable_exact_match`` and ``unanswerable_accuracy`` are of
        those that have one and of those that do not, as far as there are any.
        """
        rows = seen_rows(sums, nothing=_NOTHING)
        questions = self._questions(rows)
        whole = questions["is_whole"]
        if not whole.any():
            raise UserError("no validation question had all its windows scored; raise the number of rows to score")
        exact, f1 = questions["exact"], questions["f1"]
        return {
            "f1": float(f1[whole].mean()),
            "exact_match": float(exact[whole].mean()),
            **(_of_kinds(questions) if self.config.unanswerable else {}),
            "loss": float(rows["loss"].mean()),
            "questions": float(whole.sum()),
            "partial_questions": float((~whole).sum()),
        }

    def predictions(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Of each question the ``row_id`` of its best window, ``prediction``, ``label``, ``exact_match`` and ``f1``.

        The label is the first of the known answers. Both texts are empty for no answer, and cut to 120 bytes. Questions
        of which windows are missing are left out.
        """
        questions = self._questions(seen_rows(sums, nothing=_NOTHING))
        found = {name: values[questions["is_whole"]] for name, values in questions.items()}
        texts = unpack_texts(found["prediction"])
        return {
            "row_id": found["row_id"].astype(np.int64),
            "label": unpack_texts(found["label"]),
            "prediction": ["" if none else text for none, text in zip(found["is_none"], texts, strict=True)],
            "exact_match": found["exact"],
            "f1": found["f1"],
        }

    def _questions(self, rows: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[Any]]:
        """Values of each question's best window, whether no answer is given, and whether all windows are there."""
        found = _by_question(rows)
        found["is_none"] = np.zeros(len(found["best"]), dtype=bool)
        if self.config.unanswerable:
            found["is_none"] = found["none"] - found["best"] > self.config.null_threshold
            for name in ("exact", "f1"):
                found[name] = np.where(found["is_none"], found["empty_matches"], found[name])
        return found


def _rows(batch: Batch, logits: Tensor) -> Iterator[_Row]:
    """The rows of a batch with their logits (2B, T), on the host."""
    firsts, lasts = logits.double().cpu().numpy().reshape(2, batch.num_rows, -1)
    sizes = batch["lengths"].tolist()
    starts, ends = (_parts(batch[name], sizes) for name in ("text_start", "text_end"))
    texts, answers = (
        ["".join(map(chr, part.tolist())) for part in _parts(batch[name], batch[f"{name}_lengths"].tolist())]
        for name in ("text", "answers")
    )
    for number, size in enumerate(sizes):
        own = starts[number], ends[number], texts[number], json.loads(answers[number])
        yield _Row(firsts[number][:size], lasts[number][:size], *own)


def _parts(values: Tensor, sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    return [part.numpy() for part in values.cpu().split(list(sizes))]


def _by_question(rows: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[Any]]:
    """Values of each question's best window, the least score of no answer, and whether all windows are there."""
    # The best window of each question first, of equal ones the first.
    order = np.lexsort((rows["window"], -rows["best"], rows["question"]))
    _, begins, group = np.unique(rows["question"][order], return_index=True, return_inverse=True)
    names = (*_SCORES, "row_id", "label", "prediction")
    found: dict[str, NDArray[Any]] = {name: rows[name][order[begins]] for name in names}
    found["none"] = np.minimum.reduceat(rows["none"][order], begins)
    # A row may be there twice, in copies of a corpus.
    distinct = np.unique(np.stack([group, rows["window"][order]]), axis=1)[0].astype(np.int64)
    found["is_whole"] = np.bincount(distinct) == rows["windows"][order][begins]
    return found


def _of_kinds(questions: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Metrics of the questions that have an answer and of those that have none."""
    has_answer = questions["has_answer"] > 0
    kinds = {
        "answerable_f1": (questions["f1"], has_answer),
        "answerable_exact_match": (questions["exact"], has_answer),
        "unanswerable_accuracy": (questions["exact"], ~has_answer),
    }
    whole = questions["is_whole"]
    return {
        name: float(values[of_kind & whole].mean())
        for name, (values, of_kind) in kinds.items()
        if (of_kind & whole).any()
    }

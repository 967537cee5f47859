"""Corpora of prompts and messages: what a preflight refuses, what is told of them, and who reads where the loss is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from raydistill.config.errors import error_lines
from raydistill.config.named import EncodingSpec, TaskSpec
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.findings import Finding
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.evaluation import evaluate_models
from raydistill.models.load import load_model
from raydistill.stages import binarize
from raydistill.stages._base import CorpusFacts
from raydistill.user_error import UserError
from toys.chats import binarized, chat, chat_tokenizer, conversations, words, write_chats, write_lines
from toys.families import toy_gpt2
from toys.models import VOCABULARY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of a model with a chat template."""
    for name in ("model", "tokenizer"):
        chat_tokenizer().save_pretrained(tmp_path / name)
    GPT2Config(vocab_size=VOCABULARY, n_positions=40).save_pretrained(tmp_path / "model")
    return tmp_path


def stage(folder: Path, rows: Any = None, **changes: Any) -> binarize.Stage:
    if rows is not None:
        write_lines(folder / "chats.jsonl", rows)
    keys = {
        "kind": "binarize",
        "source": {"name": "delimited", "path": str(folder / "chats.jsonl"), "messages": "messages"},
        "encoding": "clm",
        "tokenizer": str(folder / "model"),
        **changes,
    }
    return binarize.Stage("corpus", binarize.Config.model_validate(keys))


def refusal_of(folder: Path, rows: Any = None, **changes: Any) -> str:
    with pytest.raises((UserError, ValueError)) as refusal:
        stage(folder, rows, **changes).plan(ScalingConfig(), {})
    [line] = error_lines(refusal.value)
    return line.replace(str(folder), "")


def prompts(path: Path | str, **options: Any) -> dict[str, Any]:
    return {"name": "delimited", "path": str(path), "prompt": "ask", "completion": "answer", **options}


def test_columns_of_messages_or_prompts_make_an_encoding_of_instructions(folder: Path) -> None:
    decisions = stage(folder, [{"messages": one} for one in conversations(3)]).plan(ScalingConfig(), {})
    assert isinstance(decisions.makes, CorpusFacts)
    assert list(decisions.makes.columns) == ["loss_spans"]
    (folder / "a.csv").write_text("ask,answer\nw5,w6\n")
    found = stage(folder, source=prompts(folder / "a.csv")).plan(ScalingConfig(), {}).makes
    assert isinstance(found, CorpusFacts)
    assert list(found.columns) == ["loss_spans"]


def test_jobs_on_texts_are_written_as_before_there_were_instructions() -> None:
    assert TaskSpec.parse("clm").dump() == {"name": "clm"}
    assert TaskSpec.parse({"name": "clm", "train_on_prompt": True}).dump() == {"name": "clm", "train_on_prompt": True}
    texts = {"name": "clm", "max_length": None, "min_length": 12, "max_unknown": 0.5, "pack": False}
    assert EncodingSpec.parse("clm").dump() == texts
    cut_right = EncodingSpec.parse({"name": "clm", "too_long": "drop"}).with_instructions()
    assert cut_right.dump() == {**texts, "instructions": True, "too_long": "drop"}


GOOD = {"messages": chat("w5", "w6")}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (
            [{"mesages": []}],
            "source: messages is 'messages', which /chats.jsonl line 1 does not have; choices: mesages",
        ),
        (
            [GOOD, {"messages": "w5"}],
            "source: /chats.jsonl line 2: messages is 'w5', which is not a list of {role, content}",
        ),
        ([GOOD, {"messages": None}], "source: /chats.jsonl line 2: messages is None, which is not a list of {role,"),
        (
            [GOOD, GOOD, {"messages": [{"role": "bot", "content": "w5"}, *GOOD["messages"]]}],
            "source: /chats.jsonl line 3: messages.0 has the role 'bot'; choices: system, developer, user, assistant,",
        ),
        ([GOOD, {"messages": chat("w5", "")}], "source: /chats.jsonl line 2: messages.1 is an empty completion; leave"),
        (
            [GOOD, {"messages": chat("w5", "\ud800")}],
            "source: /chats.jsonl line 2: messages is '\\ud800', which has half",
        ),
    ],
)
def test_wrong_messages_are_refused_before_the_run_with_their_line(folder: Path, rows: Any, line: str) -> None:
    assert refusal_of(folder, rows).startswith(line)


def test_a_tokenizer_without_a_chat_template_is_refused_before_the_run(folder: Path) -> None:
    chat_tokenizer(None).save_pretrained(folder / "model")
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
    assert "the tokenizer has no chat template to write messages with" in refusal_of(folder, [GOOD])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"prompt": "ask"}, "source.prompt is 'ask', but completion is missing; name its column"),
        ({"completion": "answer"}, "source.completion is 'answer', but prompt is missing; name its column"),
        (
            {"messages": "m", "text": "t"},
            "source.text and messages belong to different kinds of examples; name the columns of",
        ),
        (
            {"messages": "m", "prompt": "ask", "completion": "answer"},
            "source.prompt and messages belong to different kinds",
        ),
        ({"messages": "m", "label": "l"}, "source.label and messages belong to different kinds of examples"),
    ],
)
@pytest.mark.parametrize("source", ["delimited", "parquet", "huggingface"])
def test_columns_of_two_kinds_and_half_a_kind_are_refused(folder: Path, source: str, options: Any, line: str) -> None:
    found = refusal_of(folder, source={"name": source, "path": "a", **options})
    assert found.startswith(line)


def test_a_column_that_a_file_lacks_is_refused_before_the_run(folder: Path) -> None:
    (folder / "a.csv").write_text("ask,reply\nw5,w6\n")
    line = "source: completion is 'answer', which /a.csv does not have; choices: ask, reply"
    assert refusal_of(folder, source=prompts(folder / "a.csv")) == line
    write_lines(folder / "a.jsonl", [{"ask": "w5", "reply": "w6"}])
    line = "source: completion is 'answer', which /a.jsonl line 1 does not have; choices: ask, reply"
    assert refusal_of(folder, source=prompts(folder / "a.jsonl")) == line


def test_an_empty_completion_is_refused_with_its_line(folder: Path) -> None:
    (folder / "a.csv").write_text("ask,answer\nw5,w6\nw5,\n")
    assert refusal_of(folder, source=prompts(folder / "a.csv")).startswith("source: /a.csv line 3: completion is empty")


def test_messages_of_a_file_that_is_no_json_are_refused(folder: Path) -> None:
    (folder / "a.csv").write_text("messages\nw5\n")
    source = {"name": "delimited", "path": str(folder / "a.csv"), "messages": "messages"}
    assert refusal_of(folder, source=source).startswith("source: messages is 'messages', but /a.csv is not JSON lines")


def test_texts_beside_instructions_and_tasks_that_read_none_are_refused(folder: Path) -> None:
    both = [{"source": prompts("a.csv")}, {"source": {"name": "text", "path": "b.txt"}}]
    line = refusal_of(folder, source=None, sources=both)
    assert line == "sources.0 has prompts or messages, sources.1 has not; binarize each by itself"
    line = refusal_of(folder, source=prompts("a.csv"), encoding="mlm")
    assert line == "encoding is 'mlm', which reads no prompts or messages; write encoding: clm"
    line = refusal_of(folder, source=prompts("a.csv"), encoding={"name": "clm", "pack": True})
    assert line.startswith("encoding: pack joins texts, but prompts stay apart")


def test_rows_that_were_cut_or_left_out_are_counted_and_told_with_the_line_of_the_first(folder: Path) -> None:
    short = [{"ask": words([20 + number]), "answer": words([40, 20 + number])} for number in range(16)]
    long = {"ask": words([*range(5, 61)] * 2), "answer": "w5"}
    endless = {"ask": "w5", "answer": words([*range(5, 61)])}
    write_lines(folder / "a.jsonl", [*short[:4], long, *short[4:], endless, long])
    told: list[Finding] = []
    summary = binarized(folder, prompts(folder / "a.jsonl"), tell=told.extend)
    assert summary["texts"] == 19
    assert summary["cut"] == {"prompt cut": 2}
    assert summary["dropped"] == {"long completion": 1}
    lines = [one.text.replace(str(folder), "") for one in told]
    assert "left out: 1 of 19 rows (5.3 %), long completion, the first at /a.jsonl line 18" in lines
    assert "too long: 2 of 18 rows (11 %), prompt cut, the first at /a.jsonl line 5" in lines
    assert {one.metric: one.number for one in told if one.metric.startswith("too")} == {"too_long/prompt_cut": 2}


def test_prompts_longer_than_a_row_are_left_out_and_told_in_one_line_with_the_first(folder: Path) -> None:
    short = [{"ask": words([20 + number]), "answer": words([40, 20 + number])} for number in range(16)]
    endless = {"ask": words([*range(5, 61)]), "answer": "w5"}
    write_lines(folder / "a.jsonl", [*short[:2], endless, *short[2:], endless])
    told: list[Finding] = []
    encoding = {"too_long": "cut_completion_right"}
    summary = binarized(folder, prompts(folder / "a.jsonl"), tell=told.extend, encoding=encoding)
    assert (summary["texts"], summary["dropped"]) == (18, {"long prompt": 2})
    [line] = [one.text.replace(str(folder), "") for one in told if "long prompt" in one.text]
    assert line == "left out: 2 of 18 rows (11 %), long prompt, the first at /a.jsonl line 3"
    write_lines(folder / "a.jsonl", [endless, endless])
    with pytest.raises(UserError) as refusal:
        binarized(folder, prompts(folder / "a.jsonl"), output="none", encoding=encoding)
    [line] = refusal.value.lines
    assert "2 long prompt" in line


def test_a_stored_row_says_where_its_completions_stand_in_8_bytes_each(folder: Path) -> None:
    write_chats(folder, toy_gpt2, number=20)
    corpus = Corpus.open(str(folder / "corpus" / "train"))
    spans = corpus.read_columns(np.arange(len(corpus))).column("loss_spans").to_pylist()
    for row, own in zip(corpus.read_rows(np.arange(len(corpus))), spans, strict=True):
        marked = np.zeros(len(row), dtype=bool)
        for start, stop in zip(own[::2], own[1::2], strict=True):
            # An answer is made of w40 to w59, and ends with eos.
            assert all(row[start : stop - 1] >= 40)
            assert row[stop - 1] == 3
            marked[start:stop] = True
        assert not any(row[~marked] >= 40)
    assert str(corpus.read_columns([0]).schema.field("loss_spans").type) == "list<element: int32>"
    assert corpus.manifest.encoding["instructions"] is True


def test_perplexity_is_over_completions_alone(folder: Path) -> None:
    write_chats(folder, toy_gpt2, number=40)
    found = evaluate_models(
        {"t": str(folder / "teacher")}, str(folder / "corpus" / "validation"), task={"name": "clm"}, seed=1
    )
    corpus = Corpus.open(str(folder / "corpus" / "validation"))
    model = load_model(folder / "teacher", head="causal_lm").eval()
    losses = []
    for row, own in zip(
        corpus.read_rows(np.arange(len(corpus))),
        corpus.read_columns(np.arange(len(corpus))).column("loss_spans").to_pylist(),
        strict=True,
    ):
        ids = torch.tensor(row.astype(np.int64))
        with torch.no_grad():
            said = model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
        all_losses = -said.gather(1, ids[1:, None])[:, 0]
        losses += [all_losses[start - 1 : stop - 1] for start, stop in zip(own[::2], own[1::2], strict=True)]
    expected = torch.cat(losses)
    assert found["t"].figures["tokens"] == len(expected)
    assert found["t"].figures["loss"] == pytest.approx(expected.mean().item(), rel=1e-6)
    assert found["t"].figures["perplexity"] == pytest.approx(expected.mean().exp().item(), rel=1e-6)


def test_batches_say_where_the_loss_is_in_any_order_of_rows(folder: Path) -> None:
    write_chats(folder, toy_gpt2, number=60)
    builder = BatchBuilder(FeedSpec.make(str(folder / "corpus" / "train"), {"name": "clm"}, None, seed=1))
    rows = np.array([31, 2, 17])
    batch = builder.batch(rows, epoch=0, step=0)
    # Completions are made of w40 to w59 and of the eos that ends them.
    assert set(batch["labels"].tolist()) <= {3, *range(40, 60)}
    answers = sum(int((row >= 40).sum()) for row in builder.corpus.read_rows(rows))
    assert int((batch["labels"] >= 40).sum()) == answers > 0


def test_the_chat_template_travels_with_the_corpus(folder: Path) -> None:
    write_chats(folder, toy_gpt2, number=20)
    assert (folder / "corpus" / "train" / "tokenizer" / "chat_template.jinja").is_file()

"""A tokenizer with a chat template, conversations in its words, and a corpus of them made without Ray."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data import encoding
from raydistill.data.corpus_building import binarize
from raydistill.data.input_splits import WeightedSource
from raydistill.models.load import save_model
from toys.words import make_tokenizer

BOS, EOS = 2, 3
SPEAKERS = {"system": 9, "user": 10, "assistant": 11}
"""The word of each role, w9 and so on."""
_ROLE = "{{ '[CLS] ' + {'system': 'w9 ', 'user': 'w10 ', 'assistant': 'w11 '}[message.role] }}"
_SAID = "{{ message.content + ' [SEP]\\n' }}"
_START = "{% if add_generation_prompt %}{{ '[CLS] w11 ' }}{% endif %}"
PLAIN = "{% for message in messages %}" + _ROLE + _SAID + "{% endfor %}" + _START
MARKED = (
    "{% for message in messages %}" + _ROLE + "{%- if message.role == 'assistant' %}{%- generation -%}"
    "{{ message.content + ' [SEP]' }}{%- endgeneration -%}{{ '\\n' }}{% else %}" + _SAID + "{% endif %}{% endfor %}"
) + _START
FORGETFUL = (
    "{% for message in messages %}" + _ROLE + "{% if loop.last %}{{ 'w12 ' }}{% endif %}" + _SAID + "{% endfor %}"
)
"""A template that writes the last message otherwise than those before it."""
_THOUGHT = "{% if loop.last and message.role == 'assistant' %}{{ 'w12 ' }}{% endif %}"
THINKING = PLAIN.replace(_SAID, _THOUGHT + _SAID)
"""As those of Qwen3: thoughts stand before the last answer alone."""


def chat_tokenizer(template: Any = PLAIN, *, max_length: int = 40) -> PreTrainedTokenizerFast:
    """The toy tokenizer with bos and eos at the ends of texts."""
    tokenizer = make_tokenizer(max_length=max_length)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = "[CLS]", "[SEP]", template
    return tokenizer


def chat(*contents: str, system: str = "") -> list[dict[str, str]]:
    """What a user and an assistant say in turn."""
    messages = [{"role": "system", "content": system}] if system else []
    turns = [{"role": ("user", "assistant")[number % 2], "content": each} for number, each in enumerate(contents)]
    return messages + turns


def conversations(number: int, *, seed: int = 0) -> list[list[dict[str, str]]]:
    """Conversations of one to five turns: the assistant answers each word w20 to w39 by the one 20 after it."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        asked = random.integers(20, 40, random.integers(1, 6)).tolist()
        found.append(chat(*(f"w{word + shift}" for word in asked for shift in (0, 20))))
    return found


def words(ids: Any) -> str:
    """The text of some ids."""
    return " ".join(f"w{number}" for number in ids)


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """JSON lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def here(task: Any, items: Any, schema: Any, **_options: Any) -> Any:
    """In place of ``run_tasks``: the tasks one after the other in this process, without Ray."""
    for item in items:
        for table in task(item):
            assert table.schema == schema
            yield table


def binarized(folder: Path, source: dict[str, Any], output: str = "corpus", **options: Any) -> dict[str, Any]:
    """Write ``corpus`` by the tokenizer in ``tokenizer``, a fifth of it held out; returns the summary."""
    found = {"name": "clm", "instructions": True, "max_length": 40, **options.pop("encoding", {})}
    with mock.patch.object(encoding, "run_tasks", here), mock.patch.dict("os.environ", RAY_ADDRESS="none is asked"):
        return binarize(
            sources=[WeightedSource(SourceSpec.parse(source))],
            encoding=EncodingSpec.parse(found),
            tokenizer_folder=str(folder / "tokenizer"),
            output=str(folder / output),
            validation=0.2,
            rows_per_shard=40,
            **options,
        )


def write_chats(folder: Path, make: Any, *, number: int = 110) -> None:
    """``corpus`` of conversations, and ``teacher``, a decoder of 3 blocks that ``make`` makes."""
    chat_tokenizer().save_pretrained(folder / "tokenizer")
    save_model(make(3, dtype=torch.float32).eval(), chat_tokenizer(), folder / "teacher")
    rows = [{"messages": one} for one in conversations(number)]
    path = write_lines(folder / "chats.jsonl", rows)
    binarized(folder, {"name": "delimited", "path": str(path), "messages": "messages"})

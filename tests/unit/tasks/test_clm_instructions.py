"""Prompts with completions, and messages, as rows of a causal model that keep where the loss is."""

from typing import Any

import numpy as np
import pytest
import torch

from raydistill.batch import PARTNER, Batch, collate
from raydistill.tasks._base import Encoding, LabelledRow
from raydistill.tasks.clm import Config, EncodeConfig, Task, columns, cut, drop_reasons
from raydistill.user_error import UserError
from toys.chats import BOS, EOS, FORGETFUL, MARKED, PLAIN, THINKING, chat, chat_tokenizer, words
from toys.models import PAD, VOCABULARY

TURN = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]


def rows_of(*examples: dict[str, Any], template: Any = PLAIN, **options: Any) -> list[LabelledRow]:
    config = EncodeConfig(**{"max_length": 40, "instructions": True, **options})
    found = cut(examples, chat_tokenizer(template), config)
    assert all(isinstance(row, LabelledRow) for row in found)
    return [row for row in found if isinstance(row, LabelledRow)]


def prompt(first: int, middle: int, stop: int) -> dict[str, str]:
    return {"prompt": words(range(first, middle)), "completion": words(range(middle, stop))}


def with_loss(row: LabelledRow) -> list[int]:
    """The ids of a row that are predicted."""
    pairs = row.values["loss_spans"].reshape(-1, 2)
    return [token for start, stop in pairs for token in row.ids[start:stop].tolist()]


def test_a_prompt_and_its_completion_stand_between_bos_and_eos_and_the_loss_is_on_completion_and_eos():
    [row] = rows_of({"prompt": "w5 w6", "completion": " w7"})
    assert row.ids.tolist() == [BOS, 5, 6, 7, EOS]
    assert with_loss(row) == [7, EOS]
    assert row.fate is None


def test_a_prompt_may_be_empty():
    [row] = rows_of({"prompt": "", "completion": "w7"})
    assert (row.ids.tolist(), with_loss(row)) == ([BOS, 7, EOS], [7, EOS])


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_of_messages_the_loss_is_on_what_the_assistant_says_and_on_the_end_of_its_turns(template):
    [row] = rows_of({"messages": chat("w20", "w21 w22", "w23", "w24", system="w30")}, template=template)
    turns = ([9, 30], [10, 20], [11, 21, 22], [10, 23], [11, 24])
    assert row.ids.tolist() == [token for turn in turns for token in (BOS, *turn, EOS)]
    assert with_loss(row) == [21, 22, EOS, 24, EOS]


def test_a_thought_that_stands_before_the_last_answer_alone_is_learned_with_it():
    [row] = rows_of({"messages": chat("w20", "w21 w22", "w23", "w24")}, template=THINKING)
    assert row.ids.tolist() == [BOS, 10, 20, EOS, BOS, 11, 21, 22, EOS, BOS, 10, 23, EOS, BOS, 11, 12, 24, EOS]
    assert with_loss(row) == [21, 22, EOS, 12, 24, EOS]


def test_rows_of_messages_are_those_of_the_tokenizers_own_chat_template():
    messages = chat("w20 w21", "w22", "w23", "w24")
    [row] = rows_of({"messages": messages})
    assert row.ids.tolist() == chat_tokenizer().apply_chat_template(messages)["input_ids"]


def test_marked_completions_are_those_that_transformers_masks():
    # It masks to the end of the row where a mark ends with a character that is no token, so none stands there.
    template = MARKED.replace("{{ '\\n' }}", "")
    messages = chat("w20 w21", "w22", "w23", "w24 w25")
    [row] = rows_of({"messages": messages}, template=template)
    theirs = chat_tokenizer(template).apply_chat_template(messages, return_assistant_tokens_mask=True)
    mask = np.zeros(len(row.ids), dtype=int)
    for start, stop in row.values["loss_spans"].reshape(-1, 2):
        mask[start:stop] = 1
    assert mask.tolist() == theirs["assistant_masks"]


def test_examples_of_both_kinds_keep_their_order():
    found = rows_of({"messages": TURN}, prompt(5, 8, 10), {"messages": chat("w30", "w31")}, prompt(12, 14, 15))
    assert [with_loss(row)[0] for row in found] == [6, 8, 31, 14]


def test_a_long_row_loses_the_start_of_its_prompt_but_bos_by_default():
    [row] = rows_of(prompt(5, 30, 33), max_length=12)
    assert row.ids.tolist() == [BOS, *range(23, 30), 30, 31, 32, EOS]
    assert with_loss(row) == [30, 31, 32, EOS]
    assert row.fate == "prompt cut"


def test_a_long_row_loses_the_end_of_its_completion_by_the_other_rule():
    [row] = rows_of(prompt(5, 10, 33), max_length=12, too_long="cut_completion_right")
    assert row.ids.tolist() == [BOS, *range(5, 16)]
    assert with_loss(row) == list(range(10, 16))
    assert row.fate == "completion cut"


def test_long_messages_lose_their_first_turns_and_the_loss_on_them():
    messages = chat("w20", "w21 w22", "w23", "w24")
    [row] = rows_of({"messages": messages}, max_length=11)
    assert row.ids.tolist() == [BOS, 22, EOS, BOS, 10, 23, EOS, BOS, 11, 24, EOS]
    assert with_loss(row) == [22, EOS, 24, EOS]


@pytest.mark.parametrize(
    ("example", "too_long", "fate"),
    [
        (prompt(5, 30, 33), "drop", "long row"),
        (prompt(5, 8, 30), "cut_prompt_left", "long completion"),
        (prompt(5, 30, 33), "cut_completion_right", "long prompt"),
    ],
)
def test_a_row_that_no_cut_saves_is_left_out_for_its_reason(example, too_long, fate):
    [row] = rows_of(example, max_length=12, too_long=too_long)
    assert row.fate == fate


def test_a_row_that_is_just_as_long_as_it_may_be_is_not_cut():
    [row] = rows_of(prompt(5, 12, 15), max_length=12, too_long="drop")
    assert (len(row.ids), row.fate) == (12, None)


def test_short_rows_of_instructions_are_kept_and_unknown_ones_are_not():
    rows = [np.array([BOS, 7, EOS]), np.array([BOS, 1, 1, EOS])]
    config = EncodeConfig(instructions=True)
    assert drop_reasons(rows, chat_tokenizer(), config) == [None, "unknown"]
    assert drop_reasons(rows, chat_tokenizer(), EncodeConfig()) == ["short", "short"]


def test_rows_of_text_have_no_columns():
    assert columns(EncodeConfig()) == {}
    assert list(columns(EncodeConfig(instructions=True))) == ["loss_spans"]


@pytest.mark.parametrize(
    ("example", "line"),
    [
        ({"text": "w5"}, "an example has text; for instructions, give prompt and completion, or messages"),
        ({"prompt": "w5"}, "an example has prompt; for instructions, give prompt and completion, or messages"),
        ({"prompt": "w5", "completion": " "}, "completion is empty, so there is nothing to learn"),
        ({"prompt": "w5", "completion": 3}, "completion is 3, which is not text"),
        (
            {"messages": TURN, "prompt": "w5"},
            "an example has messages beside prompt or completion; give one of the two",
        ),
        ({"messages": "w5"}, "messages is 'w5', which is not a list of {role, content}"),
        ({"messages": ["w5"]}, "messages is ['w5'], which is not a list of {role, content}"),
        ({"messages": []}, "messages has none of the role 'assistant'"),
        ({"messages": TURN[:1]}, "messages has none of the role 'assistant'"),
        ({"messages": [{"role": "bot", "content": "w5"}, *TURN]}, "messages.0 has the role 'bot'; choices: system,"),
        ({"messages": [{"content": "w5"}, *TURN]}, "messages.0 has the role None; choices: system, developer, user,"),
        ({"messages": [{"role": "user"}, *TURN]}, "messages.0 has the content None, which is not text"),
        ({"messages": chat("w5", "w6", "w7", " ")}, "messages.3 is an empty completion; leave it out"),
        ({"messages": [{"role": "tool", "content": "w5"}, *TURN]}, "the tokenizer's chat template does not take the"),
    ],
)
def test_an_example_that_teaches_nothing_is_refused_in_one_line(example, line):
    with pytest.raises(UserError) as refusal:
        rows_of(example)
    [found] = refusal.value.lines
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        (None, "the tokenizer has no chat template to write messages with; name that of a chat model"),
        ({"tools": PLAIN}, "the tokenizer has no chat template to choose (This model has multiple chat templates"),
        ("{{ 1 + 'a' }}", "the tokenizer's chat template does not take the messages (TypeError: unsupported operand"),
        (FORGETFUL, "the tokenizer's chat template writes messages differently once others follow them"),
        ("{{ raise_exception('no') }}", "the tokenizer's chat template does not take the messages (TemplateError: no)"),
        (MARKED.replace("'assistant' %}", "'system' %}"), "the tokenizer's chat template marks no completion by"),
    ],
)
def test_a_template_that_does_not_tell_completions_is_refused_in_one_line(template, line):
    with pytest.raises(UserError) as refusal:
        rows_of({"messages": chat("w5", "w6", "w7", "w8")}, template=template)
    [found] = refusal.value.lines
    assert found.startswith(line)


def test_instructions_are_not_packed_into_rows_of_others():
    with pytest.raises(UserError, match="pack joins texts, but prompts stay apart"):
        EncodeConfig(pack=True, instructions=True)


def batch_of(*spans: list[int], lengths: tuple[int, ...] = (9, 12, 5)) -> Batch:
    rows = [np.arange(5, 5 + length) for length in lengths]
    return collate(rows, range(len(rows)), pad_id=PAD).with_columns(
        loss_spans=torch.tensor([place for row in spans for place in row]),
        loss_spans_lengths=torch.tensor([len(row) for row in spans]),
    )


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_completions_alone_are_labelled_unless_prompts_are_trained_on(train_on_prompt):
    spans = ([3, 9], [2, 4, 4, 6, 9, 12], [0, 2])
    task = Task(Config(train_on_prompt=train_on_prompt), Encoding(VOCABULARY, {}, (), 40))
    batch = task.prepare_batch(batch_of(*spans))
    width = batch["input_ids"].shape[1]
    wanted = [range(3, 9), [2, 3, 4, 5, 9, 10, 11], [1]]
    if train_on_prompt:
        wanted = [range(1, 9), range(1, 12), range(1, 5)]
    # The first token of a row is predicted by none.
    assert batch["label_index"].tolist() == [row * width + place - 1 for row, own in enumerate(wanted) for place in own]
    assert batch["labels"].tolist() == [5 + place for own in wanted for place in own]


def test_partners_of_instructions_are_labelled_as_texts_are():
    batch = batch_of([3, 9], [2, 4], [1, 2])
    partners = {PARTNER + name: batch[name] for name in ("input_ids", "attention_mask", "lengths", "row_id")}
    task = Task(Config(), Encoding(VOCABULARY, {}, (), 40))
    assert len(task.prepare_batch(batch.with_columns(**partners))[PARTNER + "labels"]) == 8 + 11 + 4

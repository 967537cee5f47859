"""Completions alone in transformers' batches: labels of -100 at prompts, in calls and in the Trainer adapter."""

import pytest
import torch

import raydistill as rd
from raydistill.batch import collate
from raydistill.methods import kd
from raydistill.tasks._base import Encoding
from raydistill.tasks.clm import Config, EncodeConfig, Task, cut
from toys.chats import chat_tokenizer, conversations
from toys.families import toy_gpt2, toy_llama
from toys.models import PAD, VOCABULARY, largest_difference, parameter_gradients
from toys.padded import moved_left, padded
from toys.trainer import arguments

ROWS = cut(
    [{"messages": one} for one in conversations(6)], chat_tokenizer(), EncodeConfig(max_length=40, instructions=True)
)
OPTIONS = {"alpha": 0.6, "temperature": 2.0, "positions": "completion"}


def batch_of(rows):
    spans = [row.values["loss_spans"] for row in rows]
    batch = collate([row.ids for row in rows], range(len(rows)), pad_id=PAD).with_columns(
        loss_spans=torch.tensor([place for own in spans for place in own]),
        loss_spans_lengths=torch.tensor([len(own) for own in spans]),
    )
    return Task(Config(), Encoding(VOCABULARY, {}, (), 40)).prepare_batch(batch)


@pytest.mark.parametrize("family", [toy_gpt2, toy_llama])
def test_a_padded_batch_whose_prompts_have_no_label_gives_the_loss_of_a_corpus(family):
    student, teacher = family(2), family(3, seed=11)
    loss, _ = kd.Method(kd.Config(**OPTIONS), student, [teacher])(batch_of(ROWS))
    expected = parameter_gradients(loss, student)
    made = rd.KD(**OPTIONS).build(student, [teacher])
    same = padded(batch_of(ROWS), "causal_lm")
    for rows in (same, moved_left(same)):
        found, _ = made(rows)
        assert found.item() == pytest.approx(loss.item(), rel=1e-12)
        assert largest_difference(parameter_gradients(found, student), expected) < 1e-12


def test_the_trainer_takes_the_steps_of_completions(tmp_path):
    teacher, students = toy_gpt2(3, seed=11), [toy_gpt2(2), toy_gpt2(2)]
    same = padded(batch_of(ROWS), "causal_lm")
    rows = [{name: column[number] for name, column in same.items()} for number in range(len(ROWS))]
    args = arguments(tmp_path, num_train_epochs=1, gradient_accumulation_steps=1, optim="sgd")
    rd.hf.DistillationTrainer(
        model=students[0], method=rd.KD(**OPTIONS), teachers=[teacher], args=args, train_dataset=rows
    ).train()
    method = kd.Method(kd.Config(**OPTIONS), students[1], [teacher])
    optimizer = torch.optim.SGD(students[1].parameters(), lr=args.learning_rate)
    for start in range(0, len(ROWS), 2):
        method(batch_of(ROWS[start : start + 2]))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    found, expected = (dict(model.named_parameters()) for model in students)
    assert largest_difference(found, expected) < 1e-12
    assert largest_difference(found, dict(toy_gpt2(2).named_parameters())) > 1e-4

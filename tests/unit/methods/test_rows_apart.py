"""Rows that are computed together, without padding, say and teach what each says and teaches alone."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from raydistill import draws
from raydistill.batch import collate
from raydistill.losses.chunked_head import logits_of
from raydistill.methods import finetune, kd
from raydistill.models.predictions import at_labels
from raydistill.tasks._base import Encoding
from raydistill.tasks.clm import Config, Task
from toys.families import toy_gpt2, toy_llama
from toys.models import PAD, VOCABULARY, largest_difference, parameter_gradients

LENGTHS = (23, 4, 31, 12, 7)
PROMPTS = (9, 1, 20, 11, 3)
FAMILIES = [toy_gpt2, toy_llama]
ROUNDING = 1e-12


def batch_of(rows):
    """Rows of a prompt and its completion; each one's content depends on its number alone."""
    ids = [np.asarray(5 + draws.integers("row", row, np.arange(LENGTHS[row]), high=VOCABULARY - 5)) for row in rows]
    spans = torch.tensor([place for row in rows for place in (PROMPTS[row], LENGTHS[row])])
    batch = collate(ids, list(rows), pad_id=PAD).with_columns(
        loss_spans=spans, loss_spans_lengths=torch.full((len(rows),), 2)
    )
    return Task(Config(), Encoding(VOCABULARY, {}, (), 40)).prepare_batch(batch)


TOGETHER = batch_of(range(len(LENGTHS)))
ALONE = [batch_of([row]) for row in range(len(LENGTHS))]


def own_logits(model, batch):
    """What transformers says of one row by itself, at the states that predict."""
    return model(input_ids=batch["input_ids"]).logits[0][batch["label_index"]]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_of_rows_together_are_those_of_each_row_alone(family):
    model = family(2).eval()
    together = logits_of(*at_labels(model, TOGETHER))
    alone = torch.cat([logits_of(*at_labels(model, one)) for one in ALONE])
    plain = torch.cat([own_logits(model, one) for one in ALONE])
    assert together.dtype == torch.float64
    assert len(together) == sum(LENGTHS) - sum(PROMPTS)
    torch.testing.assert_close(together, alone, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(together, plain, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["completion", "all"])
def test_loss_and_gradients_of_rows_together_are_the_sums_of_those_of_each_row(family, positions):
    student, teacher = family(2), family(3, seed=11)
    made = kd.Method(kd.Config(alpha=0.6, positions=positions), student, [teacher])
    denominators = made.denominators(TOGETHER)
    loss, _ = made(TOGETHER, denominators)
    losses = [made(one, denominators)[0] for one in ALONE]
    assert loss.item() == pytest.approx(sum(each.item() for each in losses), rel=ROUNDING)
    alone = parameter_gradients(sum(losses), student)
    assert largest_difference(parameter_gradients(loss, student), alone) < ROUNDING
    assert max(gradient.abs().max().item() for gradient in alone.values()) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_label_loss_is_that_of_transformers_over_completions_alone(family):
    student = family(2)
    loss, _ = finetune.Method(finetune.Config(), student, [])(TOGETHER)
    plain = [cross_entropy(own_logits(student, one), one["labels"], reduction="sum") for one in ALONE]
    expected = sum(plain) / (sum(LENGTHS) - sum(PROMPTS))
    assert loss.item() == pytest.approx(expected.item(), rel=ROUNDING)
    theirs = parameter_gradients(expected, student)
    assert largest_difference(parameter_gradients(loss, student), theirs) < ROUNDING


@pytest.mark.parametrize("family", FAMILIES)
def test_no_row_sees_a_token_of_another(family):
    model = family(2).eval()
    ids = TOGETHER["input_ids"].clone()
    ids[2, : LENGTHS[2]] = ids[2, : LENGTHS[2]].roll(3)
    with torch.no_grad():
        before, after = (logits_of(*at_labels(model, one)) for one in (TOGETHER, TOGETHER.with_columns(input_ids=ids)))
    row_of = TOGETHER["label_index"] // ids.shape[1]
    assert torch.equal(before[row_of != 2], after[row_of != 2])
    assert (before[row_of == 2] - after[row_of == 2]).abs().max() > 0.01

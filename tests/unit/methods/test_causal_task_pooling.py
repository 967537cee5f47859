"""Each pass of a decoder's causal distillation is read at the token that transformers pools for the pass's own ids."""

import numpy as np
import pytest
import torch

from raydistill.batch import collate
from raydistill.methods.causal_task import Config, Method
from toys.classifiers import toy_classifier
from toys.families import toy_gpt2, toy_llama

END, WORD = 3, 9
ROWS = [[5, 6, 7, 8, END], [10, END, END], [11, 12, 13, 14, 15, END], [16, WORD, 17, 18]]
SETTINGS = {
    "augment": {"data_augment": True, "interchange_proportion": 0.7},
    "resumed": {"share_student_prefix": True, "interchange_proportion": 0.01},
    "whole": {"interchange_proportion": 0.01},
    "pair": {"data_pair": True},
}
"""Without a position, 0.01, a pass under intervention says what the base pass says."""


def swapped(batch):
    """The ids of the second pass."""
    ids = batch["input_ids"].flatten().clone()
    if "interchange_base" in batch:
        ids[batch["interchange_base"]] = batch["input_ids"].flatten()[batch["interchange_partner"]]
    return ids.view(batch["input_ids"].shape)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("family", [toy_gpt2, toy_llama])
def test_logits_and_states_of_every_pass_are_those_of_transformers(family, name):
    settings = Config(alpha=0.6, beta=0.5, gamma=1.0, temperature=2.0, **SETTINGS[name])
    student, teacher = toy_classifier(family, 3, seed=1), toy_classifier(family, 6, seed=10)
    student.config.pad_token_id, teacher.config.pad_token_id = END, WORD
    method = Method(settings, student, [teacher])
    batch = collate([np.array(row) for row in ROWS], range(len(ROWS)), pad_id=END)
    batch = Method.prepare_batch(settings, batch.with_columns(labels=torch.tensor([0, 1, 2, 0])))
    ends = []
    for side, model in ((0, teacher), (1, student)):
        of_passes = (batch["input_ids"], swapped(batch) if name == "augment" else batch["input_ids"])
        for said, ids in zip(method._outputs(side, batch), of_passes, strict=True):
            for number, row in enumerate(ROWS):
                with torch.no_grad():
                    alone = model(ids[number : number + 1, : len(row)], output_hidden_states=True)
                torch.testing.assert_close(said.logits[number].detach(), alone.logits[0], atol=1e-9, rtol=0)
                others = (ids[number, : len(row)] != model.config.pad_token_id).nonzero()
                last = int(others[-1]) if len(others) else 0
                ends.append(last)
                for block, states in zip(method.compared[side], said.states, strict=True):
                    expected = alone.hidden_states[block + 1][0, last]
                    torch.testing.assert_close(states[number].detach(), expected, atol=1e-9, rtol=0)
    first, second = np.array(ends).reshape(2, 2, len(ROWS)).swapaxes(0, 1)
    assert (first != second).any() == (name == "augment"), "the swap moves no end"

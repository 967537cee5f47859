"""Classifiers pool the token that transformers pools, whatever a row's ids are and wherever transformers pads it."""

import copy
from functools import cache, partial

import numpy as np
import pytest
import torch

from raydistill.batch import collate, padded_rows
from raydistill.models.load import model_class
from raydistill.models.predictions import predict
from toys.classifiers import toy_classifier, toy_labelled_batch
from toys.families import toy_gpt2, toy_llama, toy_mistral, toy_qwen2, toy_roberta
from toys.models import perturb, toy_bert, toy_distilbert

HEAD = "sequence_classification"
END, OTHER, WORD = 3, 0, 9
DECODERS = {"gpt2": toy_gpt2, "llama": toy_llama, "mistral": toy_mistral, "qwen2": toy_qwen2}
ENCODERS = {"bert": toy_bert, "distilbert": toy_distilbert, "roberta": toy_roberta}
FAMILIES = {**DECODERS, **ENCODERS}
LONG = [5, 8, 13, 21, 34, 55, 6, 7, 11, 18, 29, 47, 15, 23]
"""Longer than the toy Mistral's window."""
CASES = {
    "ends_with_pad": (END, [[*LONG, END], [7, 8, END], [10, 11, 12, 13, END], [14]]),
    "ends_with_pads": (END, [[*LONG, END, END], [7, END, END], [9, 10, END], [11, 12]]),
    "pad_inside": (END, [[5, END, 6, *LONG], [END, 7, 8], [9, END, END, 10, END]]),
    "pad_distinct": (OTHER, [[*LONG, END], [7, 8, END], [9, 10, END, END], [11, 12]]),
    "pad_is_a_word": (WORD, [[*LONG, WORD], [WORD, 8, END], [10, WORD, WORD], [11, 12]]),
    "all_pads": (END, [[*LONG], [END, END, END], [END], [END, END, 7, END]]),
    "no_pad": (None, [[*LONG, END], [7, END, END], [END, END, END], [8]]),
}
"""The configuration's padding id and rows, by what is told apart."""
ENCODED = ("ends_with_pad", "pad_inside", "pad_distinct", "all_pads")


@cache
def classifier(name, pad_id):
    """A model in float64; RoBERTa's positions are counted from the padding id that it is made with."""
    made = toy_classifier(FAMILIES[name], 3)
    config = copy.deepcopy(made.config)
    config.pad_token_id = pad_id
    torch.manual_seed(0)
    return perturb(model_class(HEAD).from_config(config), 0, torch.float64).eval()


def batch_of(rows, pad_id):
    return collate([np.array(row) for row in rows], range(len(rows)), pad_id=OTHER if pad_id is None else pad_id)


def inputs_of(rows, pad_id, side):
    """What a tokenizer of transformers makes of the rows."""
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        padding = [pad_id] * (width - len(row))
        real, unreal = [1] * len(row), [0] * len(padding)
        ids.append([*padding, *row] if side == "left" else [*row, *padding])
        mask.append([*unreal, *real] if side == "left" else [*real, *unreal])
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@torch.no_grad()
def of_transformers(model, rows, side="right", *, by_mask=False):
    """Logits of the rows as one batch, or of one after the other where that is all that transformers takes.

    ``by_mask`` counts positions from the first real token on, which models on their own do from the first place.
    """
    pad_id = model.config.pad_token_id
    if pad_id is None:
        return torch.cat([model(**inputs_of([row], None, side)).logits for row in rows])
    inputs = inputs_of(rows, pad_id, side)
    if by_mask:
        position = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        first = pad_id + 1 if model.config.model_type == "roberta" else 0
        inputs["position_ids"] = position + first
    return model(**inputs).logits


@torch.no_grad()
def of_package(model, rows):
    return predict(model, batch_of(rows, model.config.pad_token_id), head=HEAD).logits


close = partial(torch.testing.assert_close, atol=1e-9, rtol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_decoders_are_those_of_transformers(name, case):
    pad_id, rows = CASES[case]
    model = classifier(name, pad_id)
    found = of_package(model, rows)
    close(found, of_transformers(model, rows))
    # One row's logits do not depend on the others.
    close(found, torch.cat([of_transformers(model, [row]) for row in rows]))


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("all_pads", "no_pad")])
@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_decoders_are_those_of_rows_that_transformers_pads_on_the_left(name, case):
    pad_id, rows = CASES[case]
    model = classifier(name, pad_id)
    found = of_package(model, rows)
    close(found, of_transformers(model, rows, "left", by_mask=True))
    # Its own positions start at the padding. Of rotary ones it knows the angles to float32's 24 bits alone.
    away = (found - of_transformers(model, rows, "left")).abs().max()
    assert away > 1e-3 if name == "gpt2" else away < 1e-4


@pytest.mark.parametrize("case", ENCODED)
@pytest.mark.parametrize("name", ENCODERS)
def test_logits_of_encoders_are_those_of_transformers(name, case):
    pad_id, rows = CASES[case]
    model = classifier(name, pad_id)
    # RoBERTa by itself does not count the padding id in a text among the positions.
    close(of_package(model, rows), of_transformers(model, rows, by_mask=name == "roberta"))


@pytest.mark.parametrize("name", ENCODERS)
def test_transformers_pools_padding_of_encoders_that_pad_on_the_left(name):
    pad_id, rows = CASES["pad_distinct"]
    model = classifier(name, pad_id)
    assert (of_package(model, rows) - of_transformers(model, rows, "left", by_mask=True)).abs().max() > 1e-3


@pytest.mark.parametrize("name", DECODERS)
def test_transformers_takes_one_row_at_a_time_of_a_decoder_without_a_padding_id(name):
    model = classifier(name, None)
    with pytest.raises(ValueError, match="Cannot handle batch sizes > 1 if no padding token is defined"):
        model(**inputs_of([[5, 6], [7, 8]], None, "right"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DECODERS)
def test_states_of_every_depth_are_pooled_at_that_token(name, case):
    pad_id, rows = CASES[case]
    model = classifier(name, pad_id)
    said = predict(model, batch_of(rows, pad_id), head=HEAD, with_states=True)
    for number, row in enumerate(rows):
        others = [place for place, token in enumerate(row) if token != pad_id]
        with torch.no_grad():
            states = model(torch.tensor([row]), output_hidden_states=True).hidden_states
        # The last of transformers' is normalized.
        for depth, state in enumerate(states[:-1]):
            close(said.pooled_states(depth)[number].detach(), state[0, others[-1] if others else 0])


@pytest.mark.parametrize("chosen", [None, [2, 0]])
@pytest.mark.parametrize("case", CASES)
def test_padding_that_is_computed_too_is_not_pooled(case, chosen):
    pad_id, rows = CASES[case]
    model = classifier("gpt2", pad_id)
    batch = padded_rows(batch_of(rows, pad_id), None if chosen is None else torch.tensor(chosen))
    with torch.no_grad():
        found = predict(model, batch, head=HEAD).logits
    close(found, of_package(model, rows)[chosen or slice(None)])


def test_a_batch_that_is_padded_with_another_id_is_pooled_at_its_texts():
    model = classifier("llama", END)
    rows = CASES["ends_with_pad"][1]
    with torch.no_grad():
        found = predict(model, batch_of(rows, WORD), head=HEAD).logits
    close(found, of_transformers(model, rows))


def test_the_toy_batch_is_pooled_at_its_last_tokens():
    batch = toy_labelled_batch("classes")
    pooled = predict(classifier("gpt2", OTHER), batch, head=HEAD).pooled
    assert pooled.tolist() == (batch["lengths"].cumsum(0) - 1).tolist()

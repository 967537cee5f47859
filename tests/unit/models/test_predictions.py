"""A classifier in parts gives what transformers gives for padded rows."""

import pytest
import torch

from raydistill.models.load import head_of
from raydistill.models.predictions import predict
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.models import pad_further

HEADS = {"classes": "sequence_classification", "scores": "sequence_classification", "tokens": "token_classification"}


def model_and_batch(name):
    kind = name.partition("_")[2]
    return CLASSIFIERS[name](3).eval(), toy_labelled_batch(kind), HEADS.get(kind, "question_answering")


def of_transformers(model, batch, **options):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long(), **options)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if not name.endswith(("tokens", "spans"))])
def test_logits_of_sequences_are_those_of_transformers(name):
    model, batch, head = model_and_batch(name)
    torch.testing.assert_close(predict(model, batch, head=head).logits, of_transformers(model, batch).logits)


@pytest.mark.parametrize("make", ["bert_classes", "roberta_classes", "distilbert_classes"])
def test_logits_of_labelled_tokens_are_those_of_transformers(make):
    model = CLASSIFIERS[make](2, head="token_classification").eval()
    batch = toy_labelled_batch("tokens")
    expected = of_transformers(model, batch).logits.flatten(0, 1)[batch["label_index"]]
    torch.testing.assert_close(predict(model, batch, head="token_classification").logits, expected)


@pytest.mark.parametrize("make", ["bert_classes", "roberta_classes", "distilbert_classes"])
def test_logits_of_spans_are_those_of_transformers_and_padding_has_no_share(make):
    model = CLASSIFIERS[make](2, head="question_answering").eval()
    batch = pad_further(toy_labelled_batch("spans"), 3)
    outputs = of_transformers(model, batch)
    found = predict(model, batch, head="question_answering").logits
    expected = torch.cat([outputs.start_logits, outputs.end_logits])
    real = batch["attention_mask"].repeat(2, 1)
    torch.testing.assert_close(found[real], expected[real])
    assert found.softmax(-1)[~real].max() == 0


def test_token_types_of_a_pair_reach_the_embeddings():
    model = CLASSIFIERS["bert_classes"](2).eval()
    batch = toy_labelled_batch("classes")
    width = batch["input_ids"].shape[1]
    types = (torch.arange(width) >= 5).long().expand_as(batch["input_ids"])
    packed = batch.with_columns(token_types=types.flatten()[batch["token_index"]])
    expected = of_transformers(model, batch, token_type_ids=types).logits
    found = predict(model, packed, head="sequence_classification").logits
    torch.testing.assert_close(found, expected)
    assert (found - predict(model, batch, head="sequence_classification").logits).abs().max() > 1e-3


def test_states_are_those_of_transformers_at_every_depth():
    model, batch, head = model_and_batch("bert_classes")
    expected = of_transformers(model, batch, output_hidden_states=True).hidden_states
    prediction = predict(model, batch, head=head, with_states=True)
    assert len(prediction.states) == len(expected) == 4
    for number, states in enumerate(expected):
        torch.testing.assert_close(prediction.states[number], states.flatten(0, 1)[batch["token_index"]])
        torch.testing.assert_close(prediction.pooled_states(number), states[:, 0])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_head_of_a_model_is_known_by_its_class(name):
    model, _, head = model_and_batch(name)
    assert head_of(model) == head


def test_a_head_of_a_vocabulary_is_refused():
    model, batch, _ = model_and_batch("bert_classes")
    with pytest.raises(ValueError, match="head is 'masked_lm'; choices: sequence_classification"):
        predict(model, batch, head="masked_lm")

import pytest
import torch

from raydistill.methods.finetune import Config, Method
from raydistill.tasks import clm
from raydistill.tasks._base import Encoding
from toys.families import DECODERS
from toys.models import VOCABULARY, largest_difference, parameter_gradients, toy_batch, toy_bert


def test_loss_and_gradient_equal_the_models_own_masked_lm_loss():
    model, batch = toy_bert(2), toy_batch()
    method = Method(Config(), model)
    loss, terms = method(batch, method.denominators(batch))
    labels = torch.full(batch["input_ids"].shape, -100).flatten()
    labels[batch["label_index"]] = batch["labels"]
    expected = model(
        batch["input_ids"], attention_mask=batch["attention_mask"].long(), labels=labels.view(batch["input_ids"].shape)
    ).loss
    assert abs(loss.item() - expected.item()) < 1e-12
    assert abs(terms["mlm"].item() - expected.item()) < 1e-12
    assert largest_difference(parameter_gradients(loss, model), parameter_gradients(expected, model)) < 1e-12


@pytest.mark.parametrize("family", DECODERS)
def test_loss_and_gradient_equal_a_decoders_own_loss(family):
    model = family(2)
    batch = clm.Task(clm.Config(), Encoding(VOCABULARY, {}, (), 40)).prepare_batch(toy_batch())
    method = Method(Config(), model)
    loss, terms = method(batch, method.denominators(batch))
    labels = batch["input_ids"].masked_fill(~batch["attention_mask"], -100)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"].long()).logits[:, :-1]
    # Not the model's own loss, which rounds its logits to float32.
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    assert abs(loss.item() - expected.item()) < 1e-12
    assert terms.keys() == {"clm"}
    assert abs(terms["clm"].item() - expected.item()) < 1e-12
    assert largest_difference(parameter_gradients(loss, model), parameter_gradients(expected, model)) < 1e-12


def test_a_batch_without_labels_has_loss_zero():
    batch, none = toy_batch(), torch.zeros(0, dtype=torch.int64)
    batch = batch.with_columns(labels=none, label_index=none)
    method = Method(Config(), toy_bert(2))
    loss, _ = method(batch, method.denominators(batch))
    loss.backward()
    assert loss.item() == 0

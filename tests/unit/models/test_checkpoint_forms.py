"""Checkpoints as people have them give the logits of the model that was saved."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ElectraForPreTraining

from raydistill.models.checks import check_weights, missing_head
from raydistill.models.load import load_model, save_model
from raydistill.models.predictions import predict
from toys.checkpoint import toy_tokenizer
from toys.families import head_of, toy_gpt2, toy_llama, toy_qwen2, toy_roberta
from toys.models import toy_batch, toy_bert, toy_distilbert
from toys.zoo import toy

FAMILIES = (toy_bert, toy_distilbert, toy_roberta, toy_gpt2, toy_llama, toy_qwen2)


def without_metadata(folder, tensors):
    save_file(tensors, folder / "model.safetensors")


def in_shards(folder, tensors):
    (folder / "model.safetensors").unlink()
    parts = {f"model-0000{place + 1}-of-00003.safetensors": sorted(tensors)[place::3] for place in range(3)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    listed = {name: file for file, names in parts.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def with_tied_weights_twice(folder, tensors):
    """Both names of a tied weight, as exporters that know nothing of tying write them."""
    model = load_model(folder, head=HEADS[folder.name])
    every = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(every, folder / "model.safetensors", metadata={"format": "pt"})


def with_old_names(folder, tensors):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def renamed(name):
        return next((name.removesuffix(new) + was for new, was in old.items() if name.endswith(new)), name)

    save_file({renamed(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


HEADS = {family.__name__: head_of(family) for family in FAMILIES}
FORMS = (without_metadata, in_shards, with_tied_weights_twice, with_old_names)


def saved(family, folder):
    """A checkpoint, and the model in it."""
    model = family(2, dtype=torch.float32).eval()
    save_model(model, toy_tokenizer(), folder / family.__name__)
    return folder / family.__name__, model


def logits_of(model):
    batch = toy_batch()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].long()}
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_logits_of_the_model_that_was_saved(family, form, tmp_path):
    folder, model = saved(family, tmp_path)
    form(folder, load_file(folder / "model.safetensors"))
    head = HEADS[folder.name]
    check_weights(folder, head=head)
    loaded = load_model(folder, head=head)
    assert torch.equal(logits_of(loaded), logits_of(model))
    own, expected = (one.get_output_embeddings().weight is one.get_input_embeddings().weight for one in (loaded, model))
    assert own == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_no_form_is_taken_for_one_without_a_head(family, form, tmp_path):
    folder, _ = saved(family, tmp_path)
    form(folder, load_file(folder / "model.safetensors"))
    assert missing_head(folder, head=HEADS[folder.name]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in_bf16_are_those_numbers_in_float32(family, tmp_path):
    folder, model = saved(family, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
    loaded = load_model(folder, head=HEADS[folder.name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_a_published_discriminator_of_electra_takes_a_head_of_classes_and_has_none_of_a_vocabulary(tmp_path):
    config, batch = toy("electra").config, toy_batch()
    torch.manual_seed(0)
    discriminator = ElectraForPreTraining(config).eval()
    discriminator.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks classifier\..*write head: new"):
        load_model(tmp_path, head="sequence_classification")
    with pytest.raises(ValueError, match=r"lacks generator_.*write head: new"):
        load_model(tmp_path, head="masked_lm")
    student = load_model(tmp_path, head="sequence_classification", labels=("bad", "good"), allow_new_head=True)
    with torch.no_grad():
        said = predict(student, batch, head="sequence_classification", with_states=True)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].long()}
        expected = discriminator.electra(**inputs).last_hidden_state[batch["attention_mask"].bool()]
    assert said.logits.shape == (len(batch["row_id"]), 2)
    torch.testing.assert_close(said.last_states, expected, rtol=0, atol=1e-5)

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers import GPT2Config, GPT2LMHeadModel

from raydistill.models.blocks import blocks_of
from toy_models import pad_further, toy_batch, toy_bert, toy_distilbert

FAMILIES = pytest.mark.parametrize("family", [toy_bert, toy_distilbert])
ATTENTIONS = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def make(family, attention: str = "sdpa", *, dropout: float = 0.0) -> nn.Module:
    model = family(3, dropout=dropout).eval()
    model.set_attn_implementation(attention)
    return model


def states_of(model: nn.Module, batch) -> list[torch.Tensor]:
    blocks, mask = blocks_of(model), batch["attention_mask"]
    states = [blocks.embed(batch["input_ids"], mask)]
    for block in range(blocks.num_blocks):
        states.append(blocks.run(states[-1], mask, block, block + 1))
    return states


def head(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    blocks = blocks_of(model)
    return linear(blocks.head_states(hidden.flatten(0, 1)), *blocks.head_projection()).view(*hidden.shape[:2], -1)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@FAMILIES
@ATTENTIONS
@torch.no_grad()
def test_parts_equal_the_familys_own_forward_on_padded_rows(family, attention):
    model, batch = make(family, attention), toy_batch()
    assert not batch["attention_mask"].all()
    expected = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    states = states_of(model, batch)
    assert len(states) == len(expected.hidden_states) == 4
    for ours, theirs in zip(states, expected.hidden_states, strict=True):
        assert_equal(ours, theirs)
    assert_equal(head(model, states[-1]), expected.logits)


@FAMILIES
@ATTENTIONS
@torch.no_grad()
def test_parts_equal_the_familys_own_forward_without_padding(family, attention):
    model, batch = make(family, attention), toy_batch([2])
    assert batch["attention_mask"].all()
    expected = model(batch["input_ids"], output_hidden_states=True)
    for ours, theirs in zip(states_of(model, batch), expected.hidden_states, strict=True):
        assert_equal(ours, theirs)


@FAMILIES
def test_dropout_and_gradients_equal_the_familys_own_in_training(family):
    model, batch = make(family, dropout=0.2).train(), toy_batch()
    real = batch["attention_mask"][..., None]
    gradients = []
    for forward in (
        lambda: model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits,
        lambda: head(model, states_of(model, batch)[-1]),
    ):
        torch.manual_seed(5)
        logits = forward()
        gradients.append(torch.autograd.grad((logits * real).square().sum(), list(model.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@FAMILIES
@torch.no_grad()
def test_a_run_resumed_halfway_equals_one_run(family):
    model, batch = make(family), toy_batch()
    blocks, mask = blocks_of(model), batch["attention_mask"]
    hidden = blocks.embed(batch["input_ids"], mask)
    assert_equal(blocks.run(blocks.run(hidden, mask, 0, 2), mask, 2, 3), blocks.run(hidden, mask, 0, 3))


@FAMILIES
def test_a_run_of_no_block_returns_its_input(family):
    batch = toy_batch()
    hidden = torch.randn(*batch["input_ids"].shape, 16, dtype=torch.float64)
    assert blocks_of(make(family)).run(hidden, batch["attention_mask"], 2, 2) is hidden


@FAMILIES
@ATTENTIONS
@torch.no_grad()
def test_more_padding_changes_no_real_token(family, attention):
    model, batch = make(family, attention), toy_batch()
    narrow = states_of(model, batch)[-1]
    wide = states_of(model, pad_further(batch, 5))[-1][:, : narrow.shape[1]]
    real = batch["attention_mask"]
    assert_equal(wide[real], narrow[real])


@FAMILIES
def test_every_used_submodule_is_called_so_that_its_hooks_fire(family):
    model, batch, called = make(family), toy_batch(), set()
    holders = [
        (name, module)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    for name, module in holders:
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
    hidden = states_of(model, batch)[-1]
    blocks_of(model).head_states(hidden.flatten(0, 1))
    projection = {"cls.predictions", "cls.predictions.decoder", "vocab_projector"}
    assert {name for name, _ in holders} - called == projection & {name for name, _ in holders}


@FAMILIES
def test_sizes_are_the_configurations(family):
    blocks = blocks_of(family(2))
    assert (blocks.num_blocks, blocks.num_heads, blocks.hidden_size) == (2, 2, 16)


@FAMILIES
def test_the_projection_is_tied_to_the_word_embeddings(family):
    model = make(family)
    weight, bias = blocks_of(model).head_projection()
    assert weight is model.get_input_embeddings().weight
    assert bias is not None
    assert bias.shape == weight.shape[:1]


def test_another_family_is_refused_with_the_choices():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1, n_positions=8))
    with pytest.raises(ValueError, match=r"model type is 'gpt2'; choices: bert, distilbert"):
        blocks_of(model)


def test_an_attention_that_takes_other_masks_is_refused():
    model = make(toy_bert)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"attention is 'flash_attention_2'; choices: eager, sdpa"):
        blocks_of(model)


def test_a_decoder_is_refused():
    model = make(toy_bert)
    model.config.is_decoder = True
    with pytest.raises(ValueError, match="is_decoder is true"):
        blocks_of(model)

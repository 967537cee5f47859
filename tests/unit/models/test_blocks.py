import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from raydistill.models.blocks import blocks_of, families
from toy_families import DECODERS, MASKED, toy_gpt2, toy_llama, toy_mistral, toy_qwen2, toy_roberta
from toy_models import pad_further, toy_batch, toy_bert

ALL = (*MASKED, *DECODERS)
FAMILIES = pytest.mark.parametrize("family", ALL)
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


def real(states: torch.Tensor, batch) -> torch.Tensor:
    return states[batch["attention_mask"]]


@FAMILIES
@ATTENTIONS
@torch.no_grad()
def test_parts_equal_the_familys_own_forward_on_padded_rows(family, attention):
    model, batch = make(family, attention), toy_batch()
    assert not batch["attention_mask"].all()
    expected = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    states = states_of(model, batch)
    assert len(states) == len(expected.hidden_states) == 4
    for ours, theirs in zip(states[:-1], expected.hidden_states, strict=False):
        assert_equal(real(ours, batch), real(theirs, batch))
    assert_equal(blocks_of(model).last_states(real(states[-1], batch)), real(expected.hidden_states[-1], batch))
    assert_equal(real(head(model, states[-1]), batch), real(expected.logits, batch))


@FAMILIES
@ATTENTIONS
@torch.no_grad()
def test_parts_equal_the_familys_own_forward_without_padding(family, attention):
    model, batch = make(family, attention), toy_batch([2])
    assert batch["attention_mask"].all()
    expected = model(batch["input_ids"], output_hidden_states=True)
    states = states_of(model, batch)
    for ours, theirs in zip(states[:-1], expected.hidden_states, strict=False):
        assert_equal(ours, theirs)
    assert_equal(blocks_of(model).last_states(states[-1]), expected.hidden_states[-1])
    assert_equal(head(model, states[-1]), expected.logits)


@pytest.mark.parametrize("family", MASKED)
@torch.no_grad()
def test_an_encoders_states_at_padding_are_the_familys_own(family):
    model, batch = make(family), toy_batch()
    expected = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    for ours, theirs in zip(states_of(model, batch), expected.hidden_states, strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_a_decoders_last_states_are_normalized_and_an_encoders_are_the_last_blocks_output(family):
    rows = torch.randn(5, 16, dtype=torch.float64)
    blocks = blocks_of(make(family))
    last = blocks.last_states(rows)
    assert not torch.allclose(last, rows)
    assert torch.equal(blocks.head_states(rows), last)
    for masked in MASKED:
        assert blocks_of(make(masked)).last_states(rows) is rows


@FAMILIES
@ATTENTIONS
def test_gradients_equal_the_familys_own(family, attention):
    assert_gradients_equal(make(family, attention), toy_batch(), dropout=False)


@FAMILIES
def test_dropout_and_its_gradients_equal_the_familys_own_in_training(family):
    # Without padding, so that both draw the dropout of the attention in the same kernel.
    assert_gradients_equal(make(family, dropout=0.2).train(), toy_batch([2]), dropout=True)


def assert_gradients_equal(model: nn.Module, batch, *, dropout: bool) -> None:
    weights = batch["attention_mask"][..., None]
    results = []
    for forward in (
        lambda: model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits,
        lambda: head(model, states_of(model, batch)[-1]),
    ):
        torch.manual_seed(5)
        logits = forward()
        results.append(torch.autograd.grad((logits * weights).square().sum(), list(model.parameters())))
    assert model.training == dropout
    for (name, _), ours, theirs in zip(model.named_parameters(), *results, strict=True):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


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
    assert_equal(real(wide, batch), real(narrow, batch))


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
    projection = {"cls.predictions", "cls.predictions.decoder", "vocab_projector", "lm_head", "lm_head.decoder"}
    assert {name for name, _ in holders} - called == projection & {name for name, _ in holders}


@FAMILIES
def test_sizes_are_the_configurations(family):
    blocks = blocks_of(family(2))
    assert (blocks.num_blocks, blocks.num_heads, blocks.hidden_size) == (2, 2, 16)


@FAMILIES
def test_the_projection_is_tied_to_the_word_embeddings_where_the_family_ties_them(family):
    model = make(family)
    weight, bias = blocks_of(model).head_projection()
    assert (weight is model.get_input_embeddings().weight) == (family not in (toy_llama, toy_mistral))
    assert (bias is None) == (family in DECODERS)
    assert bias is None or bias.shape == weight.shape[:1]


@pytest.mark.parametrize("family", DECODERS)
@ATTENTIONS
@torch.no_grad()
def test_a_decoders_token_does_not_see_later_ones(family, attention):
    model, batch = make(family, attention), toy_batch([3])
    before = states_of(model, batch)[-1]
    changed = batch.with_columns(input_ids=batch["input_ids"].index_fill(1, torch.arange(9, 17), 5))
    after = states_of(model, changed)[-1]
    assert_equal(after[:, :9], before[:, :9])
    assert (after[:, 9:] - before[:, 9:]).abs().max() > 1e-3


@torch.no_grad()
def test_a_window_hides_tokens_before_it():
    model, batch = make(toy_mistral), toy_batch([3])
    changed = batch.with_columns(input_ids=batch["input_ids"].index_fill(1, torch.tensor([0]), 5))
    difference = (states_of(model, changed)[1] - states_of(model, batch)[1]).abs().amax(-1)[0]
    assert difference[11] > 1e-9
    assert difference[12:].count_nonzero() == 0


@pytest.mark.parametrize("kinds", [["full_attention"] * 3, ["sliding_attention"] * 3])
@torch.no_grad()
def test_a_window_holds_where_the_configuration_says_so(kinds):
    config = toy_qwen2(3).config
    values = {**config.to_dict(), "use_sliding_window": True, "sliding_window": 12, "layer_types": kinds}
    model = type(toy_qwen2(1))(type(config)(**values)).double().eval()
    batch = toy_batch()
    expected = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert_equal(real(head(model, states_of(model, batch)[-1]), batch), real(expected, batch))


@torch.no_grad()
def test_scaled_rotary_embeddings_equal_the_familys_own():
    config = toy_llama(2).config
    scaled = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0}
    config.rope_parameters = {**scaled, "high_freq_factor": 4.0, "original_max_position_embeddings": 20}
    model, batch = type(toy_llama(1))(config).double().eval(), toy_batch()
    expected = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert_equal(real(head(model, states_of(model, batch)[-1]), batch), real(expected, batch))


@torch.no_grad()
def test_rotary_frequencies_survive_a_cast_of_the_model_to_half_precision():
    model, batch = make(toy_llama).float(), toy_batch()
    expected = model.model.rotary_emb.inv_freq.clone()
    model.to(torch.bfloat16)
    assert model.model.rotary_emb.inv_freq.dtype == torch.bfloat16
    assert states_of(model, batch)[-1].dtype == torch.bfloat16
    assert torch.equal(model.model.rotary_emb.inv_freq, expected)
    assert "inv_freq" not in "".join(model.state_dict())


@torch.no_grad()
def test_robertas_positions_follow_the_mask_where_a_token_was_replaced_by_the_padding_id():
    model, batch = make(toy_roberta), toy_batch([0])
    replaced = batch["input_ids"].index_fill(1, torch.tensor([4]), 0)
    positions = torch.arange(1, replaced.shape[1] + 1)[None]
    expected = model.roberta.embeddings(input_ids=replaced, position_ids=positions)
    assert_equal(blocks_of(model).embed(replaced, batch["attention_mask"]), expected)
    assert not torch.allclose(model.roberta.embeddings(input_ids=replaced), expected)


@pytest.mark.parametrize("family", [*MASKED, toy_gpt2])
def test_the_longest_row_is_the_last_that_there_are_positions_for(family):
    model = make(family)
    blocks, longest = blocks_of(model), blocks_of(model).max_length(model.config)
    assert longest == 40
    mask = torch.ones(1, longest + 1, dtype=torch.bool)
    blocks.embed(mask[:, 1:] * 7, mask[:, 1:])
    with pytest.raises((IndexError, RuntimeError)):
        blocks.embed(mask * 7, mask)


def test_each_family_is_found_under_its_head():
    assert families("masked_lm") == ["bert", "distilbert", "roberta"]
    assert families("causal_lm") == ["gpt2", "llama", "mistral", "qwen2"]
    assert {family(1).config.model_type for family in ALL} == {*families("masked_lm"), *families("causal_lm")}


def test_another_family_is_refused_with_the_choices():
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=9, **sizes))
    with pytest.raises(ValueError, match=r"model type is 'gpt_neox'; .*: bert, distilbert, gpt2, llama, mistral,"):
        blocks_of(model)


def test_an_attention_that_takes_other_masks_is_refused():
    model = make(toy_bert)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"attention is 'flash_attention_2'; choices: eager, sdpa"):
        blocks_of(model)


@pytest.mark.parametrize("family", [toy_bert, toy_roberta])
def test_a_masked_model_made_a_decoder_is_refused(family):
    model = make(family)
    model.config.is_decoder = True
    with pytest.raises(ValueError, match="is_decoder is true"):
        blocks_of(model)


def test_rotary_embeddings_that_depend_on_the_batch_are_refused():
    model = make(toy_llama)
    model.config.rope_parameters["rope_type"] = "dynamic"
    with pytest.raises(ValueError, match="rope_type is 'dynamic'; choices: default, linear"):
        blocks_of(model)


def test_blocks_that_differ_in_their_window_are_refused():
    model = make(toy_qwen2)
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(ValueError, match="layer_types differ"):
        blocks_of(model)

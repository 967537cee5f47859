import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from raydistill.batch import Batch, collate
from raydistill.layout import Layout
from raydistill.models.blocks import blocks_of
from toys.families import DECODERS, MASKED, toy_gpt2, toy_llama, toy_mistral, toy_qwen2, toy_roberta
from toys.models import PAD, pad_further, toy_batch, toy_bert

ALL = (*MASKED, *DECODERS)
FAMILIES = pytest.mark.parametrize("family", ALL)


def make(family, *, dropout: float = 0.0) -> nn.Module:
    return family(3, dropout=dropout).eval()


def real_tokens(batch: Batch) -> Layout:
    return Layout.of(batch["attention_mask"], batch["token_index"])


def all_places(batch: Batch) -> Layout:
    return Layout.of(batch["attention_mask"], torch.arange(batch["attention_mask"].numel()))


LAYOUTS = pytest.mark.parametrize("layout_of", [real_tokens, all_places])


def rows_of(*lengths: int) -> Batch:
    """A batch of rows of these lengths."""
    generator = np.random.default_rng(0)
    return collate([generator.integers(5, 61, length) for length in lengths], range(len(lengths)), pad_id=PAD)


def states_of(model: nn.Module, batch: Batch, layout: Layout | None = None) -> list[torch.Tensor]:
    blocks, layout = blocks_of(model), layout or real_tokens(batch)
    states = [blocks.embed(layout.take(batch["input_ids"]), layout)]
    for block in range(blocks.num_blocks):
        states.append(blocks.run(states[-1], layout, block, block + 1))
    return states


def head(model: nn.Module, states: torch.Tensor) -> torch.Tensor:
    blocks = blocks_of(model)
    return linear(blocks.head_states(states), *blocks.head_projection())


def plain(model: nn.Module, batch: Batch):
    return model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def assert_as_plain(model: nn.Module, batch: Batch, layout: Layout, *, places: torch.Tensor) -> None:
    """All states and the logits equal transformers' own at the packed states that ``places`` (R,) selects."""
    expected = plain(model, batch)
    states = states_of(model, batch, layout)
    assert len(states) == len(expected.hidden_states) == 4
    states, last = states[:-1], states[-1]
    for ours, theirs in zip(
        [*states, blocks_of(model).last_states(last), head(model, last)],
        [*expected.hidden_states, expected.logits],
        strict=True,
    ):
        assert_equal(ours[places], layout.take(theirs)[places])


@FAMILIES
@LAYOUTS
@torch.no_grad()
def test_real_tokens_equal_the_familys_own_forward_on_padded_rows(family, layout_of):
    batch = toy_batch()
    assert not batch["attention_mask"].all()
    layout = layout_of(batch)
    assert_as_plain(make(family), batch, layout, places=layout.real)


@FAMILIES
@pytest.mark.parametrize("lengths", [(14,), (9, 9), (1, 17, 2), (1, 1), (1,)])
@torch.no_grad()
def test_rows_of_any_lengths_equal_the_familys_own_forward(family, lengths):
    batch = rows_of(*lengths)
    layout = real_tokens(batch)
    assert_as_plain(make(family), batch, layout, places=layout.real)


@pytest.mark.parametrize("family", MASKED)
@torch.no_grad()
def test_an_encoders_states_at_padding_are_the_familys_own_where_they_are_kept(family):
    batch = toy_batch()
    layout = all_places(batch)
    assert not layout.real.all()
    assert_as_plain(make(family), batch, layout, places=torch.ones_like(layout.real))


@FAMILIES
@torch.no_grad()
def test_stacked_passes_equal_separate_ones(family):
    model, batch, narrow = make(family), toy_batch(), rows_of(5, 1, 8)
    layouts = [real_tokens(batch), real_tokens(narrow), all_places(batch)]
    batches = [batch, narrow, batch]
    stacked = Layout.stack(layouts)
    blocks, sizes = blocks_of(model), [layout.num_states for layout in layouts]
    ids = torch.cat([layout.take(of["input_ids"]) for of, layout in zip(batches, layouts, strict=True)])
    states = [blocks.embed(ids, stacked)]
    for block in range(3):
        states.append(blocks.run(states[-1], stacked, block, block + 1))
    for number, (of, layout) in enumerate(zip(batches, layouts, strict=True)):
        for together, alone in zip(states, states_of(model, of, layout), strict=True):
            assert_equal(together.split(sizes)[number], alone)


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
def test_gradients_equal_the_familys_own(family):
    batch = toy_batch()
    assert_gradients_equal(make(family), batch, real_tokens(batch))


@pytest.mark.parametrize("family", MASKED)
def test_an_encoders_gradients_through_padding_equal_the_familys_own(family):
    batch = toy_batch()
    assert_gradients_equal(make(family), batch, all_places(batch))


@FAMILIES
def test_dropout_and_its_gradients_equal_the_familys_own_in_training(family):
    # One row without padding, so that both draw the dropout of equal shapes.
    model, batch = make(family, dropout=0.2).train(), toy_batch([2])
    assert_gradients_equal(model, batch, real_tokens(batch))
    assert (plain(model, batch).logits - plain(model.eval(), batch).logits).abs().max() > 0.01


def assert_gradients_equal(model: nn.Module, batch: Batch, layout: Layout) -> None:
    results = []
    for forward in (
        lambda: layout.take(plain(model, batch).logits),
        lambda: head(model, states_of(model, batch, layout)[-1]),
    ):
        torch.manual_seed(5)
        results.append(torch.autograd.grad(forward().square().sum(), list(model.parameters())))
    for (name, _), theirs, ours in zip(model.named_parameters(), *results, strict=True):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@FAMILIES
@torch.no_grad()
def test_a_run_resumed_halfway_equals_one_run(family):
    model, layout = make(family), real_tokens(toy_batch())
    blocks = blocks_of(model)
    hidden = torch.randn(layout.num_states, 16, dtype=torch.float64)
    assert_equal(blocks.run(blocks.run(hidden, layout, 0, 2), layout, 2, 3), blocks.run(hidden, layout, 0, 3))


@FAMILIES
def test_a_run_of_no_block_returns_its_input(family):
    layout = real_tokens(toy_batch())
    hidden = torch.randn(layout.num_states, 16, dtype=torch.float64)
    assert blocks_of(make(family)).run(hidden, layout, 2, 2) is hidden


@FAMILIES
@torch.no_grad()
def test_more_padding_changes_no_real_token(family):
    model, batch = make(family), toy_batch()
    for wide, narrow in zip(states_of(model, pad_further(batch, 5)), states_of(model, batch), strict=True):
        assert_equal(wide, narrow)


@FAMILIES
def test_no_pass_asks_the_device_for_a_value(family):
    # A meta tensor has no values: whoever asks for one gets an error.
    model, batch = make(family).to("meta"), toy_batch().to("meta")
    logits = head(model, states_of(model, batch)[-1])
    assert logits.shape == (batch["token_index"].shape[0], 61)
    logits.sum().backward()


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
    blocks_of(model).head_states(states_of(model, batch)[-1])
    projection = {"cls.predictions", "cls.predictions.decoder", "vocab_projector", "lm_head", "lm_head.decoder"}
    assert {name for name, _ in holders} - called == projection & {name for name, _ in holders}


@FAMILIES
@torch.no_grad()
def test_a_model_runs_plainly_and_saves_its_own_configuration_after_its_blocks_ran(family, tmp_path):
    model, batch = make(family), toy_batch()
    before, configuration = plain(model, batch).logits, model.config.to_json_string(use_diff=False)
    states_of(model, batch)
    assert model.config._attn_implementation == "sdpa"
    assert model.config.to_json_string(use_diff=False) == configuration
    assert torch.equal(plain(model, batch).logits, before)
    model.save_pretrained(tmp_path)
    assert "raydistill" not in (tmp_path / "config.json").read_text()
    assert "_attn_implementation" not in json.loads((tmp_path / "config.json").read_text())


def test_the_configuration_is_restored_when_a_block_fails():
    model, batch, seen = make(toy_bert), toy_batch(), []

    def fail(*_):
        seen.append(model.config._attn_implementation)
        raise RuntimeError("block 1")

    blocks_of(model).layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="block 1"):
        states_of(model, batch)
    assert seen != ["sdpa"]
    assert model.config._attn_implementation == "sdpa"


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
@torch.no_grad()
def test_a_decoders_token_does_not_see_later_ones(family):
    model, batch = make(family), toy_batch([3])
    before = states_of(model, batch)[-1]
    changed = batch.with_columns(input_ids=batch["input_ids"].index_fill(1, torch.arange(9, 17), 5))
    after = states_of(model, changed)[-1]
    assert_equal(after[:9], before[:9])
    assert (after[9:] - before[9:]).abs().max() > 1e-3


@torch.no_grad()
def test_a_window_hides_tokens_before_it():
    model, batch = make(toy_mistral), toy_batch([3])
    changed = batch.with_columns(input_ids=batch["input_ids"].index_fill(1, torch.tensor([0]), 5))
    difference = (states_of(model, changed)[1] - states_of(model, batch)[1]).abs().amax(-1)
    assert difference[11] > 1e-9
    assert difference[12:].count_nonzero() == 0


@pytest.mark.parametrize("kinds", [["full_attention"] * 3, ["sliding_attention"] * 3])
@torch.no_grad()
def test_a_window_holds_where_the_configuration_says_so(kinds):
    config = toy_qwen2(3).config
    values = {**config.to_dict(), "use_sliding_window": True, "sliding_window": 12, "layer_types": kinds}
    model = type(toy_qwen2(1))(type(config)(**values)).double().eval()
    batch = toy_batch()
    assert_as_plain(model, batch, real_tokens(batch), places=real_tokens(batch).real)


@torch.no_grad()
def test_scaled_rotary_embeddings_equal_the_familys_own():
    config = toy_llama(3).config
    scaled = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0}
    config.rope_parameters = {**scaled, "high_freq_factor": 4.0, "original_max_position_embeddings": 20}
    model, batch = type(toy_llama(1))(config).double().eval(), toy_batch()
    assert_as_plain(model, batch, real_tokens(batch), places=real_tokens(batch).real)


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
    replaced = batch.with_columns(input_ids=batch["input_ids"].index_fill(1, torch.tensor([4]), PAD))
    ids = replaced["input_ids"]
    expected = model.roberta.embeddings(input_ids=ids, position_ids=torch.arange(1, ids.shape[1] + 1)[None])
    assert_equal(states_of(model, replaced)[0], expected[0])
    assert not torch.allclose(model.roberta.embeddings(input_ids=ids), expected)


@pytest.mark.parametrize("family", [*MASKED, toy_gpt2])
def test_the_longest_row_is_the_last_that_there_are_positions_for(family):
    model = make(family)
    longest = blocks_of(model).max_length(model.config)
    assert longest == 40
    states_of(model, rows_of(3, longest))
    with pytest.raises((IndexError, RuntimeError)):
        states_of(model, rows_of(3, longest + 1))


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
def test_an_attention_that_packed_rows_are_not_tested_with_is_refused_with_the_remedy(attention):
    model = make(toy_bert)
    model.config._attn_implementation = attention
    with pytest.raises(ValueError, match=f"attention is '{attention}'; load the model with attn_implementation='sdpa'"):
        blocks_of(model)


@FAMILIES
def test_gradient_checkpointing_is_refused(family):
    # Its second forward runs where the configuration is that of padded rows again.
    config = make(family).config
    config.gradient_checkpointing = True
    model = type(make(family))(config)
    with pytest.raises(ValueError, match="gradient_checkpointing is true"):
        blocks_of(model)


@pytest.mark.parametrize("family", [toy_bert, toy_roberta])
def test_a_masked_model_made_a_decoder_is_refused(family):
    model = make(family)
    model.config.is_decoder = True
    with pytest.raises(ValueError, match="is_decoder is true"):
        blocks_of(model)

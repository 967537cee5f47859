"""Attention of packed rows by the kernel for rows of unequal lengths: the same as over padded rows, family by family.

The kernel needs a GPU. Its operator runs here by the formula, under PyTorch's own derivative of it.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from raydistill.batch import collate
from raydistill.layout import Layout
from raydistill.losses.chunked_head import logits_of
from raydistill.models.blocks import _varlen, blocks_of
from raydistill.models.blocks._varlen import Sees
from toys.flash import flash_on_cpu
from toys.models import PAD
from toys.zoo import PACKED, toy

LENGTHS = (9, 14, 1, 17, 10, 1)
PADDED = {"mpnet", "deberta-v2", "gemma2"}
"""Families whose scores are more than products of queries and keys."""
FAMILIES = pytest.mark.parametrize("name", [name for name in PACKED if name not in PADDED])


@pytest.fixture
def flash(monkeypatch):
    """The kernel, chosen wherever it would be on a GPU in half precision."""
    monkeypatch.setattr(_varlen, "_has_kernel", lambda *_: True)
    with flash_on_cpu() as found:
        yield found


def batch_of(*lengths):
    generator = np.random.default_rng(0)
    return collate([generator.integers(5, 61, length) for length in lengths], range(len(lengths)), pad_id=PAD)


def layout_of(batch):
    return Layout.of(batch["attention_mask"], batch["token_index"])


def logits_and_gradients(model, batch, layout=None):
    """Logits (R, V) at real tokens, and the gradients of a number that depends on all of them."""
    blocks, layout = blocks_of(model), layout or layout_of(batch)
    states, _ = blocks.forward(layout.take(batch["input_ids"]), layout)
    logits = logits_of(blocks.head_states(states), blocks.head_projection())
    model.zero_grad()
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)).sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@FAMILIES
def test_logits_and_every_gradient_are_those_of_padded_rows(name, flash, monkeypatch):
    model, batch = toy(name), batch_of(*LENGTHS)
    packed = logits_and_gradients(model, batch)
    assert len(flash.calls) == blocks_of(model).num_blocks
    monkeypatch.setattr(_varlen, "_has_kernel", lambda *_: False)
    padded = logits_and_gradients(model, batch)
    assert len(flash.calls) == blocks_of(model).num_blocks
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in padded[1].values())


@pytest.mark.parametrize("name", sorted(PADDED))
def test_families_with_other_scores_stay_with_padded_rows(name, flash):
    logits_and_gradients(toy(name), batch_of(14, 17, 12))
    assert not flash.calls


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("bert", [(-1, -1)] * 3),
        ("gpt2", [(-1, 0)] * 3),
        ("mistral", [(5, 0)] * 3),
        ("qwen3", [(5, 0), (-1, 0), (5, 0)]),
        ("modernbert", [(-1, -1), (3, 3), (-1, -1)]),
    ],
)
def test_each_block_has_its_window(name, windows, flash):
    logits_and_gradients(toy(name), batch_of(*LENGTHS))
    assert [call["window"] for call in flash.calls] == windows


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_what_is_recomputed_in_the_backward_pass_is_the_same(name, flash):
    from raydistill.models.checkpointing import use_checkpointing

    model, batch = toy(name), batch_of(*LENGTHS)
    kept = logits_and_gradients(model, batch)
    use_checkpointing(model)
    torch.testing.assert_close(logits_and_gradients(model, batch), kept, rtol=0, atol=0)
    assert len(flash.calls) == 3 * 3


def test_dropout_is_the_kernels_while_a_model_trains_alone(flash):
    model, batch = toy("bert"), batch_of(*LENGTHS)
    for layer in model.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.3
    logits_and_gradients(model.eval(), batch)
    logits_and_gradients(model.train(), batch)
    assert [call["dropout"] for call in flash.calls] == [0.0] * 3 + [0.3] * 3


def test_rows_with_states_of_padding_stay_padded(flash):
    model, batch = toy("bert"), batch_of(*LENGTHS)
    whole = Layout.of(batch["attention_mask"], torch.arange(batch["attention_mask"].numel()))
    logits_and_gradients(model, batch, whole)
    narrow = layout_of(batch_of(5, 8))
    assert Layout.stack([whole, narrow]).has_padding
    assert not Layout.stack([layout_of(batch), narrow]).has_padding
    assert not flash.calls


def test_stacked_rows_start_where_their_states_do(flash):
    model, batches = toy("llama"), [batch_of(*LENGTHS), batch_of(3, 8, 1)]
    layouts = [layout_of(batch) for batch in batches]
    stacked, blocks = Layout.stack(layouts), blocks_of(model)
    ids = [layout.take(batch["input_ids"]) for layout, batch in zip(layouts, batches, strict=True)]
    assert stacked.starts.tolist() == [0, 9, 23, 24, 41, 51, 52, 55, 63, 64]
    together, _ = blocks.forward(torch.cat(ids), stacked)
    apart = [blocks.forward(own, layout)[0] for own, layout in zip(ids, layouts, strict=True)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-12)
    assert len(flash.calls) == 9


def test_heads_of_a_width_that_the_kernel_does_not_take_stay_with_padded_rows(flash):
    layout = layout_of(batch_of(*LENGTHS))
    narrow, wide = (torch.zeros(1, 2, layout.num_states, size) for size in (12, 16))
    assert not _varlen.fits(narrow, narrow, narrow, layout, dropout=0.0)
    assert _varlen.fits(wide, wide, wide, layout, dropout=0.0)


def test_a_cpu_has_no_such_kernel():
    layout = layout_of(batch_of(*LENGTHS))
    heads = torch.zeros(1, 2, layout.num_states, 16, dtype=torch.bfloat16)
    assert not _varlen.fits(heads, heads, heads, layout, dropout=0.0)


@pytest.mark.parametrize("name", ["bert", "mistral", "modernbert"])
def test_the_kernel_is_chosen_and_called_without_a_value_of_the_device(name, monkeypatch):
    monkeypatch.setattr(_varlen, "_has_kernel", lambda *_: True)
    model, batch = toy(name).to("meta"), batch_of(*LENGTHS).to("meta")
    with torch.profiler.profile() as profile:
        blocks, layout = blocks_of(model), layout_of(batch)
        states, _ = blocks.forward(layout.take(batch["input_ids"]), layout)
        states.sum().backward()
    names = [event.name for event in profile.events()]
    assert states.is_meta
    assert names.count("aten::_flash_attention_forward") == 3
    assert names.count("aten::_flash_attention_backward") == 3


def of_jagged_rows(heads, layout):
    """Attention of PyTorch over all rows at once."""
    jagged = [torch.nested.nested_tensor_from_jagged(one, layout.starts.long()).transpose(1, 2) for one in heads]
    return scaled_dot_product_attention(*jagged, scale=0.2).transpose(1, 2).values()


def of_one_row_after_another(heads, layout):
    """Causal attention of PyTorch over each row alone."""
    rows = zip(*(one.split(layout.starts.diff().tolist()) for one in heads), strict=True)
    alone = ([one.transpose(0, 1).unsqueeze(0) for one in row] for row in rows)
    found = [scaled_dot_product_attention(*row, is_causal=True, scale=0.2, enable_gqa=True) for row in alone]
    return torch.cat([one.squeeze(0).transpose(0, 1) for one in found])


@pytest.mark.parametrize(
    ("sees", "num_keys", "of_pytorch"),
    [
        (Sees(-1, -1), 4, of_jagged_rows),
        (Sees(-1, 0), 4, of_one_row_after_another),
        (Sees(-1, 0), 2, of_one_row_after_another),
    ],
)
def test_the_formula_is_pytorchs_own_of_rows_of_unequal_lengths(sees, num_keys, of_pytorch):
    torch.manual_seed(0)
    layout = layout_of(batch_of(*LENGTHS))
    heads = [
        torch.randn(layout.num_states, count, 8, dtype=torch.float64, requires_grad=True)
        for count in (4, num_keys, num_keys)
    ]
    with flash_on_cpu():
        packed = [one.transpose(0, 1).unsqueeze(0) for one in heads]
        ours = _varlen.attend(*packed, layout, sees, scaling=0.2, dropout=0.0).squeeze(0)
        own = torch.autograd.grad(ours.square().sum(), heads)
    theirs = of_pytorch(heads, layout)
    torch.testing.assert_close(ours, theirs.view(ours.shape), rtol=0, atol=1e-12)
    torch.testing.assert_close(own, torch.autograd.grad(theirs.square().sum(), heads), rtol=0, atol=1e-12)

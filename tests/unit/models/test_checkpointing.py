"""Blocks that keep their inputs alone give the same bits, in every family that runs packed and in models run whole."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from raydistill.interventions import passes
from raydistill.models import layer_plan
from raydistill.models.blocks import blocks_of, family_of
from raydistill.models.checkpointing import use_checkpointing
from raydistill.models.layer_plan import make_plan
from toys.models import parameter_gradients
from toys.zoo import PACKED, toy
from unit.models.test_families import batch_of, rows_for, rows_of
from unit.models.test_generic import DECODERS, ENCODERS, layout_of

WHOLE = {**{name: {} for name in ENCODERS if name != "xlm"}, **DECODERS}
DROPOUT = 0.3


@contextmanager
def bytes_kept() -> Iterator[list[int]]:
    """Sizes of the tensors that the graph keeps for the backward pass, each once."""
    sizes: dict[int, int] = {}
    found: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_leaf:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
    found.append(sum(sizes.values()))


def states_and_gradients(model, rows, *, interchange=True):
    """All states of a pass, and the gradients of a loss over them and over an interchanged pass."""
    batch = batch_of(rows)
    layout, blocks = layout_of(batch), blocks_of(model)
    torch.manual_seed(3)
    ids = layout.take(batch["input_ids"])
    _, states = blocks.forward(ids, layout, with_states=True)
    loss = sum((number + 1) * state.square().mean() for number, state in enumerate(states))
    if interchange:
        places = torch.tensor([1, 4, 12])
        swap = passes.Interchange({1: (slice(2, 9),)}, places, places.flip(0), site_offset=1)
        base = passes.Rows(ids, layout)
        ends = passes.run(blocks, passes.Passes(base, source=base, counterfactual=base, interchange=swap))
        loss = loss + sum(blocks.states_of(end).square().mean() for end in ends)
    return [loss.detach(), *(state.detach() for state in states)], parameter_gradients(loss, model)


def assert_no_bit_changes(model, rows):
    model.train()
    states, gradients = states_and_gradients(model, rows)
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    use_checkpointing(model)
    others, other_gradients = states_and_gradients(model, rows)
    assert all(torch.equal(one, other) for one, other in zip(states, others, strict=True))
    assert all(torch.equal(gradient, other_gradients[name]) for name, gradient in gradients.items())


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_family_has_the_same_states_and_gradients_with_dropout(name):
    model = toy(name, dropout=DROPOUT)
    # An OPT that drops blocks runs whole.
    model.config.layerdrop = 0.0
    assert family_of(model.config).IN_PARTS
    assert_no_bit_changes(model, rows_for(name))


@pytest.mark.parametrize(("name", "options"), WHOLE.items())
def test_a_model_that_runs_whole_has_the_same_states_and_gradients_with_dropout(name, options):
    head = "causal_lm" if name in DECODERS else "masked_lm"
    assert_no_bit_changes(toy(name, head=head, dropout=DROPOUT, **options), rows_of(9, 14, 3, 17, 10))


def test_blocks_that_run_twice_with_query_and_key_exchanged_have_the_same_gradients():
    model = toy("bert", dropout=DROPOUT)
    layer_plan.set_plan(model.config, make_plan("sps", 3))
    assert_no_bit_changes(model, rows_of(9, 14, 3))


def test_the_forward_of_a_block_is_its_own_again_after_a_pass():
    model = toy("rembert")
    use_checkpointing(model)
    states_and_gradients(model.train(), rows_of(9, 14), interchange=False)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("name", ["bert", "llama", "megatron-bert"])
def test_the_graph_keeps_a_fraction_of_the_bytes(name):
    model, kept = toy(name, num_hidden_layers=8).train(), []
    for _ in range(2):
        batch = batch_of(rows_of(40, 40))
        layout = layout_of(batch)
        with bytes_kept() as sizes:
            blocks_of(model).forward(layout.take(batch["input_ids"]), layout)
        kept += sizes
        use_checkpointing(model)
    assert kept[1] < 0.35 * kept[0]


def test_a_pass_without_gradients_keeps_nothing_to_run_again(monkeypatch):
    model = toy("bert")
    use_checkpointing(model)
    monkeypatch.setattr("raydistill.models.checkpointing.checkpoint", None)
    batch = batch_of(rows_of(9))
    with torch.no_grad():
        blocks_of(model).forward(layout_of(batch).take(batch["input_ids"]), layout_of(batch))

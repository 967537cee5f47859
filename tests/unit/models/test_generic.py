"""Models that no family knows run whole: as transformers runs them, and as the packed families where both can."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raydistill.interventions import passes
from raydistill.layout import Layout
from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.models.blocks import blocks_of, family_of, generic, how_run
from raydistill.models.checks import max_length, missing_head
from raydistill.models.freezing import freeze_layers
from raydistill.models.layer_selection import student_from_layers
from raydistill.models.load import check_family, load_model, save_model
from raydistill.models.predictions import at_labels, predict
from raydistill.models.unit_masks import check_units
from toys.checkpoint import toy_tokenizer
from toys.models import PAD
from toys.zoo import PACKED, toy
from unit.models.test_families import (
    assert_close,
    batch_of,
    of_transformers,
    padded,
    rows_for,
    rows_of,
    with_positions,
)

ENCODERS = ("rembert", "roformer", "megatron-bert", "data2vec-text", "xlm")
DECODERS = {
    "bloom": {},
    "falcon": {},
    "stablelm": {"num_key_value_heads": 1},
    "cohere": {"num_key_value_heads": 1, "logit_scale": 0.5},
}
BOTH = {
    "t5": {"d_kv": 8, "d_ff": 24, "num_decoder_layers": 3, "decoder_start_token_id": PAD},
    "bart": {
        name: size
        for end in ("encoder", "decoder")
        for name, size in ((f"{end}_layers", 3), (f"{end}_attention_heads", 2), (f"{end}_ffn_dim", 24))
    },
}
END = 3
HEADS = ("sequence_classification", "token_classification", "question_answering")
LENGTHS = (9, 14, 3, 17, 10)


def layout_of(batch):
    return Layout.of(batch["attention_mask"], batch["token_index"])


def labelled(rows):
    batch = batch_of(rows)
    return batch.with_columns(label_index=batch["token_index"])


def names_and_heads():
    for name, options in {**{name: {} for name in ENCODERS}, **DECODERS, **BOTH}.items():
        config = toy_config(name)
        for head in generic.Family.heads(config):
            if head in HEADS[:2]:
                yield pytest.param(name, options, head, id=f"{name} {head}")


def toy_config(name):
    return SimpleNamespace(model_type=name, is_encoder_decoder=name in BOTH)


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in ENCODERS), *DECODERS.items()])
@torch.no_grad()
def test_states_and_logits_are_those_of_transformers(name, options):
    head = "causal_lm" if name in DECODERS else "masked_lm"
    model, rows = toy(name, head=head, **options), rows_of(*LENGTHS)
    batch, blocks = labelled(rows), blocks_of(model)
    theirs = of_transformers(model, padded(rows, "right"))
    logits, projection = at_labels(model, batch)
    assert projection == (None, None)
    assert_close(logits, theirs[-1])
    if name == "xlm":
        # Its blocks are in several lists side by side.
        assert family_of(model.config).has(model.config) == {"logits", "pooled", "last_states"}
        with pytest.raises(
            ValueError, match=r"no list of 3 blocks was found in the xlm; name it beside the checkpoint"
        ):
            blocks.whole(torch.tensor([5]), layout_of(batch_of([np.array([5])])), read=[0])
        return
    end, states = blocks.forward(layout_of(batch).take(batch["input_ids"]), layout_of(batch), with_states=True)
    assert len(states) == blocks.num_blocks + 1 == 4
    for own, other in zip([*states[:-1], blocks.states_of(end)], theirs[:-1], strict=True):
        assert_close(own, other)


@pytest.mark.parametrize(("name", "options", "head"), [*names_and_heads()])
@torch.no_grad()
def test_what_a_classifier_says_is_what_transformers_says(name, options, head):
    # T5 and BART read what they pool at the last end-of-text token.
    rows = [np.append(row[:-1], END) for row in rows_of(*LENGTHS)]
    model, inputs = toy(name, head=head, **options), padded(rows, "right")
    theirs = model(**inputs).logits
    real = inputs["attention_mask"].bool()
    said = predict(model, labelled(rows), head=head, with_states=name != "xlm")
    assert_close(said.logits, theirs if head == HEADS[0] else theirs[real])
    if name in BOTH:
        # T5 classifies tokens without its decoder.
        shown = model(**inputs, output_hidden_states=True)
        of_both = "encoder_last_hidden_state" in shown
        last = shown.encoder_last_hidden_state if of_both else shown.hidden_states[-1]
        assert_close(said.last_states, last[real])
        assert of_both == ("pooled" not in family_of(model.config).has(model.config))


@torch.no_grad()
def test_a_decoder_without_a_padding_id_pools_the_last_token_of_each_row():
    model, rows = toy("falcon", head=HEADS[0], pad_token_id=None), rows_of(*LENGTHS)
    assert model.config.pad_token_id is None
    alone = torch.cat([model(torch.from_numpy(row)[None]).logits for row in rows])
    assert_close(predict(model, batch_of(rows), head=HEADS[0]).logits, alone)
    assert model.config.pad_token_id is None


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_an_encoders_states_and_logits_are_those_of_rows_padded_on_the_left(name):
    model, rows = toy(name, head="masked_lm"), rows_of(*LENGTHS)
    batch, blocks, inputs = labelled(rows), blocks_of(model), padded(rows, "left")
    # RoFormer takes no positions: its rotations differ by how far tokens are apart, as exact as its float32 table.
    is_relative = name == "roformer"
    theirs = of_transformers(model, inputs if is_relative else with_positions(model, inputs))
    layout, is_listed = layout_of(batch), name != "xlm"
    end, states = blocks.forward(layout.take(batch["input_ids"]), layout, with_states=is_listed)
    ours = [*states[:-1], blocks.states_of(end), at_labels(model, batch)[0]]
    for own, other in zip(ours, theirs if is_listed else theirs[-2:], strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6 if is_relative else 1e-9)


@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_a_packed_family_run_whole_gives_the_same(name):
    model, batch = toy(name), labelled(rows_for(name))
    layout = layout_of(batch)
    ids = layout.take(batch["input_ids"])
    packed, whole = blocks_of(model), generic.Family(model)
    # Of ALBERT there is no list of blocks, as some of them are one.
    is_listed = name != "albert"
    end, states = packed.forward(ids, layout, with_states=is_listed)
    other_end, other_states = whole.forward(ids, layout, with_states=is_listed)
    assert len(other_states) == (4 if is_listed else 0)
    for own, other in zip([*states, packed.states_of(end)], [*other_states, whole.states_of(other_end)], strict=True):
        assert_close(own, other)


@pytest.mark.parametrize("source", ["in_batch", "corpus"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", ["bert", "llama"])
@torch.no_grad()
def test_an_intervention_by_hooks_equals_that_on_packed_states(name, offset, source):
    model, batch, other = toy(name), batch_of(rows_of(9, 14, 3)), batch_of(rows_of(12, 6, 8)[::-1])
    base = passes.Rows(layout_of(batch).take(batch["input_ids"]), layout_of(batch), kept_places=torch.tensor([0, 9]))
    of_source = None
    if source == "corpus":
        of_source = passes.Rows(layout_of(other).take(other["input_ids"]), layout_of(other))
    swap = passes.Interchange(
        {0: (slice(0, 8),), 1: (slice(4, 12), slice(14, 16))},
        torch.tensor([2, 11, 24]),
        torch.tensor([1, 20, 10]),
        offset,
    )
    planned = passes.Passes(base, source=of_source, interchange=swap, kept=(1, 2))
    packed, whole = blocks_of(model), generic.Family(model)
    ours, theirs = passes.run_and_keep(packed, planned), passes.run_and_keep(whole, planned)
    plain = passes.run(packed, passes.Passes(base))[0]
    assert (packed.states_of(ours[1].last) - packed.states_of(plain)).abs().max() > 1e-3
    for own, other_one in zip(ours, theirs, strict=True):
        assert_close(whole.states_of(other_one.last), packed.states_of(own.last))
        for kept, of_hooks in zip(own.kept, other_one.kept, strict=True):
            assert_close(of_hooks, kept)


def test_losses_of_logits_are_those_of_states_and_their_projection():
    generator = torch.Generator().manual_seed(0)
    states, weight, others = (torch.randn(size, generator=generator).double() for size in ((7, 5), (11, 5), (7, 11)))
    labels = torch.tensor([3, 0, 10])
    states.requires_grad_()
    weights = {"kl": 0.4, "ce": 0.3, "mse": 0.2}
    found = []
    for student, projection in ((states, (weight, None)), (states @ weight.T, (None, None))):
        loss, sums = vocabulary_losses(
            student, projection, others, (None, None), weights=weights, labels=labels, temperature=2.0, chunk_rows=3
        )
        found.append((loss.detach(), *sums.values(), *torch.autograd.grad(loss, states)))
    for one, same in zip(*found, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-12, atol=1e-12)


def test_gradients_reach_all_that_a_loss_reads():
    model, batch = toy("stablelm", **DECODERS["stablelm"]).train(), labelled(rows_of(5, 3))
    states, projection = at_labels(model, batch)
    vocabulary_losses(states, projection, weights={"ce": 1.0}, labels=torch.full((8,), 7))[0].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_a_checkpoint_is_saved_loaded_and_its_head_told_from_the_rest(tmp_path):
    model = toy("rembert", head=HEADS[0]).float()
    save_model(model, toy_tokenizer(), tmp_path / "whole")
    batch = batch_of(rows_of(*LENGTHS))
    loaded = load_model(tmp_path / "whole", head=HEADS[0], labels=("blue", "red", "green"))
    ours = predict(model.eval(), batch, head=HEADS[0]).logits
    assert torch.equal(predict(loaded, batch, head=HEADS[0]).logits, ours[:, [2, 0, 1]])
    assert missing_head(tmp_path / "whole", head=HEADS[0]) == []
    model.base_model.save_pretrained(tmp_path / "base")
    assert missing_head(tmp_path / "base", head=HEADS[0]) == ["classifier.weight", "classifier.bias"]
    load_model(tmp_path / "base", head=HEADS[0], allow_new_head=True)


def test_a_student_of_chosen_layers_has_their_weights_and_layers_can_be_frozen():
    teacher = toy("roformer", head="masked_lm")
    student = student_from_layers(teacher, architecture=None, layers=[2, 0], vocab_transform=True).double()
    for own, theirs in zip(blocks_of(student).layers, (2, 0), strict=True):
        expected = blocks_of(teacher).layers[theirs].state_dict()
        assert all((tensor - expected[part]).abs().max() < 1e-6 for part, tensor in own.state_dict().items())
    freeze_layers(student, [1])
    assert {parameter.requires_grad for parameter in blocks_of(student).layers[1].parameters()} == {False}


def test_rows_may_be_as_long_as_the_table_of_positions_without_its_padding():
    assert max_length(toy("data2vec-text", head="masked_lm").config) == 44 - PAD - 1
    assert max_length(toy("rembert", head="masked_lm").config) == 44
    assert max_length(toy("bloom").config) >= 44


def test_an_option_that_cannot_run_packed_runs_whole_and_the_plan_says_why():
    model = toy("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0})
    assert not blocks_of(model).IN_PARTS
    assert how_run(model.config, "causal_lm") == (
        ", runs whole on padded rows, which is slower (rope_type is 'dynamic')"
    )
    assert how_run(toy("bert").config, "masked_lm") == ""


def test_what_cannot_work_is_refused_in_one_line():
    config = toy("rembert", head="masked_lm").config
    with pytest.raises(ValueError, match="the model is a rembert; heads and neurons can be pruned of bert, "):
        check_units(config)
    config.raydistill_layer_plan = [[0, False]]
    with pytest.raises(ValueError, match="layer_plan is set, but the model is a rembert; raydistill ls models shows"):
        family_of(config).check_plan(config)
    with pytest.raises(ValueError, match=r"is a t5 model; a masked_lm head works with: albert, bert, .* and slower"):
        check_family(toy("t5", head=HEADS[0], **BOTH["t5"]).config, head="masked_lm", of="teachers.0")


def test_a_list_of_blocks_is_named_in_the_configuration():
    model = toy("rembert", head="masked_lm")
    assert generic.blocks_in(model) == "rembert.encoder.layer"
    model.config.raydistill_blocks = "encoder.layer"
    assert generic.blocks_in(model) == "rembert.encoder.layer"
    model.config.raydistill_blocks = "encoder.layers"
    with pytest.raises(ValueError, match=r"raydistill_blocks is 'encoder\.layers', which is not a list of blocks"):
        generic.blocks_in(model)


def test_blocks_that_cannot_be_copied_in_an_order_are_refused():
    teacher = toy("t5", head=HEADS[0], **BOTH["t5"])
    assert student_from_layers(teacher, architecture=None, layers=[0, 2], vocab_transform=True) is not None
    with pytest.raises(ValueError, match=r"layers is \[2, 0\], but blocks of a t5 are unlike each other"):
        student_from_layers(teacher, architecture=None, layers=[2, 0], vocab_transform=True)

"""Each family of ``toys.zoo`` gives what transformers gives, on rows padded on either side."""

import numpy as np
import pytest
import torch

from raydistill.batch import collate
from raydistill.layout import Layout
from raydistill.losses.chunked_head import logits_of
from raydistill.models import layer_plan
from raydistill.models.blocks import blocks_of, families, packed_families
from raydistill.models.checks import missing_head
from raydistill.models.heads import has_head
from raydistill.models.kept_units import KeptUnits
from raydistill.models.layer_selection import student_from_layers
from raydistill.models.load import load_model, save_model, tensor_names
from raydistill.models.predictions import predict
from raydistill.models.small_shapes import shrink
from raydistill.models.unrolled import unrolled
from toys.checkpoint import toy_tokenizer
from toys.models import PAD
from toys.stark import head_and_neuron_masks
from toys.zoo import DECODERS, ENCODERS, PACKED, toy, vocabulary_head

LENGTHS = (9, 14, 1, 17, 10)
LONG = (14, 17, 12, 15)
"""For a family that in float64 is not a number in transformers where a window holds padding alone."""
COUNTED_FROM = {**dict.fromkeys(("roberta", "xlm-roberta", "camembert", "data2vec-text"), PAD + 1), "mpnet": 2}
"""Position of the first token in families that do not count from 0."""
FAMILIES = pytest.mark.parametrize("name", PACKED)
OTHER_HEADS = ("sequence_classification", "token_classification", "question_answering")
CLASSIFIERS = [
    (name, head) for name in PACKED for head in OTHER_HEADS if name in families(head) and has_head(name, head)
]


def rows_of(*lengths):
    generator = np.random.default_rng(0)
    # Ids above those with a meaning to some family.
    return [generator.integers(5, 61, length) for length in lengths]


def rows_for(name):
    return rows_of(*(LONG if name == "gemma2" else LENGTHS))


def batch_of(rows):
    return collate(rows, range(len(rows)), pad_id=PAD)


def padded(rows, side):
    """Ids and mask as a tokenizer of transformers pads on a side, with the positions of the real tokens."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), None) if side == "left" else slice(len(row))
        ids[number, place], mask[number, place] = torch.from_numpy(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def with_positions(model, inputs):
    """Inputs with positions counted from the first real token, which families count from elsewhere on their own."""
    position = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return {**inputs, "position_ids": position + COUNTED_FROM.get(model.config.model_type, 0)}


def states_and_logits(model, rows):
    """All states, the last hidden states and the logits (R, ...) of the parts on packed rows."""
    blocks, batch = blocks_of(model), batch_of(rows)
    layout = Layout.of(batch["attention_mask"], batch["token_index"])
    states = [blocks.embed(layout.take(batch["input_ids"]), layout)]
    for block in range(blocks.num_blocks):
        states.append(blocks.run(states[-1], layout, block, block + 1))
    logits = logits_of(blocks.head_states(states[-1]), blocks.head_projection())
    return [*states[:-1], blocks.last_states(states[-1]), logits]


def of_transformers(model, inputs):
    """The same of the model's own forward, at real tokens."""
    said = model(**inputs, output_hidden_states=True)
    real = inputs["attention_mask"].bool()
    return [states[real] for states in (*said.hidden_states, said.logits)]


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@FAMILIES
@torch.no_grad()
def test_states_and_logits_are_those_of_transformers_on_padded_rows(name):
    model, rows = toy(name), rows_for(name)
    ours, theirs = states_and_logits(model, rows), of_transformers(model, padded(rows, "right"))
    assert len(ours) == len(theirs) == blocks_of(model).num_blocks + 2
    for own, other in zip(ours, theirs, strict=True):
        assert_close(own, other)
    assert all(own.std() > 1e-2 for own in ours)


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_an_encoders_states_and_logits_are_those_of_rows_padded_on_the_left(name):
    model, rows = toy(name), rows_of(*LENGTHS)
    inputs = padded(rows, "left")
    for own, other in zip(
        states_and_logits(model, rows), of_transformers(model, with_positions(model, inputs)), strict=True
    ):
        assert_close(own, other)


@pytest.mark.parametrize(("name", "head"), CLASSIFIERS)
@torch.no_grad()
def test_logits_of_the_other_heads_are_those_of_transformers(name, head):
    model, rows = toy(name, head=head), rows_for(name)
    batch, inputs = batch_of(rows), padded(rows, "right")
    batch = batch.with_columns(label_index=batch["token_index"])
    said, real = model(**inputs), inputs["attention_mask"].bool()
    ours = predict(model, batch, head=head).logits
    if head == "question_answering":
        theirs = torch.cat([said.start_logits, said.end_logits])
        assert_close(ours[torch.cat([real, real])], theirs[torch.cat([real, real])])
    else:
        assert_close(ours, said.logits if head == "sequence_classification" else said.logits[real])


@FAMILIES
def test_gradients_are_those_of_transformers(name):
    model, rows = toy(name), rows_for(name)
    inputs, results = padded(rows, "right"), []
    for logits in (lambda: states_and_logits(model, rows)[-1], lambda: of_transformers(model, inputs)[-1]):
        loss = logits().square().mean()
        results.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))
    assert max(theirs.abs().max() for theirs in results[1]) > 1e-3
    for (parameter, _), ours, theirs in zip(model.named_parameters(), *results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, msg=parameter)


@FAMILIES
def test_no_pass_asks_the_device_for_a_value(name):
    model, batch = toy(name).to("meta"), batch_of(rows_of(*LENGTHS)).to("meta")
    blocks, layout = blocks_of(model), Layout.of(batch["attention_mask"], batch["token_index"])
    states = blocks.run(blocks.embed(layout.take(batch["input_ids"]), layout), layout, 0, blocks.num_blocks)
    logits_of(blocks.head_states(states), blocks.head_projection()).sum().backward()


@FAMILIES
@torch.no_grad()
def test_every_module_with_weights_is_called_but_the_projection(name):
    # A sharded model gathers weights in the hooks of the module that has them.
    model, called = toy(name), set()
    holders = {
        part: one for part, one in model.named_modules() if next(one.parameters(recurse=False), None) is not None
    }
    for part, module in holders.items():
        module.register_forward_pre_hook(lambda *_, part=part: called.add(part))
    blocks, batch = blocks_of(model), batch_of(rows_of(*LENGTHS))
    layout = Layout.of(batch["attention_mask"], batch["token_index"])
    blocks.head_states(blocks.run(blocks.embed(layout.take(batch["input_ids"]), layout), layout, 0, 3))
    projection = blocks.PROJECTION
    assert set(holders) - called <= {projection, projection.rpartition(".")[0]}


@FAMILIES
@torch.no_grad()
def test_more_padding_changes_no_real_token(name):
    model, rows = toy(name), rows_of(3, 5)
    wide = states_and_logits(model, [*rows, *rows_of(19)])
    # Gemma 2 rounds its attention to float32, whose sums over more zeros are rounded otherwise.
    tolerance = 1e-5 if name == "gemma2" else 1e-9
    for states, narrow in zip(wide, states_and_logits(model, rows), strict=True):
        torch.testing.assert_close(states[: len(narrow)], narrow, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name, options in DECODERS.items() if "sliding_window" in options])
@torch.no_grad()
def test_a_window_hides_tokens_before_it_in_the_blocks_that_have_one(name):
    model, row = toy(name), rows_of(17)[0]
    changed = row.copy()
    changed[0] = 5 if row[0] != 5 else 6
    difference = [
        (one - other).abs().amax(-1)
        for one, other in zip(states_and_logits(model, [row]), states_and_logits(model, [changed]), strict=True)
    ]
    assert difference[1][5] > 1e-9
    assert difference[1][6:].count_nonzero() == 0
    kinds = getattr(model.config, "layer_types", None) or ["sliding_attention"] * 3
    # A block without a window sees the first token from everywhere, one with it what the blocks before have carried.
    assert (difference[2][12:].count_nonzero() > 0) == (kinds[1] == "full_attention")


@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_a_student_of_chosen_layers_computes_what_those_layers_do(name):
    # Block 0 of some families is unlike the others; of some all blocks may have the weights of one.
    teacher, rows = toy(name, **({"num_hidden_groups": 1} if name == "albert" else {})), rows_of(*LENGTHS)
    layers, batch = [0, 2] if blocks_of(teacher).FIRST_DIFFERS else [2, 0], batch_of(rows)
    student = student_from_layers(teacher, architecture=name, layers=layers, vocab_transform=True).double()
    blocks, layout = blocks_of(teacher), Layout.of(batch["attention_mask"], batch["token_index"])
    states = blocks.embed(layout.take(batch["input_ids"]), layout)
    for block in layers:
        states = blocks.run(states, layout, block, block + 1)
    torch.testing.assert_close(states_and_logits(student, rows)[-2], blocks.last_states(states), rtol=0, atol=1e-5)
    assert student.config.num_hidden_layers == blocks_of(student).num_blocks == 2


@pytest.mark.parametrize("name", [name for name, family in packed_families().items() if family.UNITS is not None])
@torch.no_grad()
def test_a_pruned_model_computes_what_a_masked_one_does(name):
    model, rows = toy(name), rows_of(*LENGTHS)
    heads = torch.tensor([[1, 0], [1, 1], [0, 1]])
    neurons = (torch.arange(3 * 24).view(3, 24) % 3 < 2).long()
    with head_and_neuron_masks(model, heads=heads.double(), neurons=neurons.double()):
        masked = states_and_logits(model, rows)
    kept = [tuple(tuple(row.nonzero()[:, 0].tolist()) for row in units) for units in (heads, neurons)]
    shrink(model, KeptUnits(*kept))
    assert sum(parameter.numel() for parameter in model.parameters()) < sum(p.numel() for p in toy(name).parameters())
    for own, other in zip(states_and_logits(model, rows), masked, strict=True):
        assert_close(own, other)


@pytest.mark.parametrize("name", [name for name, family in packed_families().items() if family.QUERY_AND_KEY])
@torch.no_grad()
def test_a_layer_plan_runs_as_its_unrolled_copy_does_in_transformers(name):
    model, rows = toy(name), rows_of(*LENGTHS)
    layer_plan.set_plan(model.config, layer_plan.make_plan("sps", 3))
    theirs = of_transformers(unrolled(model), padded(rows, "right"))
    ours = states_and_logits(model, rows)
    assert len(ours) == 6 + 2
    for own, other in zip(ours, theirs, strict=True):
        assert_close(own, other)


@FAMILIES
@torch.no_grad()
def test_a_saved_model_loads_with_all_of_its_head_and_without_it_lacks_some_unless_it_is_tied(name, tmp_path):
    model, head, rows = toy(name).float(), vocabulary_head(name), rows_for(name)
    save_model(model, toy_tokenizer(), tmp_path / "whole")
    assert missing_head(tmp_path / "whole", head=head) == []
    loaded = load_model(tmp_path / "whole", head=head)
    assert torch.equal(states_and_logits(loaded.double(), rows)[-1], states_and_logits(model.double(), rows)[-1])
    model.base_model.float().save_pretrained(tmp_path / "base")
    missing = missing_head(tmp_path / "base", head=head)
    assert bool(missing) == (head == "masked_lm" or not model.config.tie_word_embeddings)
    assert set(missing) <= {*tensor_names(tmp_path / "whole")}


def test_the_table_has_every_family():
    packed = {*families("masked_lm"), *families("causal_lm")}
    assert packed == set(PACKED)
    assert {name for name in PACKED if vocabulary_head(name) == "masked_lm"} == set(families("masked_lm"))

import copy

import pytest
import torch
from transformers import BertConfig

from raydistill.layout import Layout
from raydistill.models.blocks import blocks_of
from raydistill.models.layer_selection import (
    freeze_position_embeddings,
    published_layers,
    random_student,
    student_config,
    student_from_layers,
)
from toys.models import toy_batch, toy_bert, toy_distilbert

HALVES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def make(architecture: str, layers=(2, 0), *, vocab_transform: bool = False, seed: int = 0):
    teacher = toy_bert(3, dtype=torch.float32)
    student = student_from_layers(
        teacher, architecture=architecture, layers=list(layers), vocab_transform=vocab_transform, seed=seed
    )
    return teacher, student


def without_token_types(teacher):
    """A copy whose type 0 is folded to nothing, which is what a DistilBERT made from it keeps."""
    changed = copy.deepcopy(teacher).eval()
    with torch.no_grad():
        changed.bert.embeddings.token_type_embeddings.weight.zero_()
    return changed


@pytest.mark.parametrize(
    ("num_layers", "layers"),
    [
        (1, [0]),
        (3, [0, 2, 4]),
        (6, [0, 2, 4, 7, 9, 11]),
        (7, [0, 2, 3, 4, 7, 8, 9]),
        (9, [0, 2, 3, 4, 7, 8, 9, 10, 11]),
    ],
)
def test_published_layers_are_the_published_lists(num_layers, layers):
    assert published_layers(num_layers) == layers


@pytest.mark.parametrize("num_layers", [0, 10])
def test_other_numbers_of_layers_have_no_published_list(num_layers):
    with pytest.raises(ValueError, match=f"num_layers is {num_layers}; .* give layers instead"):
        published_layers(num_layers)


def test_each_block_is_copied_under_distilberts_names():
    teacher, student = make("distilbert")
    theirs, ours = teacher.state_dict(), student.state_dict()
    for position, layer in enumerate((2, 0)):
        for old, new in HALVES.items():
            for kind in ("weight", "bias"):
                expected = theirs[f"bert.encoder.layer.{layer}.{old}.{kind}"]
                assert torch.equal(ours[f"distilbert.transformer.layer.{position}.{new}.{kind}"], expected)


@torch.no_grad()
def test_a_distilbert_of_all_layers_computes_what_its_teacher_does_but_for_token_types():
    teacher, student = make("distilbert", layers=(0, 1, 2), vocab_transform=True)
    batch = toy_batch()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    expected = without_token_types(teacher)(**inputs).logits
    torch.testing.assert_close(student(**inputs).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_bert_of_chosen_layers_computes_what_those_layers_do():
    teacher, student = make("bert")
    batch = toy_batch()
    mask = batch["attention_mask"]
    blocks, layout = blocks_of(teacher.eval()), Layout.of(mask, batch["token_index"])
    hidden = blocks.embed(layout.take(batch["input_ids"]), layout)
    for layer in (2, 0):
        hidden = blocks.run(hidden, layout, layer, layer + 1)
    expected = teacher.cls(hidden)
    torch.testing.assert_close(student(batch["input_ids"], attention_mask=mask).logits[mask], expected)


def test_a_distilbert_of_a_distilbert_keeps_head_and_embeddings():
    teacher = toy_distilbert(3, dtype=torch.float32)
    student = student_from_layers(teacher, architecture="distilbert", layers=[1], vocab_transform=False)
    theirs = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, theirs[name.replace("layer.0.", "layer.1.")]), name


def test_without_vocab_transform_the_transform_is_fresh_and_its_norm_neutral():
    teacher, student = make("distilbert")
    transform = teacher.cls.predictions.transform
    assert not torch.equal(student.vocab_transform.weight, transform.dense.weight)
    assert student.vocab_transform.bias.count_nonzero() == 0
    assert torch.equal(student.vocab_layer_norm.weight, torch.ones(16))
    assert torch.equal(student.vocab_projector.bias, teacher.cls.predictions.bias)


def test_the_seed_alone_decides_the_fresh_transform():
    torch.manual_seed(1)
    first = make("distilbert", seed=4)[1].vocab_transform.weight
    torch.manual_seed(2)
    assert torch.equal(make("distilbert", seed=4)[1].vocab_transform.weight, first)
    assert not torch.equal(make("distilbert", seed=5)[1].vocab_transform.weight, first)


def test_making_a_student_leaves_the_global_generator_and_the_teacher_alone():
    teacher = toy_bert(3, dtype=torch.float32)
    before, state = copy.deepcopy(teacher.state_dict()), torch.get_rng_state()
    student = student_from_layers(teacher, architecture="distilbert", layers=[0], vocab_transform=True)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_word_embeddings_and_projection_stay_one_parameter(architecture):
    student = make(architecture)[1]
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_a_layer_that_the_teacher_lacks_is_refused():
    with pytest.raises(ValueError, match="layers has 3; there are blocks 0 to 2"):
        make("distilbert", layers=(0, 3))


def test_a_distilbert_teacher_cannot_become_a_bert():
    with pytest.raises(ValueError, match=r"architecture is 'bert', but it is made from a distilbert"):
        student_config(toy_distilbert(1).config, architecture="bert", num_layers=1)


def test_a_distilberts_configuration_has_the_teachers_sizes_and_the_published_dropout():
    teacher = BertConfig(
        vocab_size=70,
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=3,
        max_position_embeddings=33,
        hidden_act="relu",
        hidden_dropout_prob=0.3,
    )
    config = student_config(teacher, architecture="distilbert", num_layers=2)
    sizes = (config.vocab_size, config.dim, config.hidden_dim, config.n_heads, config.n_layers)
    assert sizes == (70, 24, 40, 3, 2)
    assert (config.max_position_embeddings, config.activation) == (33, "relu")
    assert (config.dropout, config.attention_dropout, config.tie_word_embeddings) == (0.1, 0.1, True)


def test_a_fresh_distilberts_positions_are_sinusoids():
    student = random_student(toy_bert(1).config, architecture="distilbert", num_layers=1, seed=0)
    weight = student.distilbert.embeddings.position_embeddings.weight
    position, column = torch.arange(40.0)[:, None], torch.arange(16)
    angle = position / 10000 ** (2 * (column // 2) / 16)
    torch.testing.assert_close(weight.detach(), torch.where(column % 2 == 0, angle.sin(), angle.cos()))


def test_a_fresh_student_depends_on_its_seed_alone():
    config = toy_bert(1).config
    first, second, third = (
        random_student(config, architecture="bert", num_layers=2, seed=seed).get_input_embeddings().weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("family", [toy_bert, toy_distilbert])
def test_freezing_takes_position_embeddings_alone_out_of_training(family):
    model = family(1)
    freeze_position_embeddings(model)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"{model.base_model_prefix}.embeddings.position_embeddings.weight"]

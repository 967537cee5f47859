"""Students of RoBERTa and of decoders; those of BERT and DistilBERT are in ``test_layer_selection``."""

import copy

import pytest
import torch
from torch.nn.functional import linear
from transformers import AutoConfig

from raydistill.layout import Layout
from raydistill.models.blocks import blocks_of
from raydistill.models.layer_selection import (
    freeze_position_embeddings,
    random_student,
    student_config,
    student_from_layers,
)
from raydistill.models.load import load_model, save_model
from toys.checkpoint import toy_tokenizer
from toys.families import DECODERS, MASKED, head_of, toy_gpt2, toy_llama, toy_qwen2, toy_roberta
from toys.models import toy_batch, toy_bert, toy_distilbert

FAMILIES = pytest.mark.parametrize("family", [toy_roberta, *DECODERS])


def make(family, layers=(2, 0), *, vocab_transform: bool = True, **options):
    teacher = family(3, dtype=torch.float32).eval()
    student = student_from_layers(
        teacher, architecture=None, layers=list(layers), vocab_transform=vocab_transform, **options
    )
    return teacher, student


@FAMILIES
@torch.no_grad()
def test_a_student_of_chosen_layers_computes_what_those_layers_do_between_embeddings_and_head(family):
    teacher, student = make(family)
    batch = toy_batch()
    mask = batch["attention_mask"]
    blocks, layout = blocks_of(teacher), Layout.of(mask, batch["token_index"])
    hidden = blocks.embed(layout.take(batch["input_ids"]), layout)
    for layer in (2, 0):
        hidden = blocks.run(hidden, layout, layer, layer + 1)
    expected = linear(blocks.head_states(hidden), *blocks.head_projection())
    logits = student(batch["input_ids"], attention_mask=mask).logits
    torch.testing.assert_close(logits[mask], expected, rtol=1e-4, atol=1e-4)
    assert student.config.num_hidden_layers == 2


@FAMILIES
@torch.no_grad()
def test_a_saved_student_loads_with_the_same_logits_and_as_many_blocks(family, tmp_path):
    _, student = make(family)
    save_model(student, toy_tokenizer(), tmp_path)
    ids = toy_batch()["input_ids"]
    assert torch.equal(load_model(tmp_path, head=head_of(family))(ids).logits, student(ids).logits)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.num_hidden_layers == 2
    assert len(getattr(config, "layer_types", None) or [0, 0]) == 2


@FAMILIES
def test_the_projection_is_tied_in_the_student_as_in_the_teacher(family):
    for model in make(family):
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert tied == model.config.tie_word_embeddings


def test_without_vocab_transform_a_robertas_is_fresh_and_drawn_from_the_seed_as_published():
    teacher, student = make(toy_roberta, vocab_transform=False)
    assert torch.equal(student.lm_head.bias, teacher.lm_head.bias)
    assert torch.equal(student.lm_head.layer_norm.weight, torch.ones(16))
    assert student.lm_head.dense.bias.count_nonzero() == 0
    assert not torch.equal(student.lm_head.dense.weight, teacher.lm_head.dense.weight)
    again = make(toy_roberta, vocab_transform=False)[1]
    assert torch.equal(student.lm_head.dense.weight, again.lm_head.dense.weight)
    assert not torch.equal(
        student.lm_head.dense.weight, make(toy_roberta, vocab_transform=False, seed=1)[1].lm_head.dense.weight
    )


def test_with_vocab_transform_all_of_a_robertas_head_is_the_teachers():
    teacher, student = make(toy_roberta)
    theirs = teacher.lm_head.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in student.lm_head.state_dict().items())


@pytest.mark.parametrize("family", [*MASKED, *DECODERS])
def test_the_default_architecture_is_the_teachers_own_but_distilbert_for_bert(family):
    teacher = family(2).config
    expected = "distilbert" if family is toy_bert else teacher.model_type
    assert student_config(teacher, architecture=None, num_layers=1).model_type == expected


@pytest.mark.parametrize(
    ("family", "architecture", "choices"),
    [
        (toy_gpt2, "llama", "gpt2"),
        (toy_roberta, "distilbert", "roberta"),
        (toy_bert, "gpt2", "distilbert, bert"),
        (toy_distilbert, "bert", "distilbert"),
    ],
)
def test_a_student_of_another_family_is_refused_with_the_choices(family, architecture, choices):
    with pytest.raises(ValueError, match=rf"student.architecture is '{architecture}', .*; choices: {choices}$"):
        student_config(family(1).config, architecture=architecture, num_layers=1)


def test_a_fresh_student_is_in_float32_whatever_the_teacher_is_stored_in():
    config = copy.deepcopy(toy_llama(2).config)
    config.dtype = torch.bfloat16
    assert random_student(config, architecture=None, num_layers=1, seed=0).dtype == torch.float32


def test_a_fresh_qwen2_may_have_more_blocks_than_its_teacher():
    student = random_student(toy_qwen2(2).config, architecture="qwen2", num_layers=3, seed=0)
    assert blocks_of(student).num_blocks == 3
    assert len(student.config.layer_types) == 3


@pytest.mark.parametrize(
    ("family", "frozen"),
    [(toy_roberta, ["roberta.embeddings.position_embeddings.weight"]), (toy_gpt2, ["transformer.wpe.weight"])],
)
def test_freezing_takes_the_table_of_positions_alone_out_of_training(family, frozen):
    model = family(1)
    freeze_position_embeddings(model)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == frozen


def test_freezing_changes_nothing_in_a_family_without_a_table_of_positions():
    model = toy_llama(1)
    freeze_position_embeddings(model)
    assert all(parameter.requires_grad for parameter in model.parameters())

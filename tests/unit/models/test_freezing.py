"""Parts of a student that are not trained, in every family."""

import pytest
from torch import nn

from raydistill.models.blocks import blocks_of
from raydistill.models.freezing import check_frozen_layers, freeze_embeddings, freeze_layers
from toys.classifiers import CLASSIFIERS
from toys.families import toy_gpt2, toy_llama, toy_mistral, toy_qwen2, toy_roberta
from toys.models import toy_bert, toy_distilbert

EMBEDDINGS = {
    toy_bert: 5,
    toy_distilbert: 4,
    toy_roberta: 5,
    toy_gpt2: 2,
    toy_llama: 1,
    toy_mistral: 1,
    toy_qwen2: 1,
}
"""Tensors of a family's embeddings: tables, and weight and bias of a norm where there is one."""
FAMILIES = pytest.mark.parametrize("family", EMBEDDINGS)


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@FAMILIES
def test_the_blocks_that_are_named_are_frozen_and_no_others(family):
    model = family(3)
    freeze_layers(model, [0, 2])
    blocks = blocks_of(model).layers
    expected = {id(parameter) for number in (0, 2) for parameter in blocks[number].parameters()}
    assert {id(parameter) for parameter in model.parameters() if not parameter.requires_grad} == expected


@FAMILIES
def test_embeddings_and_their_norm_are_frozen_and_nothing_else(family):
    model = family(1)
    freeze_embeddings(model)
    assert len(frozen(model)) == EMBEDDINGS[family], frozen(model)
    assert model.get_input_embeddings().weight.requires_grad is False


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_embeddings_are_those_of_its_family(name):
    model = CLASSIFIERS[name](1)
    freeze_embeddings(model)
    assert not model.get_input_embeddings().weight.requires_grad
    assert not any("classifier" in found or "layer" in found.split(".") for found in frozen(model))


def test_a_block_that_the_student_lacks_is_refused_in_one_line():
    check_frozen_layers([0, 1], 2)
    check_frozen_layers([], 2)
    with pytest.raises(
        ValueError, match=r"^student\.freeze_layers has 2; the student has blocks 0 to 1, choose among them$"
    ):
        freeze_layers(toy_bert(2), [0, 2])

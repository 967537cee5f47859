import pytest
import torch
from torch import nn

from raydistill.models.layer_selection import freeze_position_embeddings
from raydistill.optim.parameter_groups import GroupRule, parameter_groups
from toys.models import toy_bert, toy_distilbert

FAMILIES = pytest.mark.parametrize("family", [toy_bert, toy_distilbert])


def names(model: nn.Module, *, decayed: bool) -> set[str]:
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [group for group in parameter_groups(model, weight_decay=0.1) if (group["weight_decay"] > 0) == decayed]
    return {named[id(parameter)] for group in groups for parameter in group["params"]}


@FAMILIES
def test_every_trainable_parameter_is_in_exactly_one_group(family):
    model = family(2)
    grouped = [id(parameter) for group in parameter_groups(model, weight_decay=0.1) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@FAMILIES
def test_biases_and_norms_of_any_name_are_not_decayed_and_matrices_are(family):
    model = family(2)
    assert all(
        parameter.dim() == 1 for name, parameter in model.named_parameters() if name in names(model, decayed=False)
    )
    assert all(
        parameter.dim() == 2 for name, parameter in model.named_parameters() if name in names(model, decayed=True)
    )
    assert names(model, decayed=True) | names(model, decayed=False) == {name for name, _ in model.named_parameters()}


def test_distilberts_norms_are_not_decayed_though_the_published_names_miss_them():
    undecayed = names(toy_distilbert(1), decayed=False)
    assert {
        "distilbert.transformer.layer.0.sa_layer_norm.weight",
        "distilbert.transformer.layer.0.output_layer_norm.weight",
        "vocab_layer_norm.weight",
        "distilbert.embeddings.LayerNorm.weight",
    } <= undecayed


def test_the_given_decay_is_the_decayed_groups():
    assert [group["weight_decay"] for group in parameter_groups(toy_bert(1), weight_decay=0.1)] == [0.1, 0.0]


def test_frozen_parameters_are_in_no_group():
    model = toy_distilbert(1)
    freeze_position_embeddings(model)
    frozen = id(model.distilbert.embeddings.position_embeddings.weight)
    groups = parameter_groups(model, weight_decay=0.1)
    assert frozen not in {id(parameter) for group in groups for parameter in group["params"]}


def test_a_group_without_parameters_is_left_out():
    groups = parameter_groups(nn.Linear(2, 2, bias=False), weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.1]


def test_decay_without_gradient_shrinks_decayed_parameters_alone():
    model = toy_distilbert(1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(parameter_groups(model, weight_decay=0.5), lr=0.1).step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if name in names(model, decayed=True) else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def with_rule(rule: GroupRule) -> nn.Module:
    """A linear layer, and one under a rule."""
    model = nn.ModuleDict({"plain": nn.Linear(2, 2), "own": nn.Linear(2, 2)})
    model["own"].group_rule = rule
    return model


def by_parameter(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Weight decay and rate scale of each parameter by name."""
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        named[id(parameter)]: (group["weight_decay"], group["rate_scale"])
        for group in parameter_groups(model, weight_decay=0.1, learning_rate=2e-5)
        for parameter in group["params"]
    }


def test_a_module_with_a_rate_of_its_own_has_groups_of_its_own():
    assert by_parameter(with_rule(GroupRule(learning_rate=1e-3))) == {
        "plain.weight": (0.1, 1.0),
        "plain.bias": (0.0, 1.0),
        "own.weight": (0.1, 50.0),
        "own.bias": (0.0, 50.0),
    }


@pytest.mark.parametrize(("bias_decay", "expected"), [(1e-4, 1e-4), (None, 0.1)])
def test_a_rule_says_how_biases_decay(bias_decay, expected):
    found = by_parameter(with_rule(GroupRule(bias_decay=bias_decay)))
    assert found["own.bias"] == (expected, 1.0)
    assert found["own.weight"] == (0.1, 1.0)
    assert found["plain.bias"] == (0.0, 1.0)


def test_frozen_parameters_under_a_rule_are_in_no_group():
    model = with_rule(GroupRule(learning_rate=1e-3))
    model["own"].weight.requires_grad_(False)
    assert "own.weight" not in by_parameter(model)

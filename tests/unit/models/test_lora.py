"""Students with adapters: packed as peft runs them, trained in their adapters alone, and saved either way."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.errors import error_lines
from raydistill.config.sections import LoraConfig
from raydistill.models import adapters, checks, lora
from raydistill.models.blocks import blocks_of
from raydistill.models.load import load_model, save_model
from raydistill.models.lora import add_adapters, check_modules, merged, num_trained, save_adapter
from raydistill.models.predictions import at_labels, predict
from toys.checkpoint import toy_tokenizer
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.families import toy_gpt2
from toys.models import parameter_gradients, toy_bert, toy_distilbert
from toys.zoo import PACKED, toy
from unit.models.test_families import (
    assert_close,
    batch_of,
    of_transformers,
    padded,
    rows_for,
    rows_of,
    states_and_logits,
)

peft = pytest.importorskip("peft")
OPTIONS = LoraConfig(r=3, alpha=5)
SPREAD = 0.3


def adapted(model: Any, options: LoraConfig = OPTIONS) -> Any:
    """Adapters on a model whose second halves, which start at 0, are drawn too."""
    found = add_adapters(model, options, seed=4)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(SPREAD * noise)
    return found


@pytest.mark.parametrize("name", PACKED)
def test_packed_values_and_gradients_are_those_of_pefts_own_forward(name: str) -> None:
    model, rows = toy(name), rows_for(name)
    before = states_and_logits(model, rows)[-1].detach()
    add_adapters(model, OPTIONS)
    assert torch.equal(states_and_logits(model, rows)[-1], before)
    model = toy(name)
    adapted(model)
    results = [states_and_logits(model, rows), of_transformers(model, padded(rows, "right"))]
    for own, other in zip(*results, strict=True):
        assert_close(own, other)
    assert (results[0][-1] - before).abs().max() > 1e-2
    ours, theirs = (parameter_gradients(found[-1].square().mean(), model) for found in results)
    assert ours
    for parameter, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[parameter], rtol=1e-6, atol=1e-7, msg=parameter)


def test_a_model_that_runs_whole_takes_adapters_too() -> None:
    model, rows = toy("rembert", head="masked_lm"), rows_of(9, 14, 3)
    adapted(model)
    batch = batch_of(rows)
    logits, _ = at_labels(model, batch.with_columns(label_index=batch["token_index"]))
    assert_close(logits, of_transformers(model, padded(rows, "right"))[-1])
    assert all((".lora_" in name) == p.requires_grad for name, p in model.named_parameters())


@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_the_merged_model_is_the_plain_one_with_the_same_logits(name: str) -> None:
    model, rows = toy(name), rows_for(name)
    names, around = set(model.state_dict()), adapted(model)
    expected = states_and_logits(model, rows)[-1]
    plain = merged(around)
    assert set(plain.state_dict()) == names
    assert_close(states_and_logits(plain, rows)[-1], expected)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_adapters_and_the_head_of_a_classifier_train_and_nothing_else(kind: str) -> None:
    model = CLASSIFIERS[kind](2)
    heads = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    count = num_trained(model, OPTIONS)
    add_adapters(model, OPTIONS)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == heads
    assert sum(trained.values()) == count


@pytest.mark.parametrize("name", PACKED)
def test_the_vocabulary_projection_gets_no_adapter(name: str) -> None:
    model = toy(name)
    projection = model.get_output_embeddings()
    add_adapters(model, OPTIONS)
    assert model.get_output_embeddings() is projection
    assert blocks_of(model).head_projection()[0] in {projection.weight, None}


def test_the_count_without_values_is_that_of_the_model() -> None:
    model = toy_gpt2(2)
    options = LoraConfig(r=2, target_modules=["c_attn", "c_fc"])
    empty = checks.without_values(model.config, head="causal_lm")
    add_adapters(model, options)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert num_trained(empty, options) == trained == 2 * 2 * ((16 + 48) + (16 + 24))


def test_draws_depend_on_the_seed_alone_and_leave_the_generator() -> None:
    models = [toy_bert(1) for _ in range(3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (5, 5, 6), strict=True):
        add_adapters(model, OPTIONS, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = (
        torch.cat([p.flatten() for name, p in model.named_parameters() if ".lora_A." in name]) for model in models
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"target_modules": ["querry"]},
            "student.lora.target_modules is 'querry'; did you mean 'query'? Choices: dense, key, query, value",
        ),
        (
            {"modules_to_save": ["classifer"]},
            "student.lora.modules_to_save is 'classifer'; did you mean 'classifier'? Choices: ",
        ),
    ],
)
def test_a_name_that_matches_nothing_is_refused_with_the_closest(keys: dict[str, Any], message: str) -> None:
    model = CLASSIFIERS["bert_classes"](1)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_modules(model, LoraConfig.model_validate(keys), is_merged=True)
    assert str(caught.value).startswith(message)


def test_tied_weights_that_are_trained_whole_are_refused_in_an_adapters_file_alone() -> None:
    model, options = toy_bert(1), LoraConfig(modules_to_save=["word_embeddings"])
    check_modules(model, options, is_merged=True)
    with pytest.raises(ValueError, match=r"^student\.lora\.modules_to_save has .*, which is tied to .*save: merged$"):
        check_modules(model, options, is_merged=False)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("r", 0, "greater than or equal to 1"),
        ("r", -1, "greater than or equal to 1"),
        ("target_modules", [], "at least 1 item"),
        ("target_modules", [3], "valid string"),
        ("save", "both", "Choices: merged, adapter"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_its_key(key: str, value: Any, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        LoraConfig.model_validate({key: value})
    [line] = error_lines(caught.value)
    assert line.startswith(key)
    assert problem in line


def test_without_peft_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^student\.lora needs the library peft; pip install 'raydistill\[lora\]'$"):
        add_adapters(toy_bert(1), OPTIONS)


@pytest.mark.parametrize("kind", ["bert_classes", "distilbert_classes", "gpt2_classes", "bert_spans", "masked_lm"])
@torch.no_grad()
def test_the_file_of_an_adapter_is_read_by_peft_and_merged_to_the_same_logits(kind: str, tmp_path: Path) -> None:
    model = toy_distilbert(2, dtype=torch.float32) if kind == "masked_lm" else CLASSIFIERS[kind](2, dtype=torch.float32)
    save_model(model.eval(), toy_tokenizer(), tmp_path / "base")
    around = adapted(model)
    heads = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name]
    for name in heads:
        model.get_parameter(name).add_(0.5)
    save_adapter(around, OPTIONS, base=tmp_path / "base", folder=tmp_path / "adapter")
    assert adapters.base_of(tmp_path / "adapter") == str(tmp_path / "base")
    adapters.write_merged(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    rows = padded(rows_of(9, 14, 3), "right")
    theirs = peft.PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    plain = type(model).from_pretrained(tmp_path / "merged")
    for said in (theirs(**rows), plain(**rows)):
        torch.testing.assert_close(said.to_tuple()[0], model(**rows).to_tuple()[0], rtol=0, atol=1e-5)


def test_adapters_of_a_classifier_on_a_language_model_bring_its_head(tmp_path: Path) -> None:
    toy_bert(2, dtype=torch.float32).save_pretrained(tmp_path / "base")
    toy_tokenizer().save_pretrained(tmp_path / "base")
    model = CLASSIFIERS["bert_classes"](2, dtype=torch.float32)
    save_adapter(adapted(model), OPTIONS, base=tmp_path / "base", folder=tmp_path / "adapter")
    adapters.write_merged(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    found: Any = load_model(tmp_path / "merged", head="sequence_classification")
    assert found.config.num_labels == 3
    assert torch.equal(found.classifier.weight, model.classifier.weight)


def test_a_methods_loss_trains_adapters_alone() -> None:
    model = CLASSIFIERS["bert_classes"](2)
    untouched = copy.deepcopy(model.state_dict())
    adapted(model)
    batch = toy_labelled_batch("classes")
    logits = predict(model, batch, head="sequence_classification").logits
    logits.square().mean().backward()
    frozen = {name.replace(".base_layer", ""): p for name, p in model.named_parameters() if not p.requires_grad}
    assert all(p.grad is None and torch.equal(p, untouched[name]) for name, p in frozen.items())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

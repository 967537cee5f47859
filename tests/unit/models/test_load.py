import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from raydistill.models.layer_selection import freeze_position_embeddings
from raydistill.models.load import load_config, load_model, load_tokenizer, save_model, with_dropout
from toys.checkpoint import toy_tokenizer
from toys.classifiers import toy_classifier
from toys.families import DECODERS, MASKED, head_of, toy_gpt2
from toys.models import toy_batch, toy_bert, toy_distilbert

FAMILIES = pytest.mark.parametrize("family", [*MASKED, *DECODERS])
PLAIN_LOADER = """
import sys, torch, transformers
from transformers import AutoTokenizer
model = getattr(transformers, sys.argv[2]).from_pretrained(sys.argv[1])
ids = torch.tensor([AutoTokenizer.from_pretrained(sys.argv[1])("w9 w17 w30")["input_ids"]])
print(model.eval()(ids).logits.double().sum().item())
assert not [name for name in sys.modules if name.startswith("raydistill")]
"""


def save(folder: Path, family=toy_bert) -> Path:
    save_model(family(2, dropout=0.3, dtype=torch.float32), toy_tokenizer(), folder)
    return folder


def edit_weights(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


@FAMILIES
@torch.no_grad()
def test_a_saved_model_comes_back_in_evaluation_mode_with_the_same_logits(tmp_path, family):
    model, batch = family(2, dtype=torch.float32).eval(), toy_batch()
    save_model(model, toy_tokenizer(), tmp_path)
    loaded = load_model(tmp_path, head=head_of(family))
    assert not loaded.training
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@FAMILIES
def test_a_loaded_models_projection_is_tied_as_the_saved_ones(tmp_path, family):
    for model in (family(1, dtype=torch.float32), load_model(save(tmp_path, family), head=head_of(family))):
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("family", [toy_distilbert, toy_gpt2])
def test_a_saved_student_gives_its_logits_in_a_process_of_plain_transformers(tmp_path, family):
    save(tmp_path, family)
    auto_class = {"masked_lm": "AutoModelForMaskedLM", "causal_lm": "AutoModelForCausalLM"}[head_of(family)]
    ids = torch.tensor([load_tokenizer(tmp_path)("w9 w17 w30")["input_ids"]])
    with torch.no_grad():
        expected = load_model(tmp_path, head=head_of(family))(ids).logits.double().sum().item()
    command = [sys.executable, "-c", PLAIN_LOADER, str(tmp_path), auto_class]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-5)


@FAMILIES
def test_dropout_of_the_checkpoint_is_kept_or_replaced_everywhere(tmp_path, family):
    save(tmp_path, family)
    for wanted, expected in ((None, 0.3), (0.0, 0.0), (0.05, 0.05)):
        model = load_model(tmp_path, head=head_of(family), dropout=wanted)
        rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        rates |= {module.attention_dropout for module in model.modules() if hasattr(module, "attention_dropout")}
        assert rates == {expected}


@pytest.mark.parametrize(
    ("family", "head", "message"),
    [
        (toy_gpt2, "masked_lm", r"is a gpt2 model; a masked_lm head works with: albert, bert, "),
        (toy_bert, "causal_lm", r"is a bert model; a causal_lm head works with: gemma2, gemma3_text, "),
    ],
)
def test_a_family_without_the_head_is_refused(tmp_path, family, head, message):
    with pytest.raises(ValueError, match=message):
        load_model(save(tmp_path, family), head=head)


def test_a_family_that_is_refused_as_configured_is_refused_before_its_weights_are_read(tmp_path):
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    with pytest.raises(ValueError, match="is_decoder is true"):
        load_model(tmp_path, head="masked_lm")


@pytest.mark.parametrize("kind", ["sequence_classification", "token_classification", "question_answering"])
@pytest.mark.parametrize("family", MASKED)
def test_dropout_that_a_head_has_of_its_own_is_replaced_too(tmp_path, family, kind):
    save_model(toy_classifier(family, 1, head=kind, dropout=0.3, dtype=torch.float32), toy_tokenizer(), tmp_path)
    model = load_model(tmp_path, head=kind, dropout=0.0)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_replacing_dropout_leaves_the_configuration_alone():
    config = toy_bert(1, dropout=0.3).config
    assert with_dropout(config, 0.0).hidden_dropout_prob == 0.0
    assert config.hidden_dropout_prob == 0.3


def test_weights_load_in_the_asked_dtype(tmp_path):
    assert load_model(save(tmp_path), head="masked_lm", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_names_of_old_checkpoints_load(tmp_path):
    save(tmp_path)
    expected = load_model(tmp_path, head="masked_lm").state_dict()

    def old_names(tensors):
        norms = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        return {next((n.replace(a, b) for a, b in norms.items() if a in n), n): t for n, t in tensors.items()}

    edit_weights(tmp_path, old_names)
    assert any(name.endswith("gamma") for name in load_file(tmp_path / "model.safetensors"))
    loaded = load_model(tmp_path, head="masked_lm").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_missing_head_is_refused_unless_a_new_one_is_asked_for(tmp_path):
    save(tmp_path)
    edit_weights(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("cls.")})
    with pytest.raises(ValueError, match=r"lacks cls\.predictions.*write head: new"):
        load_model(tmp_path, head="masked_lm")
    assert load_model(tmp_path, head="masked_lm", allow_new_head=True) is not None


def test_a_new_head_is_the_same_on_every_load(tmp_path):
    save(tmp_path)
    edit_weights(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("cls.")})
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = load_model(tmp_path, head="masked_lm", allow_new_head=True)
        heads.append(model.cls.predictions.transform.dense.weight)
    assert torch.equal(*heads)
    assert heads[0].std() > 0


def test_an_encoder_saved_without_a_head_and_its_prefix_takes_a_new_head(tmp_path):
    model = toy_bert(2, dtype=torch.float32)
    model.bert.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, head="masked_lm", allow_new_head=True)
    assert torch.equal(
        loaded.bert.encoder.layer[1].output.dense.weight, model.bert.encoder.layer[1].output.dense.weight
    )


def test_a_missing_weight_of_the_encoder_is_refused_even_when_a_new_head_is_asked_for(tmp_path):
    save(tmp_path)
    edit_weights(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if "layer.1.output.dense.bias" not in n})
    with pytest.raises(ValueError, match=r"lacks bert\.encoder\.layer\.1\.output\.dense\.bias"):
        load_model(tmp_path, head="masked_lm", allow_new_head=True)


def test_weights_of_another_shape_than_the_configuration_are_refused(tmp_path):
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 20}))
    with pytest.raises(ValueError, match=r"intermediate.dense.bias of shape \(24,\), its config.json says \(20,\)"):
        load_model(tmp_path, head="masked_lm")


def test_a_pickled_checkpoint_is_not_opened(tmp_path):
    save(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no \.safetensors file; raydistill convert"):
        load_model(tmp_path, head="masked_lm")


def test_code_beside_a_checkpoint_is_not_run(tmp_path):
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    foreign = {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config", "AutoModelForMaskedLM": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **foreign}))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="is not a checkpoint that transformers knows"):
        load_config(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_loading_logs_no_table_and_leaves_the_verbosity_alone(tmp_path):
    save(tmp_path)
    edit_weights(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("cls.")})
    records: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = records.append
    logger, verbosity = logging.getLogger("transformers"), transformers_logging.get_verbosity()
    logger.addHandler(listener)
    try:
        load_model(tmp_path, head="masked_lm", allow_new_head=True)
    finally:
        logger.removeHandler(listener)
    assert records == []
    assert transformers_logging.get_verbosity() == verbosity


def test_loading_forgets_frozen_positions_and_freezing_again_works(tmp_path):
    model = toy_distilbert(1, dtype=torch.float32)
    freeze_position_embeddings(model)
    save_model(model, toy_tokenizer(), tmp_path)
    loaded = load_model(tmp_path, head="masked_lm")
    positions = loaded.distilbert.embeddings.position_embeddings.weight
    assert torch.equal(positions, model.distilbert.embeddings.position_embeddings.weight)
    freeze_position_embeddings(loaded)
    assert not positions.requires_grad


def test_a_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not a checkpoint: it has no config\.json"):
        load_config(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    toy_bert(1, dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer; add its tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_an_unknown_head_is_refused_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match=r"head is 'ner'; choices: causal_lm, masked_lm"):
        load_model(save(tmp_path), head="ner")

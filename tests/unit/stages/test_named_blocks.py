"""A reference to a model that runs whole names its list of blocks."""

import pytest
import torch

from raydistill.config.sections import ModelRef
from raydistill.models.blocks import blocks_of
from raydistill.models.blocks.generic import blocks_in
from raydistill.models.load import load_config, load_model, save_model
from raydistill.stages import _models
from raydistill.stages._base import Input, ModelFacts
from toys.checkpoint import toy_tokenizer
from toys.zoo import toy


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    save_model(toy("rembert", head="masked_lm").float(), toy_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def named(folder, blocks):
    return ModelRef(checkpoint=str(folder), blocks=blocks)


def test_the_model_that_is_loaded_has_the_named_list_and_the_same_weights(folder):
    found = _models.resolve(named(folder, "encoder.layer"), {})
    model, own = (load_model(place, head="masked_lm") for place in (found, folder))
    assert model.config.raydistill_blocks == "encoder.layer"
    assert blocks_in(model) == "rembert.encoder.layer"
    assert len(blocks_of(model).layers) == 3
    assert all(map(torch.equal, model.state_dict().values(), own.state_dict().values()))
    assert not hasattr(load_config(folder), "raydistill_blocks")


def test_the_same_folder_is_given_until_the_checkpoint_changes(folder):
    first = _models.resolve(named(folder, "encoder.layer"), {})
    assert _models.resolve(named(folder, "encoder.layer"), {}) == first
    save_model(toy("rembert", head="masked_lm", seed=1).float(), toy_tokenizer(), folder)
    assert _models.resolve(named(folder, "encoder.layer"), {}) != first


def test_a_name_that_is_none_is_refused_with_those_that_there_are(folder):
    with pytest.raises(ValueError, match=r"teachers\.0: .* is 'encoder\.layers', which .* it has encoder\.layer$"):
        _models.model_of("teachers.0", named(folder, "encoder.layers"), {})


def test_a_model_that_runs_in_parts_needs_none(folder, tmp_path):
    save_model(toy("bert").float(), toy_tokenizer(), tmp_path / "bert")
    with pytest.raises(ValueError, match=r"blocks is 'encoder\.layer', but a bert runs in parts and needs none"):
        _models.model_of("teachers.0", named(tmp_path / "bert", "encoder.layer"), {})


def test_a_model_that_an_earlier_stage_will_make_is_planned_with_the_name(folder):
    facts = ModelFacts({"": load_config(folder)}, "hash", ())
    found = _models.model_of(
        "teachers.0", ModelRef(checkpoint="teacher", blocks="encoder.layer"), {"teacher": Input(facts=facts)}
    )
    assert found.config.raydistill_blocks == "encoder.layer"
    assert not hasattr(facts.configs[""], "raydistill_blocks")

"""The longest row that a corpus's models have positions for, as the preflight and binarize find it."""

import json

import pytest
from transformers import BertConfig, GPT2Config, RobertaConfig

from raydistill.config.named import EncodingSpec
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus_building import _longest
from raydistill.models.load import load_tokenizer
from raydistill.stages.binarize import Config, Stage
from toys.checkpoint import toy_tokenizer

MODELS = [
    (BertConfig(max_position_embeddings=33), 33),
    (RobertaConfig(max_position_embeddings=36, pad_token_id=1), 34),
    (GPT2Config(n_positions=35), 35),
]


@pytest.mark.parametrize(("model", "longest"), MODELS)
def test_the_longest_row_is_what_the_model_has_positions_for(tmp_path, model, longest):
    toy_tokenizer().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    encoding = EncodingSpec.parse({"name": "mlm"})
    assert _longest(encoding, load_tokenizer(tmp_path), tmp_path) == longest
    config = {"kind": "binarize", "tokenizer": str(tmp_path), "source": {"name": "text", "path": "a.txt"}}
    forecast = Stage("corpus", Config.model_validate(config)).plan(ScalingConfig(), {})
    assert forecast.makes.max_length == longest
    longer = Config.model_validate({**config, "encoding": {"name": "mlm", "max_length": longest + 1}})
    with pytest.raises(ValueError, match=rf"max_length is {longest + 1}; .* at most {longest}"):
        Stage("corpus", longer).plan(ScalingConfig(), {})


@pytest.mark.parametrize("beside", [None, {"model_type": "martian"}, {"model_type": "vit"}])
def test_a_tokenizer_needs_no_model_that_is_known_here(tmp_path, beside):
    toy_tokenizer().save_pretrained(tmp_path)
    if beside is not None:
        (tmp_path / "config.json").write_text(json.dumps(beside))
    encoding = {"name": "mlm", "max_length": 30}
    config = {"kind": "binarize", "tokenizer": str(tmp_path), "source": {"name": "text", "path": "a.txt"}}
    forecast = Stage("corpus", Config.model_validate({**config, "encoding": encoding})).plan(ScalingConfig(), {})
    assert (forecast.makes.max_length, forecast.makes.vocab_size) == (30, 61)
    unlimited = EncodingSpec.parse({"name": "mlm"})
    with pytest.raises(ValueError, match="the tokenizer states no limit; give it"):
        _longest(unlimited, load_tokenizer(tmp_path), tmp_path)

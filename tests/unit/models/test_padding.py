"""How classifiers pad is settled when they are saved, and refused where transformers would read padding."""

import pytest
from transformers import PreTrainedTokenizerFast

from raydistill.models.padding import check_padding_side, write_padding
from toys.checkpoint import toy_tokenizer
from toys.classifiers import toy_classifier
from toys.families import DECODERS, MASKED, head_of, toy_gpt2

HEAD = "sequence_classification"
WORD = 9
FAMILIES = (*DECODERS, *MASKED)


def config_of(family, pad_id=WORD):
    config = toy_classifier(family, 1).config
    config.pad_token_id = pad_id
    return config


@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_get_a_tokenizer_that_pads_on_the_right_and_decoders_its_padding_id(family):
    config, tokenizer = config_of(family), toy_tokenizer()
    tokenizer.padding_side = "left"
    write_padding(config, tokenizer, head=HEAD)
    assert tokenizer.padding_side == "right"
    assert config.pad_token_id == (tokenizer.pad_token_id if family in DECODERS else WORD)


def test_the_side_is_saved_also_where_a_tokenizers_class_pads_on_the_left(tmp_path):
    class Left(PreTrainedTokenizerFast):
        padding_side = "left"

    tokenizer = Left(tokenizer_object=toy_tokenizer().backend_tokenizer, pad_token="[PAD]")
    assert tokenizer.padding_side == "left"
    write_padding(config_of(toy_gpt2), tokenizer, head=HEAD)
    tokenizer.save_pretrained(tmp_path)
    assert Left.from_pretrained(tmp_path).padding_side == "right"


def test_a_decoder_whose_tokenizer_has_no_padding_token_keeps_its_padding_id():
    config, tokenizer = config_of(toy_gpt2), toy_tokenizer()
    tokenizer.pad_token = None
    write_padding(config, tokenizer, head=HEAD)
    assert config.pad_token_id == WORD


def test_language_models_keep_their_padding():
    config, tokenizer = toy_gpt2(1).config, toy_tokenizer()
    tokenizer.padding_side = "left"
    write_padding(config, tokenizer, head="causal_lm")
    assert (tokenizer.padding_side, config.pad_token_id) == ("left", None)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_left_is_refused_where_transformers_reads_such_rows_otherwise(family):
    config = config_of(family)
    check_padding_side("teachers.0", config, "right", head=HEAD)
    check_padding_side("teachers.0", config, "left", head=head_of(family))
    if config.model_type in ("llama", "mistral", "qwen2"):
        check_padding_side("teachers.0", config, "left", head=HEAD)
        return
    with pytest.raises(
        ValueError, match=rf'teachers\.0 is a {config.model_type} whose .* write "padding_side": "right" in its'
    ):
        check_padding_side("teachers.0", config, "left", head=HEAD)

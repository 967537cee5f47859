import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, RobertaConfig

from raydistill.models.checks import check_layers, max_length, missing_head, num_parameters
from raydistill.models.layer_selection import freeze_position_embeddings, student_config
from raydistill.models.load import load_model, model_class, save_model
from toys.checkpoint import toy_tokenizer
from toys.families import DECODERS, MASKED, head_of, toy_gpt2, toy_qwen2
from toys.models import toy_bert

FAMILIES = pytest.mark.parametrize("family", [*MASKED, *DECODERS])


def bert_base_student(num_layers: int):
    return student_config(BertConfig(), architecture="distilbert", num_layers=num_layers)


@pytest.mark.parametrize(("num_layers", "published"), [(3, 45_721_914), (6, 66_985_530), (9, 88_249_146)])
def test_students_of_bert_base_have_the_published_numbers_of_parameters(num_layers, published):
    assert num_parameters(bert_base_student(num_layers), head="masked_lm") == published


def test_frozen_positions_take_the_published_number_out_of_training():
    with torch.device("meta"):
        model = model_class("masked_lm").from_config(bert_base_student(3))
    freeze_position_embeddings(model)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == 45_721_914 - 393_216


@pytest.mark.parametrize(
    ("config", "head", "published"),
    [
        (GPT2Config(), "causal_lm", 124_439_808),
        (RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1), "masked_lm", 124_697_433),
        (LlamaConfig(), "causal_lm", 6_738_415_616),
    ],
)
def test_models_of_published_sizes_have_the_published_numbers_of_parameters(config, head, published):
    assert num_parameters(config, head=head) == published


@FAMILIES
def test_the_count_is_that_of_the_built_model(family):
    model = family(2)
    assert num_parameters(model.config, head=head_of(family)) == sum(p.numel() for p in model.parameters())


@FAMILIES
def test_a_saved_model_lacks_no_tensor_of_its_head(family, tmp_path):
    save_model(family(1, dtype=torch.float32), toy_tokenizer(), tmp_path)
    assert missing_head(tmp_path, head=head_of(family)) == []


@FAMILIES
def test_a_model_without_its_head_lacks_it_and_the_loader_agrees_unless_all_of_it_is_tied(family, tmp_path):
    model = family(1, dtype=torch.float32).eval()
    model.base_model.save_pretrained(tmp_path)
    if family in (toy_gpt2, toy_qwen2):
        assert missing_head(tmp_path, head="causal_lm") == []
        loaded = load_model(tmp_path, head="causal_lm").state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
        return
    assert missing_head(tmp_path, head=head_of(family))
    with pytest.raises(ValueError, match="write head: new"):
        load_model(tmp_path, head=head_of(family))


def test_a_robertas_longest_row_is_shorter_than_its_table_of_positions():
    assert max_length(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert max_length(GPT2Config(n_positions=77)) == 77


def test_a_folder_without_weights_is_refused(tmp_path):
    toy_bert(1).config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no \.safetensors file"):
        missing_head(tmp_path, head="masked_lm")


def test_a_family_without_the_head_is_refused_with_the_choices(tmp_path):
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="is a gpt2 model; a masked_lm head works with: albert, bert, "):
        missing_head(tmp_path, head="masked_lm")


def test_a_layer_outside_the_teacher_is_refused_with_its_range():
    check_layers([0, 5], 6, key="student.layers")
    for layers in ([0, 6], [-1]):
        with pytest.raises(ValueError, match=rf"student.layers has {layers[-1]}; there are blocks 0 to 5"):
            check_layers(layers, 6, key="student.layers")


def test_an_empty_list_of_layers_is_refused():
    with pytest.raises(ValueError, match=r"student.layers is empty"):
        check_layers([], 6, key="student.layers")

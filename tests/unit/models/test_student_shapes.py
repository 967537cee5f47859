"""Configurations of students of another shape, or of another family, than their teacher."""

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, Qwen2Config

from raydistill.layout import Layout
from raydistill.models.blocks import blocks_of, family_of
from raydistill.models.classes import with_classes
from raydistill.models.layer_selection import fresh_student
from raydistill.models.load import load_model, save_model
from raydistill.models.student_shapes import shaped_config
from toys.checkpoint import toy_tokenizer
from toys.families import toy_llama
from toys.models import VOCABULARY, toy_batch, toy_bert

MLM, CLM, CLASSES = "masked_lm", "causal_lm", "sequence_classification"
TINYBERT = {"hidden_size": 312, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1200}
MINILM = BertConfig(
    hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, pad_token_id=3
)
SMOL = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, vocab_size=99)
SMALL = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 20}


def test_given_keys_replace_the_teachers_and_all_others_are_the_teachers():
    made = shaped_config(MINILM, TINYBERT, head=MLM).to_dict()
    assert made == {**MINILM.to_dict(), **TINYBERT}


def test_heads_of_a_decoder_keep_their_width_by_the_new_sizes_and_its_groups_are_the_teachers():
    made = shaped_config(SMOL, {"hidden_size": 48, "num_attention_heads": 2}, head=CLM)
    assert (made.head_dim, made.num_key_value_heads, made.num_hidden_layers) == (24, 2, 3)
    assert shaped_config(SMOL, {"hidden_size": 48, "head_dim": 16}, head=CLM).head_dim == 16


def test_a_teacher_without_groups_gives_a_student_without_groups():
    plain = LlamaConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=3)
    assert shaped_config(plain, {"num_attention_heads": 2}, head=CLM).num_key_value_heads == 2


def test_kinds_of_blocks_are_as_many_as_the_students_blocks():
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    teacher = Qwen2Config(num_hidden_layers=3, layer_types=kinds, use_sliding_window=True, sliding_window=8)
    made = shaped_config(teacher, {"num_hidden_layers": 2}, head=CLM)
    assert made.layer_types == kinds[:2]


def test_a_family_takes_common_names_and_its_own():
    gpt2 = GPT2Config(n_embd=64, n_head=4, n_layer=2)
    common = shaped_config(gpt2, {"hidden_size": 48, "num_attention_heads": 3}, head=CLM)
    own = shaped_config(gpt2, {"n_embd": 48, "n_head": 3}, head=CLM)
    assert common.to_dict() == own.to_dict()
    assert (own.n_embd, own.n_head, own.n_layer) == (48, 3, 2)


@pytest.mark.parametrize(
    "model_type", ["electra", "albert", "roberta", "distilbert", "mpnet", "modernbert", "roformer"]
)
def test_an_encoder_of_another_family_has_the_teachers_vocabulary_special_ids_and_classes(model_type):
    teacher = with_classes(MINILM, ["red", "green", "blue"])
    made = shaped_config(teacher, {"model_type": model_type, "num_hidden_layers": 2}, head=CLASSES)
    assert (made.model_type, made.vocab_size, made.num_hidden_layers) == (model_type, MINILM.vocab_size, 2)
    assert made.id2label == {0: "red", 1: "green", 2: "blue"}
    special = {key: value for key, value in made.to_dict().items() if key.endswith("_token_id")}
    assert special == {key: getattr(teacher, key, None) for key in special}
    assert made.pad_token_id == 3


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3", "opt"])
def test_a_decoder_of_another_family_has_the_teachers_vocabulary_and_special_ids(model_type):
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    made = shaped_config(SMOL, {"model_type": model_type, **sizes}, head=CLM)
    assert (made.model_type, made.vocab_size, made.hidden_size) == (model_type, 99, 24)
    assert (made.bos_token_id, made.eos_token_id, made.pad_token_id) == (1, 2, None)


@pytest.mark.parametrize(
    ("teacher", "shape", "message"),
    [
        (MINILM, {"hiden_size": 312}, r"config of a bert: key is 'hiden_size'; did you mean 'hidden_size'\? Choices"),
        (
            MINILM,
            {"hidden_size": 310},
            "config.hidden_size is 310, which num_attention_heads, 12, do not divide; write 312",
        ),
        (MINILM, {"hidden_size": "312"}, "config describes no bert: .*'hidden_size' expected int, got str"),
        (MINILM, {"num_attention_heads": 0}, "config.num_attention_heads is 0; give at least 1"),
        (MINILM, {"num_hidden_layers": 0}, "config.num_hidden_layers is 0; give a number of blocks"),
        (MINILM, {"vocab_size": 9}, "config.vocab_size is 9, but tokens and classes are those of the teacher"),
        (MINILM, {"pad_token_id": 0}, "config.pad_token_id is 0, but tokens and classes are those of the teacher"),
        (MINILM, {"is_decoder": True}, "config of a bert: key is 'is_decoder'"),
        (MINILM, {"hidden_act": "gelo"}, "config describes no bert: .*gelo"),
        (MINILM, {"model_type": "electr"}, r"config.model_type is 'electr'; did you mean 'electra'\? Choices: albert"),
        (MINILM, {"model_type": "llama"}, "config.model_type is 'llama'; Choices: albert"),
        (MINILM, {"model_type": "bart"}, "config.model_type is 'bart', an encoder-decoder"),
        (SMOL, {"num_attention_heads": 3, "hidden_size": 48}, "config.num_key_value_heads is 2, which does not divide"),
        (GPT2Config(), {"n_embd": 48, "hidden_size": 48}, "config has hidden_size and n_embd, two names of one key"),
    ],
)
def test_a_shape_that_no_model_has_is_refused_in_one_line_that_names_the_key(teacher, shape, message):
    with pytest.raises(ValueError, match=rf"^{message}") as error:
        shaped_config(teacher, shape, head=CLM if teacher.model_type in ("llama", "gpt2") else MLM)
    assert "\n" not in str(error.value)


def test_two_depths_are_refused():
    with pytest.raises(ValueError, match=r"config.num_hidden_layers is 2, but num_layers or layers say 3"):
        shaped_config(MINILM, {"num_hidden_layers": 2}, head=MLM, num_layers=3)


@pytest.mark.parametrize(
    ("teacher", "model_type"),
    [(toy_bert, "bert"), (toy_bert, "electra"), (toy_bert, "albert"), (toy_llama, "llama"), (toy_llama, "gpt_neox")],
)
@torch.no_grad()
def test_a_saved_student_of_another_shape_loads_and_runs_in_parts_as_in_transformers(teacher, model_type, tmp_path):
    head = MLM if teacher is toy_bert else CLM
    config = shaped_config(teacher(1).config, {"model_type": model_type, **SMALL}, head=head)
    student = fresh_student(config, seed=1, head=head)
    save_model(student, toy_tokenizer(), tmp_path)
    loaded = load_model(tmp_path, head=head)
    batch = toy_batch()
    logits = loaded(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.shape[-1] == VOCABULARY
    layout, blocks = Layout.of(batch["attention_mask"], batch["token_index"]), blocks_of(loaded)
    assert family_of(loaded.config, head).IN_PARTS
    states, _ = blocks.forward(layout.take(batch["input_ids"]), layout)
    rows = blocks.head_rows(states, torch.arange(len(states)))
    expected = torch.nn.functional.linear(rows, *blocks.head_projection())
    torch.testing.assert_close(logits[batch["attention_mask"]], expected, rtol=1e-4, atol=1e-4)


def test_a_fresh_student_is_drawn_from_its_seed_alone():
    config = shaped_config(toy_bert(1).config, SMALL, head=MLM)
    first, again, other = (fresh_student(config, seed=seed, head=MLM) for seed in (1, 1, 2))
    weights = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])

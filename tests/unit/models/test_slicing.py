"""Students that are cut out of their teachers."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu

from raydistill.models.importance import Scores
from raydistill.models.slicing import sliced_student
from toys.zoo import PACKED, toy

HALF = {"hidden_size": 8, "num_attention_heads": 1}
"""Of toys, whose two heads are 8 wide."""
WITH_HEAD_DIM = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text")
NEURONS = {"distilbert": "hidden_dim", "gpt2": "n_inner", "opt": "ffn_dim"}
DOWN = ("ffn.lin2", ".ffn_output", "mlp.Wo", "mlp.c_proj", "down_proj", "fc2", "dense_4h_to_h", ".output.dense")
IDS = torch.tensor([[7, 9, 30, 4, 22, 11, 8, 50], [12, 40, 5, 6, 33, 21, 9, 10]])


def model_of(name, **changes):
    one_group = {"num_hidden_groups": 1} if name == "albert" else {}
    return toy(name, **one_group, **changes).float()


@torch.no_grad()
def logits(model):
    return model(IDS, attention_mask=torch.ones_like(IDS)).logits


@pytest.mark.parametrize("name", PACKED)
def test_sliced_to_its_own_shape_a_student_is_its_teacher_bit_for_bit(name):
    teacher = model_of(name)
    student = sliced_student(teacher, {"hidden_size": 16, "num_attention_heads": 2})
    theirs = teacher.state_dict()
    assert student.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in student.state_dict().items())
    assert torch.equal(logits(student), logits(teacher))


@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_a_student_with_some_neurons_is_the_teacher_whose_other_neurons_say_nothing(name):
    teacher = model_of(name)
    student = sliced_student(teacher, {NEURONS.get(name, "intermediate_size"): 10})
    for module_name, module in teacher.named_modules():
        if module_name.endswith(DOWN) and "attention" not in module_name:
            (module.weight if name == "gpt2" else module.weight.T)[10:] = 0
    torch.testing.assert_close(logits(student), logits(teacher), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in teacher.parameters())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", WITH_HEAD_DIM)
@torch.no_grad()
def test_with_grouped_queries_whole_groups_are_kept_and_of_each_leading_heads(name, groups):
    teacher = model_of(name, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    kept = {1: (0, 1), 2: (0, 2)}[groups]
    student = sliced_student(teacher, {"num_attention_heads": 2, "num_key_value_heads": groups, "head_dim": 8})
    for layer in teacher.model.layers:
        columns = layer.self_attn.o_proj.weight.unflatten(1, (4, 8))
        columns[:, [head for head in range(4) if head not in kept]] = 0
    torch.testing.assert_close(logits(student), logits(teacher), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_narrower_bert_computes_by_hand_what_its_share_of_the_teachers_weights_says():
    teacher = model_of("bert")
    student = sliced_student(teacher, {"hidden_size": 12, "intermediate_size": 10}, layers=[2, 0])
    w = {key.removeprefix("bert."): tensor for key, tensor in teacher.state_dict().items()}
    # Two heads of 8, of each the first 6.
    rows = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]

    def norm(states, name):
        return layer_norm(states, (12,), w[f"{name}.weight"][:12], w[f"{name}.bias"][:12], eps=1e-12)

    def dense(states, name, outputs, inputs):
        return linear(states, w[f"{name}.weight"][outputs][:, inputs], w[f"{name}.bias"][outputs])

    hidden, neurons = list(range(12)), list(range(10))
    embedded = [w[f"embeddings.{kind}_embeddings.weight"][:, :12] for kind in ("word", "position", "token_type")]
    states = norm(embedded[0][IDS] + embedded[1][: IDS.shape[1]] + embedded[2][0], "embeddings.LayerNorm")
    for layer in (2, 0):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            dense(states, f"{at}.attention.self.{name}", rows, hidden).unflatten(-1, (2, 6)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        heads = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        states = norm(
            states + dense(heads, f"{at}.attention.output.dense", hidden, rows), f"{at}.attention.output.LayerNorm"
        )
        made = gelu(dense(states, f"{at}.intermediate.dense", neurons, hidden))
        states = norm(states + dense(made, f"{at}.output.dense", hidden, neurons), f"{at}.output.LayerNorm")
    transformed = norm(
        gelu(dense(states, "cls.predictions.transform.dense", hidden, hidden)), "cls.predictions.transform.LayerNorm"
    )
    expected = linear(transformed, w["cls.predictions.decoder.weight"][:, :12], w["cls.predictions.bias"])
    torch.testing.assert_close(logits(student), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_narrower_llama_computes_by_hand_what_its_share_of_the_teachers_weights_says():
    teacher = model_of("llama")
    student = sliced_student(
        teacher, {"hidden_size": 10, "num_attention_heads": 1, "head_dim": 8, "intermediate_size": 9}
    )
    w = {key.removeprefix("model."): tensor for key, tensor in teacher.state_dict().items()}

    def norm(states, name):
        return torch.nn.functional.rms_norm(states, (10,), w[f"{name}.weight"][:10], eps=teacher.config.rms_norm_eps)

    states = w["embed_tokens.weight"][IDS][..., :10]
    angles = torch.arange(IDS.shape[1])[:, None] / 10000 ** (torch.arange(4) / 4)

    def turned(x):
        first, second = x[..., :4], x[..., 4:]
        return torch.cat(
            [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1
        )

    for layer in range(3):
        at, normed = f"layers.{layer}", norm(states, f"layers.{layer}.input_layernorm")
        q, k, v = (linear(normed, w[f"{at}.self_attn.{name}_proj.weight"][:8, :10]) for name in "qkv")
        heads = scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        states = states + linear(heads, w[f"{at}.self_attn.o_proj.weight"][:10, :8])
        normed = norm(states, f"{at}.post_attention_layernorm")
        gate, up = (linear(normed, w[f"{at}.mlp.{name}_proj.weight"][:9, :10]) for name in ("gate", "up"))
        states = states + linear(silu(gate) * up, w[f"{at}.mlp.down_proj.weight"][:10, :9])
    expected = linear(norm(states, "norm"), w["lm_head.weight"][:, :10])
    torch.testing.assert_close(logits(student), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PACKED)
def test_a_student_of_half_the_width_and_heads_runs_in_every_family(name):
    changes = {"head_dim": 8} if name in WITH_HEAD_DIM else {}
    student = sliced_student(model_of(name), {**HALF, **changes})
    assert student.config.hidden_size == 8
    assert logits(student).isfinite().all()


@pytest.mark.parametrize(
    ("name", "module", "share"),
    [
        ("gpt2", "transformer.h.1.attn.c_attn", lambda w: w.reshape(16, 3, 2, 8)[:8, :, :1].reshape(8, 24)),
        ("modernbert", "model.layers.1.attn.Wqkv", lambda w: w.reshape(3, 2, 8, 16)[:, :1, :, :8].reshape(24, 8)),
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value", lambda w: w.reshape(2, 24, 16)[0, :, :8]),
        ("phi3", "model.layers.1.self_attn.qkv_proj", lambda w: torch.cat([w[:8], w[16:24], w[24:]])[:, :8]),
    ],
)
def test_of_query_key_and_value_in_one_matrix_each_is_cut_by_itself(name, module, share):
    teacher = model_of(name)
    own = sliced_student(teacher, HALF).get_submodule(module).weight
    assert torch.equal(own, share(teacher.get_submodule(module).weight))


def test_the_units_with_the_highest_scores_are_kept_in_their_order():
    teacher = model_of("roberta", num_hidden_layers=2)
    scores = Scores(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.stack([torch.arange(24.0), -torch.arange(24.0)]))
    student = sliced_student(teacher, {**HALF, "intermediate_size": 5}, scores=scores)
    for block, heads, neurons in ((0, slice(8, 16), slice(19, 24)), (1, slice(8), slice(5))):
        own, theirs = (model.roberta.encoder.layer[block] for model in (student, teacher))
        assert torch.equal(own.attention.self.value.weight, theirs.attention.self.value.weight[heads, :8])
        assert torch.equal(own.attention.output.dense.weight, theirs.attention.output.dense.weight[:8, heads])
        assert torch.equal(own.intermediate.dense.bias, theirs.intermediate.dense.bias[neurons])
        assert torch.equal(own.output.dense.weight, theirs.output.dense.weight[:8, neurons])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "bert",
            {"model_type": "electra"},
            "config.model_type is 'electra', but a student is sliced .*, bert; write init",
        ),
        (
            "bert",
            {"num_attention_heads": 1},
            "config gives heads that are 16 wide, the teacher's are 8; lower hidden_size",
        ),
        ("bert", {"num_attention_heads": 4}, "config has 4 attention heads, the teacher 2; keep at most as many"),
        ("bert", {"hidden_size": 32, "num_attention_heads": 4}, "config has 4 attention heads, the teacher 2"),
        (
            "bert",
            {"intermediate_size": 25},
            r"config has .*intermediate.dense.weight of shape \(25, 16\), .* \(24, 16\)",
        ),
        ("bert", {"hiden_size": 8}, "config of a bert: key is 'hiden_size'; did you mean 'hidden_size'"),
        (
            "llama",
            {"hidden_size": 8, "head_dim": 4},
            "config gives heads that are 4 wide, but rotary positions go with",
        ),
        ("gpt_neox", {"hidden_size": 8}, "config gives heads that are 4 wide, but rotary positions go with"),
        ("llama", {"num_key_value_heads": 2}, "config has 2 groups of 1 heads, the teacher 1 groups of 2; choose"),
        ("electra", {"embedding_size": 16}, "config has electra.embeddings.* of shape"),
        ("roberta", {"max_position_embeddings": 50}, "position_embeddings.weight of shape"),
    ],
)
def test_a_shape_that_cannot_be_cut_out_of_the_teacher_is_refused_in_one_line(name, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        sliced_student(model_of(name), shape)
    assert "\n" not in str(error.value)


def test_a_teacher_that_runs_whole_alone_and_scores_of_a_decoder_are_refused():
    with pytest.raises(ValueError, match="a roformer cannot be sliced; raydistill ls models lists the packed"):
        sliced_student(model_of("roformer"), HALF)
    scores = Scores(torch.ones(3, 2), torch.ones(3, 24))
    with pytest.raises(ValueError, match="the model is a llama; heads and neurons can be pruned of"):
        sliced_student(model_of("llama"), HALF, scores=scores)

"""Shared layers: the published values, and what holds of every plan."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertModel

from raydistill.batch import collate
from raydistill.models import layer_plan
from raydistill.models.blocks import blocks_of
from raydistill.models.checks import num_parameters
from raydistill.models.layer_selection import student_from_layers
from raydistill.models.load import head_of, load_model, save_model
from raydistill.models.predictions import predict
from raydistill.models.unrolled import save_unrolled, unrolled
from toys.checkpoint import toy_tokenizer
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.families import toy_gpt2
from toys.models import parameter_gradients

IDS = [[2, 7, 9, 11, 3, 0, 0, 0], [2, 21, 5, 30, 8, 14, 3, 0], [2, 4, 6, 3, 0, 0, 0, 0]]
SEGMENTS = [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0, 0, 0]]


def published_model(num_layers, plan=None):
    """The specification's configuration C with weights filled by F."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config).eval()
    named = sorted((name, p) for name, p in model.named_parameters() if name.startswith("bert."))
    with torch.no_grad():
        for number, (name, parameter) in enumerate(named):
            drawn = np.random.RandomState(1000 + number).standard_normal(parameter.numel())
            value = torch.tensor((0.15 * drawn).astype(np.float32)).view_as(parameter)
            parameter.copy_(value + 1 if name.endswith("LayerNorm.weight") else value)
    if plan is not None:
        layer_plan.set_plan(model.config, layer_plan.make_plan(plan, num_layers))
    return model


def published_batch():
    rows = [np.array([token for token in row if token]) for row in IDS]
    batch = collate(rows, range(3), pad_id=0)
    types = torch.tensor(SEGMENTS)[:, : batch["input_ids"].shape[1]].flatten()[batch["token_index"]]
    return batch.with_columns(token_types=types)


ORIGINAL_6 = [-0.73608, -0.56425, -0.50342, -1.23784, -1.24933, -0.35411]
SWAPPED_6 = [-0.71214, -0.77776, -0.70603, -1.37498, -1.29164, -0.31031]
PUBLISHED = [
    # Run on the published modules: R1's for SPS, HEAD's for the last two.
    (1, "original", [-0.718786, -0.191350, 0.776879, -0.230897], ORIGINAL_6[:1]),
    (1, "sps", [-0.687341, -0.250394, 0.904258, 0.180354], [-0.73608, -0.88605]),
    (1, "sps_no_shuffle", [-0.700500, -0.287822, 0.922270, -0.065604], [-0.73608, -0.83971]),
    (2, "original", [-0.182282, 0.110145, 0.878388, -0.353044], ORIGINAL_6[:2]),
    (2, "sps_no_shuffle", [-0.895283, 0.781160, 0.725007, -0.858328], [-0.73608, -0.56425, -0.54459, -0.79963]),
    (3, "original", [-0.021282, -0.586240, -0.563608, 0.799252], ORIGINAL_6[:3]),
    (3, "sps", [0.372358, -0.787481, -0.389069, 0.748002], [*ORIGINAL_6[:3], -0.88156, -0.63061, -0.32134]),
    (6, "original", [0.200372, -0.902095, 0.695670, 0.829096], ORIGINAL_6),
    (6, "sps_no_shuffle", [0.285327, -0.508837, 0.243148, 0.581083], [*ORIGINAL_6, 0.70273, 1.15559, 0.67081]),
    (
        6,
        "stochastic",
        [0.642963, -0.631671, -0.631376, 0.764444],
        [*ORIGINAL_6, -0.05641, 0.01435, 0.31532, -0.24728, 0.17693, 0.70562],
    ),
    (
        6,
        "all_shuffled",
        [0.577570, -0.641761, -0.731909, 0.740802],
        [*SWAPPED_6, -0.09464, 0.00507, 0.10152, -0.51237, -0.06507, 0.62389],
    ),
]


@pytest.mark.parametrize(("num_layers", "plan", "pooled", "states"), PUBLISHED)
def test_published_values_of_every_depth(num_layers, plan, pooled, states):
    model = published_model(num_layers, plan)
    prediction = predict(model, published_batch(), head="sequence_classification", with_states=True)
    last = model.bert.pooler(prediction.pooled_states(len(states)).unsqueeze(1))[0, :4].tolist()
    firsts = [prediction.pooled_states(depth + 1)[0, 0].item() for depth in range(len(states))]
    assert len(prediction.states) == len(states) + 1
    # Half of the last printed digit, and what a float32 sum over the width of 32 is rounded by at values near 1.
    rounding = 32 * torch.finfo(torch.float32).eps / 2
    assert last == pytest.approx(pooled, abs=0.5e-6 + rounding)
    assert firsts == pytest.approx(states, abs=0.5e-5 + rounding)


def test_named_plans_repeat_blocks_as_published():
    as_text = {name: layer_plan.shown(layer_plan.make_plan(name, 3)) for name in layer_plan.NAMES}
    assert as_text == {
        "original": "0 1 2",
        "sps": "0 1 2 0* 1* 2*",
        "sps_no_shuffle": "0 1 2 0 1 2",
        "sps2": "0 1 2 0* 1* 2*",
        "all_shuffled": "0* 1* 2* 0* 1* 2*",
        "lower_shuffled": "0* 1* 2* 0 1 2",
        "adjacent": "0 0 1 1 2 2",
        "adjacent_shuffled": "0 0* 1 1* 2 2*",
        "adjacent_all_shuffled": "0* 0* 1* 1* 2* 2*",
        "palindrome": "0 1 2 2* 1* 0*",
        "stochastic": "0? 1? 2? 0? 1? 2?",
    }


def test_six_blocks_repeat_three_alone_unless_told_otherwise():
    shown = {name: layer_plan.shown(layer_plan.make_plan(name, 6))[12:] for name in ("sps", "sps_no_shuffle", "sps2")}
    assert shown == {"sps": "3* 4* 5*", "sps_no_shuffle": "3 4 5", "sps2": "0* 1* 2*"}
    assert len(layer_plan.make_plan("sps", 6, half_of_six=False)) == 12


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("spss", "layer_plan is 'spss'; did you mean 'sps'"),
        ([], "layer_plan is empty"),
        ([[3, False]], "layer_plan has block 3; the student has blocks 0 to 2"),
        ([[0, "maybe"]], "layer_plan has .*'maybe'.*; write"),
        ([0, 1], "layer_plan has 0; write"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_in_one_line(value, message):
    with pytest.raises(ValueError, match=message) as caught:
        layer_plan.make_plan(value, 3)
    assert "\n" not in str(caught.value)


def planned(plan, name="bert_classes", num_layers=3, **options):
    model = CLASSIFIERS[name](num_layers, **options)
    layer_plan.set_plan(model.config, layer_plan.make_plan(plan, num_layers))
    return model


def test_exchanged_query_and_key_transpose_the_scores():
    model = planned([[0, False], [0, True]], num_layers=1).eval()
    attention = model.bert.encoder.layer[0].attention.self
    states = torch.randn(1, 5, 16, dtype=torch.float64)
    scores = []

    def of_scores():
        heads = [part(states).view(5, 2, 8).transpose(0, 1) for part in (attention.query, attention.key)]
        return heads[0] @ heads[1].mT

    scores.append(of_scores())
    with layer_plan.exchanged(model.bert.encoder.layer[0], blocks_of(model).QUERY_AND_KEY):
        scores.append(of_scores())
    torch.testing.assert_close(scores[1], scores[0].mT)
    assert (scores[1] - scores[0]).abs().max() > 1e-2
    torch.testing.assert_close(of_scores(), scores[0])


def test_an_exchange_ends_with_its_block_even_when_the_block_fails():
    model = planned("all_shuffled", num_layers=1).eval()
    before = list(model.state_dict())
    attention = model.bert.encoder.layer[0].attention.self
    query = attention.query
    attention.value.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(model, toy_labelled_batch("classes"), head="sequence_classification")
    assert attention.query is query
    assert list(model.state_dict()) == before


def test_hooks_of_query_and_key_fire_in_every_run_of_a_block():
    model = planned("sps", num_layers=2).eval()
    called = []
    for number, layer in enumerate(model.bert.encoder.layer):
        for part in ("query", "key"):
            module = getattr(layer.attention.self, part)
            module.register_forward_pre_hook(lambda *_, name=f"{part} {number}": called.append(name))
    predict(model, toy_labelled_batch("classes"), head="sequence_classification")
    assert called == ["query 0", "key 0", "query 1", "key 1", "key 0", "query 0", "key 1", "query 1"]


def test_both_runs_of_a_block_add_to_its_gradient():
    model = planned("sps", num_layers=2)
    apart = unrolled(model).train()
    batch = toy_labelled_batch("classes")
    found, copies = (
        parameter_gradients(predict(one, batch, head="sequence_classification").logits.square().sum(), one)
        for one in (model, apart)
    )
    layer = "bert.encoder.layer"
    for own, exchanged in (("query", "key"), ("key", "query"), ("value", "value")):
        expected = copies[f"{layer}.0.attention.self.{own}.weight"]
        expected = expected + copies[f"{layer}.2.attention.self.{exchanged}.weight"]
        torch.testing.assert_close(found[f"{layer}.0.attention.self.{own}.weight"], expected)


@pytest.mark.parametrize("plan", ["sps", "adjacent_shuffled", "palindrome", [[2, True], [0, False], [2, False]]])
@pytest.mark.parametrize("name", ["bert_classes", "roberta_classes", "distilbert_classes"])
def test_an_unrolled_model_has_the_same_logits_in_plain_transformers(name, plan):
    model = planned(plan, name).eval()
    batch = toy_labelled_batch("classes")
    made = unrolled(model)
    outputs = made(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long())
    expected = predict(model, batch, head="sequence_classification").logits
    torch.testing.assert_close(outputs.logits, expected, atol=1e-12, rtol=0)
    assert made.config.num_hidden_layers == layer_plan.num_steps(model.config)
    assert not hasattr(made.config, layer_plan.KEY)
    assert head_of(made) == "sequence_classification"


def test_a_checkpoint_keeps_its_plan_and_plain_transformers_runs_its_unrolled_copy(tmp_path):
    model = planned("sps", dtype=torch.float32).eval()
    save_model(model, toy_tokenizer(), tmp_path / "student")
    again = load_model(tmp_path / "student", head="sequence_classification")
    assert layer_plan.plan_of(again.config) == layer_plan.make_plan("sps", 3)
    assert again.config.num_hidden_layers == 3
    batch = toy_labelled_batch("classes")
    expected = predict(model, batch, head="sequence_classification").logits
    torch.testing.assert_close(predict(again, batch, head="sequence_classification").logits, expected)

    assert save_unrolled(tmp_path / "student", tmp_path / "plain") == layer_plan.make_plan("sps", 3)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].long()}
    found, shallow = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / folder)(**inputs).logits
        for folder in ("plain", "student")
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # What the unrolled copy is for: without it the blocks run once.
    assert (shallow - expected).abs().max() > 1e-2


def test_a_checkpoint_without_a_plan_needs_no_unrolled_copy(tmp_path):
    save_model(CLASSIFIERS["bert_classes"](1, dtype=torch.float32), toy_tokenizer(), tmp_path / "student")
    assert save_unrolled(tmp_path / "student", tmp_path / "plain") is None
    assert not (tmp_path / "plain").exists()


def test_a_plan_adds_no_parameters():
    config = BertConfig(num_hidden_layers=3)
    layer_plan.set_plan(config, layer_plan.make_plan("sps", 3))
    with torch.device("meta"):
        encoder = BertModel(config)
    # The published count of a BERT-base encoder of three layers, with embeddings and pooler.
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 45_691_392
    config.num_labels = 2
    assert num_parameters(config, head="sequence_classification") == 45_691_392 + 1_538


def test_drawn_blocks_are_exchanged_in_odd_steps_of_training_alone():
    model = planned("stochastic")
    by_step = [
        predict(model, toy_labelled_batch("classes", step=step), head="sequence_classification").logits
        for step in range(8)
    ]
    plain = predict(planned("sps_no_shuffle"), toy_labelled_batch("classes"), head="sequence_classification").logits
    differs = [bool((logits - plain).abs().max() > 1e-6) for logits in by_step]
    assert not any(differs[::2])
    assert any(differs[1::2])
    again = predict(model, toy_labelled_batch("classes", step=3), head="sequence_classification").logits
    torch.testing.assert_close(again, by_step[3], atol=0, rtol=0)
    model.eval()
    for step in range(8):
        logits = predict(model, toy_labelled_batch("classes", step=step), head="sequence_classification").logits
        torch.testing.assert_close(logits, plain, atol=0, rtol=0)


def test_a_drawn_block_is_exchanged_in_both_of_its_runs_or_in_none():
    plan = layer_plan.make_plan("stochastic", 4)
    for step in range(1, 40, 2):
        steps = layer_plan.plain(plan, layer_plan.drawn_blocks(4, seed=0, step=step))
        assert steps[:4] == steps[4:]
    counts = [len(layer_plan.drawn_blocks(4, seed=0, step=step)) for step in range(1, 400, 2)]
    # Half of 4 blocks in 200 steps; the standard deviation of the mean is 0.07.
    assert np.mean(counts) == pytest.approx(2, abs=0.3)


def test_a_family_without_plans_is_refused():
    model = toy_gpt2(2)
    layer_plan.set_plan(model.config, layer_plan.make_plan("sps", 2))
    with pytest.raises(ValueError, match="layer_plan is set, but the model is a gpt2"):
        blocks_of(model)


def test_a_student_of_other_blocks_does_not_take_over_a_plan():
    teacher = planned("sps").eval()
    student = student_from_layers(teacher, architecture=None, layers=[0, 2], vocab_transform=False)
    assert layer_plan.plan_of(student.config) is None
    assert layer_plan.plan_of(copy.deepcopy(teacher).config) is not None

"""Pruned models: the published values, and what holds of every family and width."""

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from raydistill.methods._unit_scores import row_gradients
from raydistill.models import layer_plan
from raydistill.models.checks import num_parameters
from raydistill.models.importance import EXPRESSIVENESS, Scores, ScoreSums, normalized
from raydistill.models.kept_units import KEY, KeptUnits, head_size, kept_of, num_neurons
from raydistill.models.load import load_config, load_model, save_model
from raydistill.models.predictions import predict
from raydistill.models.pruning import check_levels, kept_units, pruned, removed_counts
from raydistill.models.restored import restored, save_restored
from raydistill.models.small_shapes import shrink
from toys.checkpoint import toy_tokenizer
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.stark import head_and_neuron_masks, published_batch, published_model

LEVELS = tuple(range(0, 100, 10))
"""Published levels of sparsity, in percent of the units."""
HEAD = "sequence_classification"
FAMILIES = ["bert_classes", "roberta_classes", "distilbert_classes"]
PRINTED = 0.5e-6 + 3e-7
"""Half of the last printed digit, and what float32, in which the published values were run, rounds these models by."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published model and its normalized scores."""
    model = published_model(tmp_path_factory.mktemp("published"))
    sums = ScoreSums(score_batch_size=32)
    sums.add(row_gradients(model, published_batch(), head=HEAD)[EXPRESSIVENESS], torch.arange(3))
    return model, normalized(sums.scores())


def reordered(model, scores):
    """A copy of a model whose units stand by descending score in each block, as the published code has them."""
    heads, neurons = (
        tuple(map(tuple, part.sort(dim=-1, descending=True, stable=True).indices.tolist()))
        for part in (scores.heads, scores.neurons)
    )
    made = copy.deepcopy(model).eval()
    shrink(made, KeptUnits(heads, neurons))
    return made


def logits_of(model, batch=None):
    with torch.no_grad():
        return predict(model, batch or toy_labelled_batch("classes"), head=HEAD).logits


@pytest.mark.parametrize(
    ("level", "heads", "neurons"),
    [
        (0, [0, 0], [0, 0]),
        (10, [0, 1], [6, 7]),
        (20, [1, 1], [10, 16]),
        (30, [1, 1], [17, 21]),
        (40, [2, 1], [23, 28]),
        (50, [3, 1], [29, 35]),
        (60, [3, 2], [39, 38]),
        (70, [3, 3], [46, 44]),
        (80, [3, 3], [52, 50]),
        (90, [3, 4], [58, 57]),
    ],
)
def test_published_map_of_sparsity(published, level, heads, neurons):
    _, scores = published
    assert removed_counts(scores.heads, level) == heads
    assert removed_counts(scores.neurons, level) == neurons


@pytest.mark.parametrize(
    ("level", "widths", "neurons", "logits"),
    [
        (10, [32, 24], [56, 56], [0.271829, 0.203269, 0.452672, 0.180791, 0.219625, 0.210750]),
        (20, [24, 24], [56, 48], [0.205746, 0.251484, 0.326494, 0.145813, 0.173608, 0.246055]),
        (30, [24, 24], [48, 40], [0.213286, 0.318769, 0.317223, 0.153686, 0.155877, 0.304131]),
        (50, [8, 24], [32, 32], [0.044691, -0.007616, 0.087864, -0.024333, 0.017543, 0.106560]),
        (60, [8, 16], [24, 24], [0.256970, 0.051094, 0.296606, 0.133703, 0.254789, 0.148988]),
        (70, [8, 8], [16, 16], [0.178154, 0.217203, 0.303420, 0.288583, 0.216266, 0.273108]),
        (80, [8, 8], [16, 16], [0.178154, 0.217203, 0.303420, 0.288583, 0.216266, 0.273108]),
    ],
)
def test_published_widths_and_logits(published, level, widths, neurons, logits):
    model, scores = published
    made = pruned(model, kept_units(scores, level, head_size=8, multiple_of=8))
    layers = made.bert.encoder.layer
    assert [layer.attention.self.query.out_features for layer in layers] == widths
    assert [layer.intermediate.dense.out_features for layer in layers] == neurons
    assert logits_of(made, published_batch()).flatten().tolist() == pytest.approx(logits, abs=PRINTED)
    # As published: the units in the order of their scores, of which the first are kept.
    in_order = pruned(
        reordered(model, scores),
        KeptUnits(tuple(tuple(range(width // 8)) for width in widths), tuple(tuple(range(n)) for n in neurons)),
    )
    torch.testing.assert_close(
        logits_of(in_order, published_batch()), logits_of(made, published_batch()), atol=1e-12, rtol=0
    )


def test_published_logits_with_the_heads_of_a_block_masked_and_removed(published):
    model, _ = published
    heads = torch.tensor([[1.0] * 4, [0.0] * 4], dtype=torch.float64)
    with head_and_neuron_masks(model, heads=heads):
        masked = logits_of(model, published_batch())
    expected = [[0.322739, 0.439031], [0.507512, 0.477661], [0.316384, 0.456763]]
    assert masked.tolist() == [pytest.approx(row, abs=PRINTED) for row in expected]
    removed = logits_of(pruned(model, KeptUnits(((0, 1, 2, 3), ()), (tuple(range(64)),) * 2)), published_batch())
    expected = [[0.264496, 0.418501], [0.441148, 0.472393], [0.262853, 0.442861]]
    assert removed.tolist() == [pytest.approx(row, abs=PRINTED) for row in expected]


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        ((12, 12), [0, 14, 29, 43, 58, 72, 86, 101, 115, 130]),
        ((12, 3072), [0, 3686, 7373, 11059, 14746, 18432, 22118, 25805, 29491, 33178]),
        ((24, 16), [0, 38, 77, 115, 154, 192, 230, 269, 307, 346]),
    ],
)
def test_published_totals_of_every_level(shape, counts):
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert [sum(removed_counts(scores, level)) for level in LEVELS] == counts


@pytest.mark.parametrize(
    ("removed", "width"),
    [(4, 0), (5, 8), (11, 8), (12, 16), (13, 16), (19, 16), (20, 16), (21, 24), (28, 32), (36, 32)],
)
def test_removed_widths_are_rounded_to_multiples_of_8_as_published(removed, width):
    scores = Scores(torch.ones(1, 2), torch.ones(1, 100))
    kept = kept_units(scores, removed, multiple_of=8, head_size=8)
    assert 100 - kept.num_neurons == width
    assert 100 - kept_units(scores, removed).num_neurons == removed


def test_a_sub_layer_of_less_than_a_multiple_is_removed_and_a_head_is_never_cut():
    kept = kept_units(Scores(torch.ones(1, 8), torch.ones(1, 100)), 95, multiple_of=8, head_size=16)
    assert kept.neurons == ((),)
    with pytest.raises(ValueError, match="heads are 12 wide, and multiples of 8 would cut one in two"):
        kept_units(Scores(torch.ones(1, 8), torch.ones(1, 8)), 15, multiple_of=8, head_size=12)


def test_equal_scores_are_ranked_by_block_and_number():
    kept = kept_units(Scores(torch.zeros(2, 4), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])), 50)
    assert kept.heads == ((), (0, 1, 2, 3))
    assert kept.neurons == ((0, 2), (2,))
    assert kept_units(Scores(torch.zeros(1, 4), torch.zeros(1, 2)), 25).heads == ((0, 1, 2),)


def toy_kept(model, *, heads=((1,), (0,), ()), seed=0):
    """A few units of each of three blocks; no head of the third, no neuron of the second."""
    generator = torch.Generator().manual_seed(seed)
    size = num_neurons(model.config)
    some = [tuple(sorted(torch.randperm(size, generator=generator)[:5].tolist())) for _ in range(2)]
    return KeptUnits(heads, (some[0], (), some[1]))


def masks_of(model, kept):
    heads = torch.zeros(len(kept.heads), model.config.num_attention_heads, dtype=torch.float64)
    neurons = torch.zeros(len(kept.neurons), num_neurons(model.config), dtype=torch.float64)
    for masks, units in ((heads, kept.heads), (neurons, kept.neurons)):
        for number, block in enumerate(units):
            masks[number, list(block)] = 1
    return {"heads": heads, "neurons": neurons}


@pytest.mark.parametrize("hidden_size", [16, 12, 26])
@pytest.mark.parametrize("name", FAMILIES)
def test_removed_units_are_those_masked_to_zero_and_removed_sub_layers_lose_their_bias(name, hidden_size):
    model = CLASSIFIERS[name](3, hidden_size=hidden_size).eval()
    kept = toy_kept(model)
    small = pruned(model, kept)
    found = logits_of(small)
    with head_and_neuron_masks(model, **masks_of(model, kept)):
        with_biases = logits_of(model)
        blocks = model.base_model.transformer.layer if "distil" in name else model.base_model.encoder.layer
        outputs = (
            (blocks[2].attention.out_lin, blocks[1].ffn.lin2)
            if "distil" in name
            else (blocks[2].attention.output.dense, blocks[1].output.dense)
        )
        with torch.no_grad():
            for output in outputs:
                output.bias.zero_()
        without = logits_of(model)
    torch.testing.assert_close(found, without, atol=1e-12, rtol=0)
    assert (found - with_biases).abs().max() > 1e-3
    assert num_parameters(small.config, head=HEAD) == sum(part.numel() for part in small.parameters())
    assert num_parameters(small.config, head=HEAD) < num_parameters(model.config, head=HEAD)
    plain = small(
        input_ids=(batch := toy_labelled_batch("classes"))["input_ids"], attention_mask=batch["attention_mask"]
    )
    torch.testing.assert_close(plain.logits, found, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_order_of_units_does_not_matter(name):
    model = CLASSIFIERS[name](2).eval()
    generator = torch.Generator().manual_seed(1)
    scores = Scores(*(torch.rand(2, size, generator=generator) for size in (2, num_neurons(model.config))))
    made = reordered(model, scores)
    torch.testing.assert_close(logits_of(made), logits_of(model), atol=1e-12, rtol=0)
    assert any(not torch.equal(one, other) for one, other in zip(made.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pruned_checkpoint_reopens_small_and_plain_transformers_runs_its_full_copy(name, dtype, tmp_path):
    model = CLASSIFIERS[name](3, dtype=torch.float32).to(dtype)
    made = pruned(model, toy_kept(model))
    save_model(made, toy_tokenizer(), tmp_path / "small")
    again = load_model(tmp_path / "small", head=HEAD, dtype=dtype)
    assert kept_of(again.config) == kept_of(load_config(tmp_path / "small")) == toy_kept(model)
    assert again.state_dict().keys() == made.state_dict().keys()
    torch.testing.assert_close(logits_of(again), logits_of(made), atol=0, rtol=0)
    # What training does to keep its student.
    again.load_state_dict(made.state_dict())

    # Blocks without their heads would be drawn at random.
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert save_restored(tmp_path / "small", tmp_path / "full") == toy_kept(model)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "full", dtype=torch.float32).eval()
    batch = toy_labelled_batch("classes")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].long()}
    expected = logits_of(load_model(tmp_path / "small", head=HEAD))
    torch.testing.assert_close(plain(**inputs).logits, expected, atol=1e-5, rtol=0)
    assert not hasattr(plain.config, KEY)
    assert sum(part.numel() for part in plain.parameters()) == sum(part.numel() for part in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_restored_model_has_zeros_where_units_were_and_equal_logits(name):
    model = CLASSIFIERS[name](3).eval()
    kept = toy_kept(model)
    made = restored(pruned(model, kept))
    torch.testing.assert_close(logits_of(made), logits_of(pruned(model, kept)), atol=1e-12, rtol=0)
    before, after = model.state_dict(), made.state_dict()
    assert before.keys() == after.keys()
    for key, tensor in after.items():
        # In place: what is not zero is what it was.
        assert torch.equal(torch.where(tensor == 0, before[key], tensor), before[key]), key
    assert any(bool((tensor == 0).any()) for tensor in after.values())


def test_a_checkpoint_that_is_not_pruned_needs_no_full_copy(tmp_path):
    model = CLASSIFIERS["bert_classes"](1, dtype=torch.float32)
    save_model(model, toy_tokenizer(), tmp_path / "model")
    assert save_restored(tmp_path / "model", tmp_path / "full") is None
    assert not (tmp_path / "full").exists()
    torch.testing.assert_close(logits_of(restored(model)), logits_of(model.eval()), atol=0, rtol=0)


def test_a_pruned_model_with_other_classes_gets_a_new_head_alone(tmp_path):
    model = CLASSIFIERS["bert_classes"](3, dtype=torch.float32)
    made = pruned(model, toy_kept(model))
    save_model(made, toy_tokenizer(), tmp_path)
    again = load_model(tmp_path, head=HEAD, labels=["a", "b"], allow_new_head=True, seed=3)
    assert again.classifier.weight.shape == (2, 16)
    assert torch.equal(again.bert.encoder.layer[0].output.dense.weight, made.bert.encoder.layer[0].output.dense.weight)
    with pytest.raises(ValueError, match="classes"):
        load_model(tmp_path, head=HEAD, labels=["a", "b"])


def test_every_parameter_of_a_pruned_model_learns():
    model = pruned(CLASSIFIERS["bert_classes"](3), toy_kept(CLASSIFIERS["bert_classes"](3))).train()
    predict(model, toy_labelled_batch("classes"), head=HEAD).logits.square().sum().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not idle
    assert all(parameter.numel() for parameter in model.parameters())


def test_what_cannot_be_pruned_is_refused_in_one_line():
    model = CLASSIFIERS["bert_classes"](3)
    kept = toy_kept(model)
    refusals = [
        (lambda: pruned(pruned(model, kept), kept), "the model is already pruned; choose the checkpoint"),
        (lambda: pruned(CLASSIFIERS["gpt2_classes"](3), kept), "the model is a gpt2"),
        (lambda: pruned(CLASSIFIERS["bert_classes"](2), kept), "has heads of 3 blocks, the model has 2"),
        (lambda: pruned(model, KeptUnits(((0, 2), (), ()), kept.neurons)), "not ascending numbers below 2"),
        (lambda: check_levels([]), "levels is empty"),
        (lambda: check_levels([0, 100]), "levels has 100; a sparsity is in percent"),
        (lambda: check_levels([-1]), "levels has -1; a sparsity is in percent"),
        (lambda: check_levels([10, 20, 10]), "levels has 10 twice"),
        (lambda: check_levels(["10"]), "levels has '10'; a sparsity is in percent"),
    ]
    for refused, message in refusals:
        with pytest.raises(ValueError, match=message) as caught:
            refused()
        assert "\n" not in str(caught.value)
    shared = CLASSIFIERS["bert_classes"](3)
    layer_plan.set_plan(shared.config, layer_plan.make_plan("sps", 3))
    with pytest.raises(ValueError, match="layer_plan"):
        pruned(shared, kept)


def test_copies_are_in_evaluation_mode_and_leave_the_generator_alone():
    model = CLASSIFIERS["bert_classes"](3).train()
    small = pruned(model, toy_kept(model))
    before = torch.random.get_rng_state()
    whole, same = restored(small.train()), restored(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same is not model
    assert (whole.training, same.training, model.training) == (False, False, True)
    assert not pruned(model, toy_kept(model)).training


@pytest.mark.parametrize(
    ("heads", "neurons", "message"),
    [
        ([[0], [0]], ["000001"] * 2, "has heads of 2 blocks, the model has 3; prune it again"),
        ([[0], [0], [2]], ["000001"] * 3, "has heads that are not ascending numbers below 2; prune the model again"),
        ([[0], [0], [1, 0]], ["000001"] * 3, "has heads that are not ascending numbers below 2"),
        ([[0], [0], [0]], ["1000000"] * 3, "is damaged; fetch the checkpoint again"),
    ],
)
def test_a_record_that_does_not_fit_the_model_is_told(heads, neurons, message):
    config = BertConfig(num_hidden_layers=3, num_attention_heads=2, hidden_size=16, intermediate_size=24)
    setattr(config, KEY, {"heads": heads, "neurons": neurons})
    with pytest.raises(ValueError, match=message):
        kept_of(config)


@pytest.mark.parametrize("record", [{"heads": [[0], [0], [0]]}, {"heads": [[0]], "neurons": ["zz"]}, "all", {}])
def test_a_damaged_record_is_told(record):
    config = BertConfig(num_hidden_layers=3, num_attention_heads=2, hidden_size=16, intermediate_size=24)
    setattr(config, KEY, record)
    with pytest.raises(ValueError, match="raydistill_kept in the model's configuration is damaged"):
        kept_of(config)
    assert head_size(config) == 8
